"""Scores of measured cells: columns, means, spreads and differences."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fidelity_store import Record, cell_path, read_record
from tables import markdown

MET, NOT_MET, _NEAR = "met", "**not met**", "by less than two standard errors"


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
GROUND = Column("ground", "ground, %", 100, 1)
CONSISTENCY = Column("consistency", "temporal consistency", 1, 4)
FIDELITY = Column("fidelity", "motion fidelity", 1, 3)
FRECHET = Column("frechet", "Fréchet, % of diagonal", 100, 2)
COLUMNS = (
    PATH,
    COSINE,
    Column("seen", "seen, %", 100, 1),
    SHAPE,
    COLOUR,
    GROUND,
    FIDELITY,
    FRECHET,
    Column("magnitude", "magnitude, % per frame", 100, 2),
    CONSISTENCY,
    Column("push", "push", 1, 4),
)


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
    def unbounded(self) -> bool:
        """Whether a step may push as far as its gradient is strong."""
        return self.guided and not self.limit and self.setting.get("update_rule") != "normalised"

    @property
    def label(self) -> str:
        return self.name.split("/", 1)[1]

    def only(self, cases: Collection[int], seeds: int | None = None) -> Cell:
        """The same for some of the references, and for the first seeds."""
        rows = tuple(row for row in self.rows if row["case"] in cases and (seeds is None or row["seed"] < seeds))
        return replace(self, record=replace(self.record, rows=rows))

    def values(self, key: str) -> np.ndarray:
        """One score of every case; nan where it has no meaning."""
        return np.array([row[key] for row in self.rows], float)

    def mean(self, key: str) -> float:
        return _mean(self.values(key))

    def by_case(self, key: str) -> np.ndarray:
        """The mean over the seeds of each reference; references without a meaning are left out."""
        found: dict[int, list[float]] = {}
        for row in self.rows:
            found.setdefault(row["case"], []).append(row[key])
        return np.array([known.mean() for known in map(_known, found.values()) if len(known)])

    def error(self, key: str) -> float:
        """Standard error of the mean over references, each the mean of its seeds; nan with fewer than two."""
        return _error(self.by_case(key))

    def entry(self, column: Column) -> str:
        """One cell of a table."""
        return column.written(column.factor * self.mean(column.key), column.factor * self.error(column.key))

    def entries(self, columns: Iterable[Column]) -> list[str]:
        """The beginning of a line of a table."""
        return [self.label, *map(self.entry, columns)]


def table_of(cells: Iterable[Cell], columns: Sequence[Column]) -> str:
    """One line a cell: mean ± standard error over references."""
    heads = ["cell", *(column.title for column in columns), "clips"]
    return markdown(heads, ([*cell.entries(columns), str(len(cell.rows))] for cell in cells))


def _mean(values: np.ndarray) -> float:
    known = _known(values)
    return float(known.mean()) if len(known) else float("nan")


def read_cells(store: Path, shown: Mapping[str, str], origins: Mapping[str, Any]) -> dict[str, Cell]:
    """The cells that were measured as they would be today.

    Args:
        store: folder of the records.
        shown: names of the cells, and whose rows each of them shows.
        origins: what the records of those have to say of model, precision and setting.
    """
    records = {source: read_record(cell_path(store, source)) for source in set(shown.values())}
    return {
        name: Cell(name, record)
        for name, record in ((name, records[source]) for name, source in shown.items())
        if record is not None and record.rows and record.origin == origins[shown[name]]
    }


@dataclass(frozen=True)
class Estimate:
    """A number over references, in a column's unit, and its standard error."""

    mean: float
    error: float
    text: str

    def at_least(self, bound: float) -> tuple[str, str]:
        """What was measured, and whether that is enough."""
        return self.text, self._met(self.mean - bound)

    def at_most(self, bound: float) -> tuple[str, str]:
        return self.text, self._met(bound - self.mean)

    def within(self, bound: float) -> tuple[str, str]:
        return self.text, self._met(bound - abs(self.mean))

    def _met(self, margin: float) -> str:
        near = abs(margin) < 2 * self.error
        if margin >= 0:
            return f"{MET}, {_NEAR}" if near else MET
        return f"missed {_NEAR}" if near else NOT_MET


def gain(a: Cell, b: Cell, column: Column) -> Estimate:
    """``a`` less ``b``, clip by clip."""
    pairs = {(row["case"], row["seed"]): row[column.key] for row in b.rows}
    less = [{**row, column.key: row[column.key] - pairs[row["case"], row["seed"]]} for row in a.rows]
    return level(replace(a, record=replace(a.record, rows=tuple(less))), column, sign="+")


def level(cell: Cell, column: Column, sign: str = "") -> Estimate:
    """The mean over references, each the mean of its seeds."""
    values = column.factor * cell.by_case(column.key)
    mean, error = _mean(values), _error(values)
    return Estimate(mean, error, column.written(mean, error, sign))


def ratio(a: Cell, b: Cell, column: Column) -> Estimate:
    """The mean of ``a`` over that of ``b``, which have the same references; the error to first order."""
    above, below = a.by_case(column.key), b.by_case(column.key)
    mean = above.mean() / below.mean()
    error = _error((above - mean * below) / below.mean())
    return Estimate(float(mean), error, replace(column, digits=3).written(mean, error))


def _error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _known(values: Iterable[float]) -> np.ndarray:
    values = np.array(list(values), float)
    return values[~np.isnan(values)]
