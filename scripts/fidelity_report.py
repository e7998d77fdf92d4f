"""Turns the cells that scripts/fidelity.py measured into docs/FIDELITY.md and its plots."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablation_cells import section as section_of_findings
from edit_report import section
from embedded.measuring import LIMITED
from fidelity_cells import COLUMNS, CONSISTENCY, COSINE, PATH, SHAPE, Cell, gain, read_cells
from fidelity_verdict import answers, verdict
from motionclone_core.schedule import PRESETS
from motionclone_core.updates import PUSH_PER_WEIGHT
from tables import markdown

_NUMBERS = {
    "camera": PRESETS["camera"],
    "fast": PRESETS["fast"],
    "limit": LIMITED.limit,
    "push": PUSH_PER_WEIGHT * PRESETS["fast"].weight,
    "unit": PUSH_PER_WEIGHT * 1000,
}
FLOOR, FAST = "fast/no guidance", "fast/fast"
_UNORDERED = ("block", "sampler")
AXES = ("k", "t_alpha", "block", "weight", "steps", "steps, equal push", "sampler")


def table(cells: Sequence[Cell], first: str) -> str:
    """One line a cell: mean ± standard error over references."""
    heads = [first, *(column.title for column in COLUMNS), "latents", "clips"]
    return markdown(heads, ([*cell.entries(COLUMNS), _extremes(cell), str(len(cell.rows))] for cell in cells))


def table_of_kinds(guided: Cell, floor: Cell, kinds: Mapping[int, str]) -> str:
    """One line for each kind of motion."""
    heads = ["reference", "references", "clips", "path error, px", "without guidance, px", "velocity cosine"]
    heads += ["temporal consistency less that without guidance"]
    rows = []
    for kind in sorted(set(kinds.values())):
        few, few_free = (cell.only({case for case, k in kinds.items() if k == kind}) for cell in (guided, floor))
        if few.rows and few_free.rows:
            count = len({row["case"] for row in few.rows})
            entries = [kind, str(count), str(len(few.rows)), few.entry(PATH), few_free.entry(PATH), few.entry(COSINE)]
            rows.append([*entries, gain(few, few_free, CONSISTENCY).text])
    return markdown(heads, rows)


def fresh(store: Path, origins: Mapping[str, Any]) -> str:
    """What references that no choice was made on say of ``fast``; empty if they are not measured."""
    cells = read_cells(store, {name: name for name in (FLOOR, FAST)}, origins)
    if len(cells) < 2 or cells[FLOOR].record.done != cells[FAST].record.done:
        return ""
    numbers = sorted({case for case, _ in cells[FAST].record.done})
    values = cells[FAST].values(PATH.key)
    found = answers(cells[FLOOR], cells[FAST])
    rows = ([what, ask, f"{text}, {met}"] for what, ask, text, met in found)
    asked = markdown(["", "asked", "`fast`, 30 steps"], rows)
    head = _FRESH.format(
        first=numbers[0], last=numbers[-1], clips=len(values), median=np.median(values), far=100 * np.mean(values > 5)
    )
    return "\n\n".join([head, asked, table([cells[FLOOR], cells[FAST]], "cell")])


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
        errors = [column.factor * np.nan_to_num(cell.error(column.key)) for cell in cells]
        line = "none" if axis_name in _UNORDERED else "-"
        axis.errorbar(range(len(cells)), means, errors, marker="o", capsize=3, lw=1.5, ls=line)
        if floor is not None:
            axis.axhline(column.factor * floor.mean(column.key), color="grey", ls="--", lw=1)
        axis.set(title=column.title, xticks=range(len(cells)))
        slanted = max(map(len, labels)) > 4
        axis.set_xticklabels(labels, rotation=35 if slanted else 0, ha="right" if slanted else "center", fontsize=8)
    figure.suptitle(f"{axis_name} (bars: standard error over references; dashed: no guidance)", fontsize=10)
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


def write_report(
    page: Path,
    store: Path,
    shown: Mapping[str, str],
    origins: Mapping[str, Any],
    latents: str,
    kinds: Mapping[int, str],
    edits: Mapping[str, Any] | None = None,
    ablation: Mapping[str, Any] | None = None,
) -> None:
    """Write the page and its plots from the cells in the store.

    Args:
        page: the Markdown file.
        store: folder of the records and the plots, beside or below the page.
        shown: names of the cells in their order, and whose rows each of them shows.
        origins: what the records have to say of model, precision and setting; others are left out.
        latents: the range of the training clips' latents.
        kinds: the motion of each reference.
        edits: what the records of `edit_cells.cells` have to say, in the folder ``edits`` of the store.
        ablation: what those of `ablation_cells.cells` have to say, in the folder ``ablation``.

    Raises:
        SystemExit: nothing is measured.
    """
    cells = read_cells(store, shown, origins)
    if not cells:
        raise SystemExit(f"{store} has no rows of today's model and settings: measure first, without --report")
    of = {
        axis: [cell for name, cell in cells.items() if name.startswith(axis + "/")] for axis in ("main", "fast", *AXES)
    }
    parts = [_HEAD.format(facts="\n".join(f"- {fact}" for fact in _facts(cells.values(), len(shown))), latents=latents)]
    if of["main"]:
        plot_main(of["main"], store / "main.png")
        parts += [_MAIN.format_map(_NUMBERS), table(of["main"], "cell"), _limited(of["main"])]
        parts += [f"![distributions]({_link(page, store)}/main.png)", verdict(cells, latents)]
    if of["fast"]:
        parts += [_FAST.format_map(_NUMBERS), table(of["fast"], "cell"), _limited(of["fast"])]
        if {FLOOR, FAST} <= set(cells):
            parts += [_KINDS, table_of_kinds(cells[FAST], cells[FLOOR], kinds)]
        parts += [fresh(store / "fresh", origins)]
    floor = cells.get(FLOOR)
    for axis in AXES:
        if of[axis]:
            plot = f"{axis.replace(', ', '_').replace(' ', '_')}.png"
            plot_sweep(axis, of[axis], floor, store / plot)
            parts += [f"## {_TITLES[axis]}", _NOTES[axis].format_map(_NUMBERS)]
            parts += [table(of[axis], axis), _limited(of[axis])]
            parts += [f"![{axis}]({_link(page, store)}/{plot})"]
    measured = read_cells(store / "ablation", {name: name for name in ablation or {}}, ablation or {})
    parts += [section_of_findings(cells | measured, table)]
    parts += [section(store / "edits", edits or {}, cells.get(FAST))]
    page.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _facts(cells: Collection[Cell], wanted: int) -> list[str]:
    records = [cell.record for cell in cells]
    runs = sorted({run for record in records for run in record.runs})
    models, precisions = (sorted({record.origin[key] for record in records}) for key in ("model", "precision"))
    done = {pair for record in records for pair in record.done}
    clips = sorted({len(record.rows) for record in records})
    unfinished = len(cells) < wanted or len(clips) > 1
    return [
        *([f"**not finished**: {len(cells)} of {wanted} cells, over {clips[0]} to {clips[-1]} clips"] * unfinished),
        f"model: SHA-256 `{', '.join(models)}`",
        f"held-out references: {len({case for case, _ in done})}; seeds: {len({seed for _, seed in done})}",
        f"precision of the network: {', '.join(precisions)}; of everything else: float32",
        *(f"measured on {run}" for run in runs),
    ]


def _link(page: Path, store: Path) -> str:
    return store.relative_to(page.parent).as_posix()


def _extremes(cell: Cell) -> str:
    low, high = (cell.values(key)[~np.isnan(cell.values(key))] for key in ("low", "high"))
    return f"{low.min():.1f} to {high.max():.1f}" if len(low) else "-"


def _limited(cells: Sequence[Cell]) -> str:
    """What the limit of the push did, for the cells that have one."""
    lines = []
    for cell in cells:
        if cell.guided and cell.limit:
            # Samplers of several steps leave the last guided one out; see `schedule.beside_a_seam`.
            steps = (cell.setting["guided_steps"] - bool(cell.setting["scheduler"])) * len(cell.rows)
            lines.append(f"{cell.label}: {100 * cell.values('limited').sum() / steps:.1f} %")
    return f"Guided steps that the limit of the push shortened: {', '.join(lines)}." if lines else ""


_HEAD = """# Fidelity: does the new video move like the reference?

Written by `scripts/fidelity.py` (`make fidelity`), which anyone can run again; rows that are there are kept, and
`ARGS="--store folder"` measures all anew. Measured on the embedded model, a small AnimateDiff trained on drawn clips of
64 x 64 pixels and 16 frames ([model card](../embedded/MODEL_CARD.md)), so that every answer is known exactly. Training
never saw the references; what is asked for differs from what the reference shows in the shape and colour of each thing
and in the ground.

{facts}

Every entry is the mean over all clips, ± its standard error over the references, each of which counts as the mean of
its seeds. Differences are taken clip by clip.

- *path error*: mean distance, over all frames, of the asked-for thing from the reference's exact path. While it is not
  seen, it counts as standing where it was seen last; *seen* is the share of frames in which something of its colour is.
  Of two things, either may go either's way.
- *velocity cosine*: of the directions, over the frames in which the reference moves; 0 where what is found moves less
  than a tenth as far; things that stay in their place are left out. Every reference moves: there is none that is still.
- *shape*, *colour*, *ground*: how often that word of the caption is obeyed; the ground's pattern is not scored.
- *motion fidelity*, *Fréchet* distance and *magnitude* come from point tracks, *temporal consistency* from picture
  features (`motionclone_core/metrics.py`). Points on the ground dominate them: read them between *no guidance* and
  *ceiling*.
- *push*: root mean square of what weight times gradient would add to the predicted noise, whose own is 1, without a
  limit and without being normalised; mean over the guided steps.
- *latents*: the smallest and the largest value of all results. The training clips' are {latents}.

All cells use cfg 6, which suits this model, and Euler's method (DDIM) where nothing else is said."""
_MAIN = """## The method

The published schedule: {camera.steps} steps, {camera.guided_steps} of them guided, ratio {camera.ratio}, weight
{camera.weight:g}, ramps of {camera.warm_up} steps. *Guided* limits the push of a step to a root mean square of {limit},
the noise's own being 1; *without the limit* is the published program but for cfg. *Ceiling* is the wanted clip itself,
drawn and put through the autoencoder."""
_FAST = """## A third of the steps

Under the published rule, a guided step moves the latent by a distance that does not depend on the length of the step,
so that the motion is followed less the fewer guided steps there are; and the distance is in proportion to the
gradient, which is weak for a small or slow thing and too strong where the energy is steep. The preset `fast` takes
from the gradient its direction alone (`normalised`, see `updates.corrected_denoised`): each of its {fast.guided_steps}
guided steps pushes a clip by {push:g} of the noise, the last {fast.cool_down} of them less and less, and {fast.steps}
steps are enough. It reads {fast.k} entries of each row, with which the result is steadier than with one (the sweep over
k below). Push, ratio and ramps were found by trial on other references than those of this page (numbers 64 to 127), k
on these; on the references at the end of this section nothing was chosen. *Published weight* is {fast.steps} steps of
the published schedule and rule, half of them guided, weight {camera.weight:g}, limit {limit}. *Another clip's motion*
is guidance by a representation of the wrong clip. *Plain control* keeps all entries (k = f): with `fast` it pushes as
hard, with the published rule far less, as its energy is a mean over 16 entries of each row instead of over one."""
_KINDS = """Guidance knows of a thing what its motion shows. Where a thing stays in its place, little of the place is in
the motion, and the noise decides on it. Two things are told apart by their colours here, and the model often draws both
in one: followed whatever their colour (under *Edits of a motion*) they do better. `fast`, by the reference's motion:"""
_FRESH = """### References that nothing was chosen on

The same over references {first} to {last}, measured by
`scripts/fidelity.py --first {first} --cells "fast/[fn]*" --store docs/fidelity/fresh`. Half of the {clips}
guided clips stay within {median:.1f} pixels of the path
in the mean over their frames, {far:.0f} % are more than 5 away."""
_TITLES = {
    "k": "Kept entries per row, k",
    "t_alpha": "Timestep of the extraction",
    "block": "Block",
    "weight": "Weight",
    "steps": "Number of steps, published rule",
    "steps, equal push": "Number of steps, normalised rule",
    "sampler": "Sampler",
}
_NOTES = {
    "k": "The setting is `fast` but for k, so that all push equally hard. Then one entry follows about as well as all "
    "of them (plain control), and is less steady. What sets them apart under the published rule is that all of them "
    "push several times less, as their energy is a mean over more entries.",
    "t_alpha": "The setting is `fast` but for the timestep to which the reference is noised.",
    "block": "The setting is `fast` but for the block that is read. The gradients differ by orders of magnitude; "
    "all are made to push equally hard.",
    "weight": "The setting is `fast` but for the weight, of which 1000 push by {unit:g} of the noise.",
    "steps": "The published rule. Half of the steps are guided, the ramps are a fifth of those, the weight is "
    "{camera.weight:g} and the limit {limit}.",
    "steps, equal push": "`fast` with as great a part of the steps guided and cooling down, and a weight with which "
    "all push equally far in sum (`schedule.equal_push`).",
    "sampler": "The setting is `fast` but for the sampler, one of diffusers'. All but Euler's leave the last guided "
    "step out (`schedule.beside_a_seam`).",
}
