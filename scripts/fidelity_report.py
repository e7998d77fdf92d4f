"""Turns the cells that scripts/fidelity.py measured into docs/FIDELITY.md and its plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fidelity_store import Record, cell_path, read_record


@dataclass(frozen=True)
class Column:
    """One score in the tables: its name in the rows, its title, its unit's factor, and its digits."""

    key: str
    title: str
    factor: int
    digits: int

    def written(self, mean: float, spread: float, sign: str = "") -> str:
        """``mean ± spread``, both in the column's unit; a spread of nan is left out."""
        if np.isnan(mean):
            return "-"
        text = f"{mean:{sign}.{self.digits}f}"
        return text if np.isnan(spread) else f"{text} ± {spread:.{self.digits}f}"


PATH = Column("path_error", "path error, px", 1, 2)
COSINE = Column("velocity_cosine", "velocity cosine", 1, 3)
SHAPE = Column("shape", "shape, %", 100, 1)
COLOUR = Column("colour", "colour, %", 100, 1)
CONSISTENCY = Column("consistency", "temporal consistency", 1, 4)
COLUMNS = (
    PATH,
    COSINE,
    Column("seen", "seen, %", 100, 1),
    SHAPE,
    COLOUR,
    Column("ground", "ground, %", 100, 1),
    Column("fidelity", "motion fidelity", 1, 3),
    Column("frechet", "Fréchet, % of diagonal", 100, 2),
    Column("magnitude", "magnitude, % per frame", 100, 2),
    CONSISTENCY,
    Column("push", "push", 1, 4),
)
AXES = ("k", "t_alpha", "block", "weight", "steps", "steps, equal push", "sampler")


@dataclass(frozen=True)
class Cell:
    """The scores of one cell, one row a case and seed."""

    name: str
    record: Record

    @property
    def rows(self) -> Sequence[Mapping[str, float]]:
        return self.record.rows

    @property
    def setting(self) -> Mapping[str, Any]:
        """How the cell was sampled; empty for the ceiling."""
        return self.record.origin["setting"] or {}

    @property
    def limit(self) -> float | None:
        return self.setting.get("limit")

    @property
    def guided(self) -> bool:
        return self.setting.get("weight", 0.0) > 0

    @property
    def label(self) -> str:
        return self.name.split("/", 1)[1]

    def values(self, key: str) -> np.ndarray:
        """One score of every case; nan where it has no meaning."""
        return np.array([row[key] for row in self.rows], float)

    def mean(self, key: str) -> float:
        return _mean(self.values(key))

    def by_seed(self, key: str) -> list[float]:
        """The mean over the clips of each seed."""
        seeds = np.array([row["seed"] for row in self.rows])
        return [_mean(self.values(key)[seeds == seed]) for seed in np.unique(seeds)]

    def spread(self, key: str) -> float:
        """Standard deviation of the seeds' means; nan with fewer than two."""
        means = self.by_seed(key)
        return float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")

    def entry(self, column: Column) -> str:
        """One cell of a table."""
        return column.written(column.factor * self.mean(column.key), column.factor * self.spread(column.key))


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def read_cells(store: Path, shown: Mapping[str, str], model: str) -> dict[str, Cell]:
    """The cells that were measured with one model.

    Args:
        store: folder of the records.
        shown: names of the cells, and whose rows each of them shows.
        model: SHA-256 of the model's file.
    """
    records = {source: read_record(cell_path(store, source)) for source in set(shown.values())}
    return {
        name: Cell(name, record)
        for name, record in ((name, records[source]) for name, source in shown.items())
        if record is not None and record.rows and record.origin["model"] == model
    }


def table(cells: Sequence[Cell], first: str) -> str:
    """One line a cell: mean ± standard deviation of the seeds' means."""
    heads = [first, *(column.title for column in COLUMNS), "latents", "clips"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for cell in cells:
        entries = [cell.label, *(cell.entry(column) for column in COLUMNS), _extremes(cell), str(len(cell.rows))]
        lines.append("| " + " | ".join(entries) + " |")
    return "\n".join(lines)


def plot_main(cells: Sequence[Cell], path: Path) -> None:
    """How many clips stay within a path error, for every cell."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6))
    for cell in cells:
        for axis, key in zip(axes, ("path_error", "velocity_cosine"), strict=True):
            values = np.sort(cell.values(key)[~np.isnan(cell.values(key))])
            axis.plot(values, np.linspace(0, 100, len(values)), label=cell.label, lw=1.8)
    axes[0].set(xlabel="path error, pixels of 64", ylabel="clips at most there, %", xlim=(0, 40))
    axes[1].set(xlabel="velocity cosine", xlim=(-1, 1))
    axes[0].legend(frameon=False, fontsize=9)
    _save(figure, path)


def plot_sweep(axis_name: str, cells: Sequence[Cell], floor: Cell | None, path: Path) -> None:
    """Path error, velocity cosine and shape accuracy over one axis."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 2.9))
    labels = [cell.label for cell in cells]
    for axis, column in zip(axes, (PATH, COSINE, SHAPE), strict=True):
        means = [column.factor * cell.mean(column.key) for cell in cells]
        spreads = [column.factor * np.nan_to_num(cell.spread(column.key)) for cell in cells]
        axis.errorbar(range(len(cells)), means, spreads, marker="o", capsize=3, lw=1.5)
        if floor is not None:
            axis.axhline(column.factor * floor.mean(column.key), color="grey", ls="--", lw=1)
        axis.set(title=column.title, xticks=range(len(cells)))
        axis.set_xticklabels(labels, rotation=35 if max(map(len, labels)) > 4 else 0, ha="right", fontsize=8)
    figure.suptitle(f"{axis_name} (dashed: no guidance)", fontsize=10)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)


def write_report(page: Path, store: Path, shown: Mapping[str, str], model: str, latents: str) -> None:
    """Write the page and its plots from the cells in the store.

    Args:
        page: the Markdown file.
        store: folder of the records and the plots, beside or below the page.
        shown: names of the cells in their order, and whose rows each of them shows.
        model: SHA-256 of the model's file; records of other models are left out.
        latents: the range of the training clips' latents.
    """
    cells = read_cells(store, shown, model)
    of = {
        axis: [cell for name, cell in cells.items() if name.startswith(axis + "/")] for axis in ("main", "fast", *AXES)
    }
    parts = [_HEAD.format(facts="\n".join(f"- {fact}" for fact in _facts(cells.values(), model)), latents=latents)]
    if of["main"]:
        plot_main(of["main"], store / "main.png")
        parts += [_MAIN, table(of["main"], "cell"), _limited(of["main"])]
        parts += [f"![distributions]({_link(page, store)}/main.png)", _verdict(cells, latents)]
    if of["fast"]:
        parts += [_FAST, table(of["fast"], "cell"), _limited(of["fast"])]
    floor = cells.get("fast/no guidance")
    for axis in AXES:
        if of[axis]:
            plot = f"{axis.replace(', ', '_').replace(' ', '_')}.png"
            plot_sweep(axis, of[axis], floor, store / plot)
            parts += [f"## {_TITLES[axis]}", _NOTES[axis], table(of[axis], axis), _limited(of[axis])]
            parts += [f"![{axis}]({_link(page, store)}/{plot})"]
    page.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _facts(cells: Iterable[Cell], model: str) -> list[str]:
    records = [cell.record for cell in cells]
    runs = sorted({run for record in records for run in record.runs})
    precisions = sorted({record.origin["precision"] for record in records})
    done = {pair for record in records for pair in record.done}
    return [
        f"model: SHA-256 `{model}`",
        f"held-out references: {len({case for case, _ in done})}; seeds: {len({seed for _, seed in done})}",
        f"precision: {', '.join(precisions)}",
        *(f"measured on {run}" for run in runs),
    ]


def _link(page: Path, store: Path) -> str:
    return store.relative_to(page.parent).as_posix()


Answer = tuple[str, str, str, bool]  # what, what one would ask, what was measured, whether that is met


def _verdict(cells: Mapping[str, Cell], latents: str) -> str:
    """What one would ask of the method, and what was measured, in 100 steps and with ``fast``."""
    kinds = ("no guidance", "guided", "another clip's motion", "plain control")
    groups = [[f"main/{kind}" for kind in kinds], [f"fast/{kind.replace('guided', 'fast')}" for kind in kinds]]
    wanted = [name for group in groups for name in group]
    if any(name not in cells for name in wanted) or len({frozenset(cells[name].record.done) for name in wanted}) > 1:
        return "The comparison follows when these cells are measured over the same clips."
    columns = [_answers(*(cells[name] for name in group)) for group in groups]
    lines = [
        f"| {one[0]} | {one[1]} | {_marked(one)} | {_marked(other)} |" for one, other in zip(*columns, strict=True)
    ]
    pace = _pace(cells["main/guided"], cells["fast/fast"])
    lines += [f"| {answer[0]} | {answer[1]} | | {_marked(answer)} |" for answer in pace]
    lines += [f"| {answer[0]} | {answer[1]} | {_marked(answer)} | |" for answer in _of_all(cells, latents)]
    return "\n".join(["| | asked | 100 steps | `fast`, 30 steps |", "| --- | --- | --- | --- |", *lines])


def _marked(answer: Answer) -> str:
    return f"{answer[2]}, {'met' if answer[3] else '**not met**'}"


def _answers(floor: Cell, guided: Cell, control: Cell, plain: Cell) -> list[Answer]:
    ratio, cosine = guided.mean(PATH.key) / floor.mean(PATH.key), guided.mean(COSINE.key)
    return [
        ("path error, guided / unguided", "at most 0.35", f"{ratio:.3f}", ratio <= 0.35),
        ("velocity cosine, guided", "at least 0.80", guided.entry(COSINE), cosine >= 0.80),
        (
            "velocity cosine, another clip's motion less no guidance",
            "within 0.15",
            *_gain(control, floor, COSINE).within(0.15),
        ),
        ("shape, guided less unguided, points", "at least -5", *_gain(guided, floor, SHAPE).at_least(-5)),
        ("colour, guided less unguided, points", "at least -5", *_gain(guided, floor, COLOUR).at_least(-5)),
        ("velocity cosine, k = 1 less k = 16", "at least 0", *_gain(guided, plain, COSINE).at_least(0)),
        ("temporal consistency, guided less unguided", "at least 0", *_gain(guided, floor, CONSISTENCY).at_least(0)),
    ]


def _pace(published: Cell, fast: Cell) -> list[Answer]:
    return [
        ("path error, `fast` less 100 steps, px", "at most 0", *_gain(fast, published, PATH).at_most(0)),
        ("velocity cosine, `fast` less 100 steps", "at least 0", *_gain(fast, published, COSINE).at_least(0)),
    ]


def _of_all(cells: Mapping[str, Cell], latents: str) -> list[Answer]:
    low, high = (1.25 * float(bound) for bound in latents.split(" to "))
    outside, none = _outside(cells.values(), low, high), _not_numbers(cells.values())
    return [
        (f"clips of all cells with latents outside {low:.1f} to {high:.1f}", "0", str(outside), not outside),
        ("clips of all cells with NaN or infinity, and guided steps skipped for them", "0", str(none), not none),
    ]


@dataclass(frozen=True)
class Gain:
    """A difference of two cells in a column's unit, and the standard deviation of the seeds' differences."""

    mean: float
    text: str

    def at_least(self, bound: float) -> tuple[str, bool]:
        return self.text, self.mean >= bound

    def at_most(self, bound: float) -> tuple[str, bool]:
        return self.text, self.mean <= bound

    def within(self, bound: float) -> tuple[str, bool]:
        return self.text, abs(self.mean) <= bound


def _gain(a: Cell, b: Cell, column: Column) -> Gain:
    seeds = [x - y for x, y in zip(a.by_seed(column.key), b.by_seed(column.key), strict=True)]
    spread = column.factor * np.std(seeds, ddof=1) if len(seeds) > 1 else np.nan
    mean = column.factor * (a.mean(column.key) - b.mean(column.key))
    return Gain(mean, column.written(mean, spread, sign="+"))


def _outside(cells: Iterable[Cell], low: float, high: float) -> int:
    """Clips that leave a range, but for those that were guided without a limit."""
    cells = [cell for cell in _distinct(cells) if cell.limit or not cell.guided]
    return sum(int(((cell.values("low") < low) | (cell.values("high") > high)).sum()) for cell in cells)


def _not_numbers(cells: Iterable[Cell]) -> int:
    return sum(int(np.isnan(cell.values("low")).sum() + cell.values("skipped").sum()) for cell in _distinct(cells))


def _distinct(cells: Iterable[Cell]) -> Iterable[Cell]:
    """One cell of those that show the same rows."""
    return {id(cell.record): cell for cell in cells}.values()


def _extremes(cell: Cell) -> str:
    return f"{np.nanmin(cell.values('low')):.1f} to {np.nanmax(cell.values('high')):.1f}"


def _limited(cells: Sequence[Cell]) -> str:
    """What the limit of the push did, for the cells that have one."""
    lines = []
    for cell in cells:
        if cell.guided and cell.limit:
            steps = cell.setting["guided_steps"] * len(cell.rows)
            lines.append(f"{cell.label}: {100 * cell.values('limited').sum() / steps:.1f} %")
    return f"Guided steps that the limit of the push shortened: {', '.join(lines)}." if lines else ""


_HEAD = """# Fidelity: does the new video move like the reference?

Written by `scripts/fidelity.py` (`make fidelity`), which anyone can run again. Measured on the embedded model, a
small AnimateDiff trained on drawn clips of 64 x 64 pixels and 16 frames
([model card](../embedded/MODEL_CARD.md)), so that every answer is known exactly. Training never saw the references;
what is asked for differs from what the reference shows in every shape and colour and in the ground.

{facts}

Every entry is the mean over all clips, ± the standard deviation of the seeds' means.

- *path error*: mean distance of the asked-for thing from the reference's exact path. While it is not seen, it counts
  as standing where it was seen last; *seen* is the share of frames in which something of its colour is.
- *velocity cosine*: of the directions, over the frames in which the reference moves; clips that never do are left out.
- *shape*, *colour*, *ground*: how often the caption is obeyed.
- *motion fidelity*, *Fréchet* distance and *magnitude* come from point tracks, *temporal consistency* from picture
  features (`motionclone_core/metrics.py`).
- *push*: root mean square of what guidance adds to the predicted noise, whose own is 1; mean over the guided steps.
- *latents*: the smallest and the largest value of all results. The training clips' are {latents}; sampling without
  guidance leaves that a little, and what leaves it by more than a quarter is counted as outside the data's range.

All cells use cfg 6, which suits this model, and Euler's method (DDIM) where nothing else is said."""
_MAIN = """## The method

The published schedule: 100 steps, 50 of them guided, ratio 0.3, weight 2000, ramps of 10 steps. *Guided* limits the
push of a step to a root mean square of 0.04, the noise's own being 1; *without the limit* is the published program to
the letter. *Another clip's motion* is guidance by a representation of the wrong clip; *plain control* keeps all
entries (k = f), and *ceiling* is the wanted clip itself, drawn and put through the autoencoder."""
_FAST = """## A third of the steps

Under the published rule, a guided step moves the latent by a distance that does not depend on the length of the step,
so that the motion is followed less the fewer guided steps there are. The preset `fast` makes up for it in 30 steps:
20 of them are guided; they begin at full strength, for the first ones decide where things are; `schedule.equal_push`
raises weight and limit by the ratio of the sums of the ramps, 41 / 18.5; and the weight is 1.3 times that, 5762.
*Published weight* is 30 steps with half of them guided, weight 2000. *Plain control, pushed as far* has four times
the weight, because the energy of plain control is a mean over 16 entries of each row instead of over one."""
_TITLES = {
    "k": "Kept entries per row, k",
    "t_alpha": "Timestep of the extraction",
    "block": "Block",
    "weight": "Weight",
    "steps": "Number of steps, published weight",
    "steps, equal push": "Number of steps, equal push",
    "sampler": "Sampler",
}
_NOTES = {
    "k": "The setting is `fast` but for k.",
    "t_alpha": "The setting is `fast` but for the timestep to which the reference is noised.",
    "block": "The setting is `fast` but for the block that is read. The gradient of coarse blocks is far stronger: "
    "below the table is how often the limit of the push shortened it.",
    "weight": "The setting is `fast`; a weight is raised for it as in the preset, by 1.3 x 41 / 18.5.",
    "steps": "Half of the steps are guided, the ramps are a fifth of those, the weight is 2000 and the limit 0.04.",
    "steps, equal push": "As before, with weight and limit raised by `schedule.equal_push`.",
    "sampler": "The setting is `fast` but for the sampler, one of diffusers'.",
}
