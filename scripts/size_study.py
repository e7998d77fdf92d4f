#!/usr/bin/env python3
"""Measures on the embedded model what size, length and shared gradients do to guidance, and writes docs/SIZES.md.

The model was trained on 16 frames of 64 x 64 pixels; it also makes other sizes and lengths. A run that was cut off goes
on where it was; ``--report`` writes the page from what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from embedded.measuring import FAST, Setting
from embedded.model import MODEL_FILE, load_model
from fidelity import STORE as FIDELITY_STORE
from fidelity import cells as fidelity_cells
from fidelity import facts_of, measure_all, origin_of, sources
from fidelity_cells import CONSISTENCY, COSINE, PATH, SHAPE, Cell, ratio, read_cells

ROOT = Path(__file__).parent.parent
STORE = ROOT / "docs" / "sizes"
PAGE = ROOT / "docs" / "SIZES.md"
SIZES, LENGTHS, SHARES = (48, 64, 80, 96), (8, 16, 24, 32), (1, 2, 3, 4)
# With which the published rule pushes 16 frames of 64 x 64 about as hard as ``normalised`` does.
PUBLISHED_WEIGHT = 14000.0
RULES = {
    "no guidance": replace(FAST, weight=0.0),
    "normalised": FAST,
    "published": replace(FAST, update_rule="published", weight=PUBLISHED_WEIGHT),
}


def cells() -> dict[str, Setting]:
    """Every cell by name: what is varied, to what, and the rule."""
    named: dict[str, Setting] = {}
    for rule, setting in RULES.items():
        named |= {f"size/{size}, {rule}": replace(setting, size=size) for size in SIZES}
        named |= {f"frames/{frames}, {rule}": replace(setting, frames=frames) for frames in LENGTHS}
    return named | {f"reuse/{steps}": replace(FAST, reuse=steps) for steps in SHARES}


def rules_table(found: Mapping[str, Cell], what: str, values: Sequence[int]) -> str:
    """One line for each value: path errors under every rule, and what is left of the error without guidance."""
    heads = [what, "no guidance, px", "normalised, px", "ratio", "published, px", "ratio", "clips"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for value in values:
        free, fast, published = (found.get(f"{what}/{value}, {rule}") for rule in RULES)
        if free and fast and published:
            entries = [str(value), free.entry(PATH)]
            for cell in (fast, published):
                entries += [cell.entry(PATH), ratio(cell, free, PATH).text]
            lines.append("| " + " | ".join([*entries, str(len(fast.rows))]) + " |")
    return "\n".join(lines)


def shares_table(found: Mapping[str, Cell]) -> str:
    """One line for each number of steps that share a gradient."""
    columns = (PATH, COSINE, SHAPE, CONSISTENCY)
    heads = ["steps a gradient", "gradients", *(column.title for column in columns), "clips"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for steps in SHARES:
        cell = found.get(f"reuse/{steps}")
        if cell:
            entries = [str(steps), str(-(-FAST.guided_steps // steps)), *(cell.entry(c) for c in columns)]
            lines.append("| " + " | ".join([*entries, str(len(cell.rows))]) + " |")
    return "\n".join(lines)


def known_elsewhere() -> dict[str, str]:
    """The cells that docs/FIDELITY.md shows as well, and their names there: theirs are the rows."""
    others = fidelity_cells()
    same = {name: [other for other, s in others.items() if s == setting] for name, setting in cells().items()}
    return {name: found[0] for name, found in same.items() if found}


def write_page(args: argparse.Namespace) -> None:
    """docs/SIZES.md from what is measured as it would be today."""
    facts, elsewhere = facts_of(args), known_elsewhere()
    origins = {name: origin_of(s, facts) for name, s in cells().items()}
    shown = {name: source for name, source in sources(cells()).items() if name not in elsewhere}
    found = read_cells(args.store, shown, origins)
    there = {other: origins[name] for name, other in elsewhere.items()}
    known = read_cells(FIDELITY_STORE, {other: other for other in there}, there)
    found |= {name: known[other].only(range(args.cases)) for name, other in elsewhere.items() if other in known}
    runs = sorted({run for cell in found.values() for run in cell.record.runs})
    parts = [
        _HEAD.format(weight=PUBLISHED_WEIGHT),
        "\n".join(f"- measured on {run}" for run in runs),
        "## Size in pixels", rules_table(found, "size", SIZES),
        "## Number of frames", rules_table(found, "frames", LENGTHS),
        _SHARES.format(fast=FAST), shares_table(found),
    ]  # fmt: skip
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


_HEAD = """# One weight for every size and length

Written by `scripts/size_study.py`, which anyone can run again, on the embedded model and its held-out references
([FIDELITY.md](FIDELITY.md) says what they are, and what is measured). The preset `fast` with its rule `normalised`, and
the same with the rule `published` and weight {weight:g}, which push 16 frames of 64 x 64 pixels about as hard. The
things are as large, and move as far, in every size."""
_SHARES = """## Gradients that steps share

`fast` takes a gradient at each of its {fast.guided_steps} guided steps. Steps that share one cost what unguided steps
do (docs/PERFORMANCE.md has the cost of a gradient)."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--report", action="store_true", help="only write the page")
    args = parser.parse_args(arguments)
    args.store, args.model, args.first = STORE, MODEL_FILE, 0
    STORE.mkdir(parents=True, exist_ok=True)
    if not args.report:
        names = dict.fromkeys(source for name, source in sources(cells()).items() if name not in known_elsewhere())
        measure_all(load_model(), {name: cells()[name] for name in names}, args)
    write_page(args)


if __name__ == "__main__":
    main()
