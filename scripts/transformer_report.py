"""Turns the cells that scripts/transformer_study.py measured into docs/TRANSFORMERS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fidelity_cells import COLOUR, COLUMNS, GROUND, PATH, SHAPE, Cell, gain, ratio, read_cells, table_of
from tables import markdown

TITLES = {"cogvideox": "CogVideoX", "wan": "Wan"}
_SHOWN = tuple(column for column in COLUMNS if column.key != "push")
FLOOR, GUIDED, CONTROL = "main/no guidance", "main/guided", "main/another clip's motion"
_AXES = {
    "blocks": "Which block is read and guided, one at a time",
    "several": "Several blocks",
    "weight": "Weight",
    "k": "Entries kept per row",
    "t_alpha": "Noise level of the reading",
    "ratio": "The part of the schedule that is guided",
}


def section(family: str, store: Path, origins: Mapping[str, Any], card: Mapping[str, str], setting: str) -> str:
    """What was measured of one family."""
    shown = {name: f"{family}/{name}" for name in origins}
    cells = read_cells(store, shown, {shown[name]: origin for name, origin in origins.items()})
    parts = [f"## {TITLES[family]}", _CARD.format(**card), setting]
    if {FLOOR, GUIDED} <= cells.keys():
        main = [cells[name] for name in (FLOOR, GUIDED, CONTROL) if name in cells]
        parts += [_answers(cells), table_of(main, _SHOWN)]
    for axis, title in _AXES.items():
        found = [cell for name, cell in cells.items() if name.startswith(f"{axis}/")]
        if found:
            parts += [f"### {title}", table_of(_beside_chosen(found, cells.get(GUIDED)), _SHOWN)]
    runs = sorted({run for cell in cells.values() for run in cell.record.runs if run})
    return "\n\n".join([*parts, f"Measured: {'; '.join(runs)}." if runs else ""])


def _beside_chosen(found: Sequence[Cell], chosen: Cell | None) -> list[Cell]:
    """Cells, and after those over the same references what was chosen, over these alone."""
    lots: dict[frozenset[int], list[Cell]] = {}
    for cell in found:
        lots.setdefault(frozenset(row["case"] for row in cell.rows), []).append(cell)
    rows: list[Cell] = []
    for cases, lot in sorted(lots.items(), key=lambda pair: len(pair[0])):
        rows += lot if chosen is None else [*lot, _named(chosen.only(cases), "as chosen")]
    return rows


def _named(cell: Cell, label: str) -> Cell:
    return replace(cell, name=f"axis/{label}")


def _answers(cells: Mapping[str, Cell]) -> str:
    """What the family is asked for, and what was found."""
    floor, guided = cells[FLOOR], cells[GUIDED]
    rows = [("path error guided / unguided", "at most 0.5", *ratio(guided, floor, PATH).at_most(0.5))]
    if CONTROL in cells:
        found = ratio(cells[CONTROL], floor, PATH).text
        rows.append(("path error under another clip's motion / unguided", "near 1", found, ""))
    for column in (SHAPE, COLOUR, GROUND):
        what = f"{column.title.split(',')[0]} right, less that without guidance, points"
        rows.append((what, "at least -5", *gain(guided, floor, column).at_least(-5.0)))
    return markdown(["", "asked", "found", ""], rows)


def page(sections: Sequence[str]) -> str:
    """The whole page."""
    return "\n\n".join([_HEAD, *sections]) + "\n"


_CARD = (
    "`embedded/{file}`: {parameters} parameters, {blocks} blocks {width} wide, {size} MiB in float16, SHA-256 "
    "`{hash}`; {steps} steps in {hours} hours on one core, at times beside other programs, loss {loss}."
)
_HEAD = """# Motions on diffusion transformers

Tiny networks of the shapes of CogVideoX and Wan, trained from nothing on drawn clips
([card](../embedded/TRANSFORMERS_CARD.md)), are loaded by ComfyUI's own loader of diffusion models and guided by the
pack's own hosts, under inference mode, as in a graph. They show which blocks and which weight suit such networks, and
whether motions are followed; they are no picture of how well the large models follow them. Each clip has 25 frames of
64 x 64 pixels. Their latents come from the embedded model's autoencoder, four frames side by side in one latent frame,
the first frame alone: 7 latent frames of 16 x 16 cells, in tokens of 2 x 2 cells, as the causal autoencoders of the
large models lay them out.

The scores are those of [FIDELITY.md](FIDELITY.md), against exact paths; ± is the standard error over references. The
references are those of that page, in 25 frames; settings were chosen on others (64 and later). `make transformers`
measures what is not there yet; without the rows in `docs/transformers`, all of it."""
