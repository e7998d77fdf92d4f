"""What scripts/fidelity.py measured, on disk: one file a cell. Its first line says how, the others are the rows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from motionclone_core.paths import write_whole

_LATER = ("block_weights",)


@dataclass(frozen=True)
class Record:
    """The rows of one cell.

    Attributes:
        origin: model, precision and setting; rows of different origins never share a record.
        runs: when and on what the rows were measured.
        rows: one for each clip and seed.
    """

    origin: Mapping[str, Any]
    runs: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    @property
    def done(self) -> set[tuple[int, int]]:
        """Numbers of the clips and seeds that are measured."""
        return {(row["case"], row["seed"]) for row in self.rows}

    def with_rows(self, run: str, rows: list[dict[str, Any]]) -> Record:
        """The record with the rows of a run added that it does not have yet."""
        runs = self.runs if run in self.runs else (*self.runs, run)
        new = (row for row in rows if (row["case"], row["seed"]) not in self.done)
        return Record(self.origin, runs, (*self.rows, *new))


def described(setting: Any) -> dict[str, Any]:
    """A setting, a dataclass, as records keep it.

    What settings have had from some version on, and this one has none of, is left out: older records say nothing of it.
    """
    return {name: value for name, value in asdict(setting).items() if name not in _LATER or value}


def cell_path(store: Path, name: str) -> Path:
    """The file of a cell."""
    return store / f"{re.sub('[^a-z0-9._]+', '_', name.replace('/', '__'))}.jsonl"


def read_record(path: Path) -> Record | None:
    """What a file holds; None if there is none.

    Raises:
        SystemExit: it is damaged.
    """
    if not path.exists():
        return None
    try:
        head, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return Record(head["origin"], tuple(head["runs"]), tuple(rows))
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is damaged ({error}): delete it to measure its cell anew") from error


def resumed(path: Path, origin: Mapping[str, Any]) -> Record:
    """What a file holds, to go on with; an empty record if there is none.

    Raises:
        SystemExit: it is damaged, or its rows were measured otherwise.
    """
    record = read_record(path) or Record(origin)
    if record.origin != origin:
        raise SystemExit(f"{path} was measured with another model, precision or setting: delete it to measure it anew")
    return record


def write_record(path: Path, record: Record) -> None:
    """Write a file whole, or leave the one before it."""
    lines = [{"origin": record.origin, "runs": record.runs}, *record.rows]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
