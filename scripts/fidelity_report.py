"""Turns the cells that scripts/fidelity.py measured into docs/FIDELITY.md and its plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Name of a score, its column, how it is written, and by what it is multiplied.
COLUMNS = (
    ("path_error", "path error, px", "{:.2f}", 1),
    ("velocity_cosine", "velocity cosine", "{:.3f}", 1),
    ("shape", "shape, %", "{:.1f}", 100),
    ("colour", "colour, %", "{:.1f}", 100),
    ("fidelity", "motion fidelity", "{:.3f}", 1),
    ("frechet", "Fréchet, % of diagonal", "{:.2f}", 100),
    ("magnitude", "magnitude, % per frame", "{:.2f}", 100),
    ("consistency", "temporal consistency", "{:.3f}", 1),
)
AXES = ("k", "t_alpha", "block", "weight", "steps", "sampler")


@dataclass(frozen=True)
class Cell:
    """The scores of one cell, one row a case and seed."""

    name: str
    rows: Sequence[Mapping[str, float]]

    @property
    def label(self) -> str:
        return self.name.split("/", 1)[1]

    def values(self, key: str) -> np.ndarray:
        """One score of every case; nan where it has no meaning."""
        return np.array([row[key] for row in self.rows], float)

    def mean(self, key: str) -> float:
        return float(np.nanmean(self.values(key)))

    def spread(self, key: str) -> float:
        """Standard deviation of the seeds' means; nan with fewer than two."""
        seeds = np.array([row["seed"] for row in self.rows])
        means = [np.nanmean(self.values(key)[seeds == seed]) for seed in np.unique(seeds)]
        return float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")


def read_cells(store: Path, names: Sequence[str]) -> dict[str, Cell]:
    """The measured cells among ``names``."""
    found = {}
    for name in names:
        path = cell_path(store, name)
        rows = rows_of(path)
        if rows:
            found[name] = Cell(name, rows)
    return found


def cell_path(store: Path, name: str) -> Path:
    """The file of a cell's rows."""
    return store / f"{name.replace('/', '--').replace(' ', '_')}.jsonl"


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a cell, none if it was not measured."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(cells: Sequence[Cell], first: str) -> str:
    """One line a cell: mean ± standard deviation of the seeds' means."""
    heads = [first, *(title for _, title, _, _ in COLUMNS), "s per clip", "clips"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for cell in cells:
        entries = [_entry(cell, key, form, factor) for key, _, form, factor in COLUMNS]
        lines.append(f"| {cell.label} | " + " | ".join(entries) + f" | {cell.mean('seconds'):.1f} | {len(cell.rows)} |")
    return "\n".join(lines)


def _entry(cell: Cell, key: str, form: str, factor: float) -> str:
    mean, spread = factor * cell.mean(key), factor * cell.spread(key)
    return form.format(mean) + ("" if np.isnan(spread) else " ± " + form.format(spread))


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
    for axis, (key, title, _, factor) in zip(axes, (COLUMNS[0], COLUMNS[1], COLUMNS[2]), strict=True):
        means = [factor * cell.mean(key) for cell in cells]
        spreads = [factor * np.nan_to_num(cell.spread(key)) for cell in cells]
        axis.errorbar(range(len(cells)), means, spreads, marker="o", capsize=3, lw=1.5)
        if floor is not None:
            axis.axhline(factor * floor.mean(key), color="grey", ls="--", lw=1)
        axis.set(title=title, xticks=range(len(cells)))
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


def write_report(page: Path, store: Path, names: Sequence[str], facts: Mapping[str, str]) -> None:
    """Write the page and its plots from the cells in the store.

    Args:
        page: the Markdown file.
        store: folder of the cells and the plots, beside or below the page.
        names: of the cells, in their order.
        facts: machine, date and the like, for the page's head.
    """
    cells = read_cells(store, names)
    of = {
        axis: [cell for name, cell in cells.items() if name.startswith(axis + "/")] for axis in ("main", "fast", *AXES)
    }
    parts = [_HEAD.format(facts="\n".join(f"- {name}: {value}" for name, value in facts.items()))]
    if of["main"]:
        plot_main(of["main"], store / "main.png")
        parts += [_MAIN, table(of["main"], "cell"), f"![distributions]({_link(page, store)}/main.png)", _verdict(cells)]
    if of["fast"]:
        parts += [_FAST, table(of["fast"], "cell")]
    floor = cells.get("fast/no guidance")
    for axis in AXES:
        if of[axis]:
            plot_sweep(axis, of[axis], floor, store / f"{axis}.png")
            parts += [f"## {_TITLES[axis]}", table(of[axis], axis), f"![{axis}]({_link(page, store)}/{axis}.png)"]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _link(page: Path, store: Path) -> str:
    return store.relative_to(page.parent).as_posix()


def _verdict(cells: Mapping[str, Cell]) -> str:
    """What was asked of the method, and what was measured."""
    wanted = ("main/no guidance", "main/guided", "main/another clip's motion", "main/plain control")
    if any(name not in cells for name in wanted):
        return ""
    floor, guided, control, plain = (cells[name] for name in wanted)
    caption = [100 * (cell.mean("shape") + cell.mean("colour")) / 2 for cell in (floor, guided)]
    lines = [
        "| question | measured |",
        "| --- | --- |",
        f"| path error, guided / unguided | {guided.mean('path_error') / floor.mean('path_error'):.3f} |",
        f"| velocity cosine, guided | {guided.mean('velocity_cosine'):.3f} |",
        f"| velocity cosine, another clip's motion less no guidance "
        f"| {control.mean('velocity_cosine') - floor.mean('velocity_cosine'):+.3f} |",
        f"| caption accuracy (shape and colour), guided less unguided | {caption[1] - caption[0]:+.1f} points |",
        f"| velocity cosine, k = 1 less k = 16 "
        f"| {guided.mean('velocity_cosine') - plain.mean('velocity_cosine'):+.3f} |",
        f"| temporal consistency, guided less unguided "
        f"| {guided.mean('consistency') - floor.mean('consistency'):+.4f} |",
        f"| latents, smallest and largest of all cells | {_extremes(cells)} |",
    ]
    return "\n".join(lines)


def _extremes(cells: Mapping[str, Cell]) -> str:
    low = min(float(cell.values("low").min()) for cell in cells.values())
    high = max(float(cell.values("high").max()) for cell in cells.values())
    return f"{low:.2f} to {high:.2f}"


_HEAD = """# Fidelity: does the new video move like the reference?

Written by `scripts/fidelity.py` (`make fidelity`), which anyone can run again. Measured on the embedded model, a
small AnimateDiff trained on drawn clips of 64 x 64 pixels and 16 frames
([model card](../embedded/MODEL_CARD.md)), so that every answer is known exactly. The references and captions were
never seen in training; what the caption asks for differs from what the reference shows.

{facts}

Every entry is the mean over all clips, ± the standard deviation of the seeds' means. *Path error* is the mean
distance of the asked-for thing from the reference's exact path; *velocity cosine* compares directions while the
reference moves; *shape* and *colour* say how often the caption is obeyed; motion fidelity, Fréchet distance,
magnitude and temporal consistency come from point tracks and picture features (`motionclone_core/metrics.py`)."""
_MAIN = """## The method

The published schedule (100 steps, 50 guided, ratio 0.3).
*Another clip's motion* is guidance by a representation of the wrong clip; *plain control* keeps all entries
(k = f), and *ceiling* is the wanted clip itself, drawn and put through the autoencoder."""
_FAST = """## A third of the steps"""
_TITLES = {
    "k": "Kept entries per row, k",
    "t_alpha": "Timestep of the extraction",
    "block": "Block",
    "weight": "Weight",
    "steps": "Number of steps",
    "sampler": "Sampler",
}
