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
    SHAPE,
    COLOUR,
    Column("fidelity", "motion fidelity", 1, 3),
    Column("frechet", "Fréchet, % of diagonal", 100, 2),
    Column("magnitude", "magnitude, % per frame", 100, 2),
    CONSISTENCY,
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
    def label(self) -> str:
        return self.name.split("/", 1)[1]

    def values(self, key: str) -> np.ndarray:
        """One score of every case; nan where it has no meaning."""
        return np.array([row[key] for row in self.rows], float)

    def mean(self, key: str) -> float:
        return float(np.nanmean(self.values(key)))

    def by_seed(self, key: str) -> list[float]:
        """The mean over the clips of each seed."""
        seeds = np.array([row["seed"] for row in self.rows])
        return [float(np.nanmean(self.values(key)[seeds == seed])) for seed in np.unique(seeds)]

    def spread(self, key: str) -> float:
        """Standard deviation of the seeds' means; nan with fewer than two."""
        means = self.by_seed(key)
        return float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")

    def entry(self, column: Column) -> str:
        """One cell of a table."""
        return column.written(column.factor * self.mean(column.key), column.factor * self.spread(column.key))


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
    parts = [_HEAD.format(facts="\n".join(f"- {fact}" for fact in _facts(cells.values(), model)))]
    if of["main"]:
        plot_main(of["main"], store / "main.png")
        parts += [_MAIN, table(of["main"], "cell"), f"![distributions]({_link(page, store)}/main.png)"]
        parts += [_verdict(cells, latents)]
    if of["fast"]:
        parts += [_FAST, table(of["fast"], "cell")]
    floor = cells.get("fast/no guidance")
    for axis in AXES:
        if of[axis]:
            plot = f"{axis.replace(', ', '_').replace(' ', '_')}.png"
            plot_sweep(axis, of[axis], floor, store / plot)
            parts += [f"## {_TITLES[axis]}", table(of[axis], axis), f"![{axis}]({_link(page, store)}/{plot})"]
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


def _verdict(cells: Mapping[str, Cell], latents: str) -> str:
    """What one would ask of the method, and what was measured."""
    wanted = ("main/no guidance", "main/guided", "main/another clip's motion", "main/plain control", "fast/fast")
    if any(name not in cells for name in wanted) or len({frozenset(cells[name].record.done) for name in wanted}) > 1:
        return "The comparison follows when these cells are measured over the same clips."
    floor, guided, control, plain, fast = (cells[name] for name in wanted)
    ratio = guided.mean("path_error") / floor.mean("path_error")
    answers = {
        "path error, guided / unguided: at most 0.35": f"{ratio:.3f}",
        "velocity cosine, guided: at least 0.80": guided.entry(COSINE),
        "velocity cosine, another clip's motion less no guidance: within 0.15": _less(control, floor, COSINE),
        "shape accuracy, guided less unguided: at least -5 points": _less(guided, floor, SHAPE),
        "colour accuracy, guided less unguided: at least -5 points": _less(guided, floor, COLOUR),
        "velocity cosine, k = 1 less k = 16: above 0": _less(guided, plain, COSINE),
        "temporal consistency, guided less unguided: not below 0": _less(guided, floor, CONSISTENCY),
        "path error, 30 steps of `fast` less 100 published: not above 0": _less(fast, guided, PATH),
        "velocity cosine, 30 steps of `fast` less 100 published: not below 0": _less(fast, guided, COSINE),
        f"clips whose latents leave the training clips' range, {latents}: none": str(_outside(cells.values(), latents)),
        "clips with NaN or infinity: none": "0: a batch that held one would have stopped the run",
    }
    return "| asked | measured |\n| --- | --- |\n" + "\n".join(f"| {q} | {a} |" for q, a in answers.items())


def _less(a: Cell, b: Cell, column: Column) -> str:
    """The difference of two cells, ± the standard deviation of the seeds' differences."""
    difference = [x - y for x, y in zip(a.by_seed(column.key), b.by_seed(column.key), strict=True)]
    spread = column.factor * np.std(difference, ddof=1) if len(difference) > 1 else np.nan
    return column.written(column.factor * (a.mean(column.key) - b.mean(column.key)), spread, sign="+")


def _outside(cells: Iterable[Cell], latents: str) -> int:
    low, high = map(float, latents.split(" to "))
    records = {id(cell.record): cell for cell in cells}.values()
    return sum(int(((cell.values("low") < low) | (cell.values("high") > high)).sum()) for cell in records)


def _extremes(cell: Cell) -> str:
    return f"{cell.values('low').min():.1f} to {cell.values('high').max():.1f}"


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
    "steps": "Number of steps, published weight",
    "steps, equal push": "Number of steps, equal push",
    "sampler": "Sampler",
}
