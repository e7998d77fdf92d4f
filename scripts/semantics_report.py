"""The cells of scripts/semantics_study.py, and the page that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from embedded.measuring import FAST, Setting
from fidelity_cells import COLOUR, COSINE, GROUND, PATH, SHAPE, Cell, Column, gain, read_cells, table_of
from motionclone_core.paths import write_whole
from tables import markdown

OTHER = Column("to_other", "to the distractor's path, px", 1, 2)
_COLUMNS = (PATH, COSINE, SHAPE, COLOUR, GROUND, OTHER)
FLOOR, MOTION, CHOSEN = "main/no guidance", "main/motion alone", "main/motion and semantics"


@dataclass(frozen=True)
class SemanticSetting(Setting):
    """How a cell samples.

    Attributes:
        semantics: weight of ``up_blocks.1``; 0 is off.
        named: whether the first thing is named; otherwise the whole frame counts.
        alone: see `semantics.Semantics`.
        threshold: of both videos.
        sigma: in cells.
    """

    semantics: float = 0.0
    named: bool = True
    alone: float = 0.0
    threshold: float = 0.5
    sigma: float = 2.5


def cells() -> dict[str, SemanticSetting]:
    """Settings by the names of their cells; the chosen one by trial on references 64 and later."""
    motion = SemanticSetting(**asdict(FAST))
    chosen = replace(motion, semantics=20.0)
    return {
        FLOOR: replace(motion, weight=0.0),
        MOTION: motion,
        CHOSEN: chosen,
        "other/the last half of the guided steps without the motion": replace(chosen, alone=0.5),
        "other/weight 5": replace(chosen, semantics=5.0),
        "other/weight 60": replace(chosen, semantics=60.0),
        "other/the whole frame, no words": replace(chosen, named=False),
    }


def write_page(page: Path, store: Path, origins: Mapping[str, Any]) -> None:
    """The page, from what is measured as it would be today.

    Raises:
        SystemExit: the cells of motion alone and of both are not.
    """
    measured = read_cells(store, {name: name for name in origins}, origins)
    if not {MOTION, CHOSEN} <= measured.keys():
        raise SystemExit(f"{store} lacks {MOTION} or {CHOSEN}: measure first, without --report")
    runs = sorted({run for cell in measured.values() for run in cell.record.runs})
    parts = [_HEAD, "\n".join(f"- measured on {run}" for run in runs), _answers(measured), _CELLS]
    write_whole(page, ("\n\n".join([*parts, table_of(measured.values(), _COLUMNS)]) + "\n").encode())


def _answers(measured: Mapping[str, Cell]) -> str:
    """Motion and semantics less motion alone, clip by clip."""
    both, motion = measured[CHOSEN], measured[MOTION]
    found = {column: gain(both, motion, column) for column in (SHAPE, COLOUR, GROUND)}
    rows = [(column.title, "at least -5", *estimate.at_least(-5.0)) for column, estimate in found.items()]
    rows.append((PATH.title, "at most +1", *gain(both, motion, PATH).at_most(1.0)))
    rows.append((COSINE.title, "at least -0.05", *gain(both, motion, COSINE).at_least(-0.05)))
    return markdown(["motion and semantics, less motion alone", "asked", "found", ""], rows)


_HEAD = """# Semantic guidance: one object among distractors

Written by `scripts/semantics_study.py`, which anyone can run again; rows that are there are kept. Held-out references
of the embedded model ([model card](../embedded/MODEL_CARD.md)) show two things, each on a way of its own, and are read
under their own captions. The new caption has one thing alone. The first thing's words are named on both sides, colour
and shape: the new thing is to stand where that one is, and to follow it. The other one is a distractor, whose motion is
read as well. Preset `fast`; semantic guidance of `up_blocks.1`, thresholds 0.5 and a Gaussian of 2.5 cells (the model
has 8 x 8 there, SD 1.5 at 512 pixels 16 x 16). ± is the standard error over references; settings were chosen on others
(64 and later)."""
_CELLS = """*Path error* and *velocity cosine* are those of the new thing against the named one's exact path; *to the
distractor's path* is its distance from the other one's."""
