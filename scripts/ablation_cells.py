"""What of the paper's ablation scripts/ablation_study.py measures, and what it says of each of the paper's findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from embedded.measuring import FAST, LIMITED, ReadSetting, Setting
from fidelity_cells import COSINE, PATH, Cell, Estimate, gain
from tables import markdown

CAPTION, INVERSION_2, INVERSION_1, PLAIN = (
    "reading/caption", "reading/inversion 2", "reading/inversion 1", "published/k = 16",
)  # fmt: skip
# A change of less than this is little: of the 64 pixels that a clip is wide, and of a cosine.
LITTLE = {COSINE.key: 0.05, PATH.key: 1.5}
REPRODUCED, REFUTED, OPEN = "reproduced", "**refuted**", "open"


def cells() -> dict[str, Setting]:
    """Every cell by name; those of `fidelity.cells` that they are held against have the same references and noise."""
    read = ReadSetting(**asdict(FAST), caption=True)
    return {
        CAPTION: read,
        INVERSION_2: replace(read, inversion=2),
        INVERSION_1: replace(read, inversion=1),
        PLAIN: replace(LIMITED, k=16),
    }


@dataclass(frozen=True)
class Finding:
    """One of the paper's findings, as two cells show it.

    Attributes:
        text: what the paper finds.
        compared: which two, in words.
        one, other: names of the cells.
        little: it says that the two differ little; otherwise that the one is better.
    """

    text: str
    compared: str
    one: str
    other: str
    little: bool = False


_K, _T, _BLOCK = "small k beats large k", "t_alpha 400 beats 800", "up_blocks.1 is the best block"
_PROMPT, _INVERSION = "a precise prompt changes little", "inversion changes little"
FAST_CELL, GUIDED = "fast/fast", "main/guided"
FINDINGS = (
    Finding(_K, "k = 1, 16; published rule, 100 steps", GUIDED, PLAIN),
    Finding(_K, "k = 1, 16; published rule, 30 steps", "fast/published weight", "fast/published weight, plain control"),
    Finding(_K, "k = 1, 16; `fast`: an equal push", "k/1", "fast/plain control"),
    Finding(_T, "t_alpha = 400, 800; `fast`", FAST_CELL, "t_alpha/800"),
    *(
        Finding(_BLOCK, f"up_blocks.1, {block}; `fast`", FAST_CELL, f"block/{block}")
        for block in ("down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.2")
    ),
    Finding(_PROMPT, "the reference's caption, none; `fast`", CAPTION, FAST_CELL, little=True),
    Finding(_INVERSION, "Inversion 2, noise; both with the caption; `fast`", INVERSION_2, CAPTION, little=True),
    Finding(_INVERSION, "Inversion 1, noise; both with the caption; `fast`", INVERSION_1, CAPTION, little=True),
)


def findings(measured: Mapping[str, Cell]) -> str:
    """A table: every finding whose cells are measured, the first of two less the second, and whether it holds."""
    heads = ["the paper finds", "compared", "path error, px", "velocity cosine", "here", "references", "clips"]
    rows = []
    for finding in FINDINGS:
        if finding.one in measured and finding.other in measured:
            one, other = shared(measured[finding.one], measured[finding.other])
            if one.rows:
                rows.append(_entries(finding, one, other))
    return markdown(heads, rows) if rows else ""


def shared(one: Cell, other: Cell) -> tuple[Cell, Cell]:
    """Both over the clips that both have, in one order."""
    pairs = one.record.done & other.record.done
    return _over(one, pairs), _over(other, pairs)


def _over(cell: Cell, pairs: set[tuple[int, int]]) -> Cell:
    rows = sorted((row for row in cell.rows if (row["case"], row["seed"]) in pairs), key=_place)
    return replace(cell, record=replace(cell.record, rows=tuple(rows)))


def _place(row: Mapping[str, float]) -> tuple[float, float]:
    return row["case"], row["seed"]


def _entries(finding: Finding, one: Cell, other: Cell) -> Iterator[str]:
    yield from (finding.text, finding.compared)
    found = [gain(one, other, column) for column in (PATH, COSINE)]
    yield from (estimate.text for estimate in found)
    yield _verdict(finding, found)
    yield from (str(len({row["case"] for row in one.rows})), str(len(one.rows)))


def _verdict(finding: Finding, found: Sequence[Estimate]) -> str:
    path, cosine = found
    if finding.little:
        said = [_is_little(path, LITTLE[PATH.key]), _is_little(cosine, LITTLE[COSINE.key])]
    else:
        said = [_is_above(-path.mean, path.error), _is_above(cosine.mean, cosine.error)]
    if len(set(said)) == 1:
        return said[0]
    by_path, by_cosine = said
    return f"{by_path} by the path error, {by_cosine} by the cosine"


def _is_above(mean: float, error: float) -> str:
    """Whether a gain is one by two standard errors, or a loss."""
    return REPRODUCED if mean >= 2 * error else REFUTED if mean <= -2 * error else OPEN


def _is_little(estimate: Estimate, bound: float) -> str:
    """Whether a change is within a bound, by two standard errors."""
    size, spread = abs(estimate.mean), 2 * estimate.error
    return REPRODUCED if size + spread <= bound else REFUTED if size - spread > bound else OPEN


Table = Callable[[Sequence[Cell], str], str]


def section(measured: Mapping[str, Cell], table: Table) -> str:
    """The part of docs/FIDELITY.md; empty if none of `cells` is measured.

    Args:
        measured: the cells of this and of `fidelity.cells`, by name.
        table: writes one of cells.
    """
    own = {name: cell for name, cell in measured.items() if name in cells()}
    if not own:
        return ""
    beside = {FAST_CELL: CAPTION, GUIDED: PLAIN}
    shown = [
        replace(shared(measured[name], own[of])[0], name=f"ablation/{title}")
        for (name, of), title in zip(beside.items(), ("no caption, noise", "k = 1, published rule"), strict=True)
        if of in own and name in measured
    ]
    return "\n\n".join([_TEXT, findings(measured), _CELLS, table([*shown, *own.values()], "reading")])


_TEXT = f"""## What the paper's ablation finds

Each line holds two cells against each other, clip by clip: the first less the second, ± the standard error over the
references. A finding that one is better is *reproduced* where both measures say so by two standard errors, *refuted*
where both say the opposite by as much, and *open* in between. A change is *little* if two standard errors leave it
within {LITTLE[PATH.key]:g} pixels and {LITTLE[COSINE.key]:g} of the velocity cosine, and not so if they leave it beyond
them. The paper judges by eye, on other clips, and at a larger model."""
_CELLS = """The cells that no other section shows, by `scripts/ablation_study.py`. *Inversion 2* reads the inverted
latent nearest to t_alpha once, *Inversion 1* that nearest to each guided step; both invert in 100 steps under the
reference's own caption, which conditions the readings too. Beside them the same clips without any of it."""
