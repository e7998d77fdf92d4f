#!/usr/bin/env python3
"""Measures on the embedded model what size, length and shared gradients do to guidance, and writes docs/SIZES.md.

The model was trained on 16 frames of 64 x 64 pixels; it also makes other sizes and lengths. A run that was cut off goes
on where it was; ``--report`` writes the page from what there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from embedded.measuring import FAST, Setting, generate, held_out_cases, noise_of, representations
from embedded.model import MODEL_FILE, EmbeddedModel, load_model
from fidelity import STORE as FIDELITY_STORE
from fidelity import cells as fidelity_cells
from fidelity import facts_of, measure_all, origin_of, sources, this_run
from fidelity_cells import CONSISTENCY, COSINE, PATH, SHAPE, Cell, ratio, read_cells
from motionclone_core.paths import write_whole
from tables import markdown

ROOT = Path(__file__).parent.parent
STORE = ROOT / "docs" / "sizes"
PAGE = ROOT / "docs" / "SIZES.md"
TIMES = STORE / "times.json"
SIZES, LENGTHS, SHARES = (48, 64, 80, 96), (8, 16, 24, 32), (1, 2, 3, 4)
# With which the published rule pushes 16 frames of 64 x 64 about as hard as ``normalised`` does.
PUBLISHED_WEIGHT = 14000.0
RULES = {
    "no guidance": replace(FAST, weight=0.0),
    "normalised": FAST,
    "published": replace(FAST, update_rule="published", weight=PUBLISHED_WEIGHT),
}
# Is the weight that suits the trained size the one that suits the others?
FACTORS = (0.5, 2.0)
PLACES = {"size/48": {"size": 48}, "size/64": {}, "size/96": {"size": 96}, "frames/8": {"frames": 8},
          "frames/32": {"frames": 32}}  # fmt: skip


def cells() -> dict[str, Setting]:
    """Every cell by name: what is varied, to what, and the rule."""
    named: dict[str, Setting] = {}
    for rule, setting in RULES.items():
        named |= {f"size/{size}, {rule}": replace(setting, size=size) for size in SIZES}
        named |= {f"frames/{frames}, {rule}": replace(setting, frames=frames) for frames in LENGTHS}
    for factor in FACTORS:
        harder = replace(FAST, weight=factor * FAST.weight)
        named |= {f"{place}, weight x {factor:g}": replace(harder, **clip) for place, clip in PLACES.items()}
    return named | {f"reuse/{steps}": replace(FAST, reuse=steps) for steps in SHARES}


def rules_table(found: Mapping[str, Cell], what: str, values: Sequence[int]) -> str:
    """One line for each value: path errors under every rule, and what is left of the error without guidance."""
    heads = [what, "no guidance, px", "normalised, px", "ratio", "published, px", "ratio", "its push", "clips"]
    rows = []
    for value in values:
        free, fast, published = (found.get(f"{what}/{value}, {rule}") for rule in RULES)
        if free and fast and published:
            entries = [str(value), free.entry(PATH)]
            for cell in (fast, published):
                entries += [cell.entry(PATH), ratio(cell, free, PATH).text]
            entries += [f"{published.mean('push'):.3f}", str(len(fast.rows))]
            rows.append(entries)
    return markdown(heads, rows)


def weights_table(found: Mapping[str, Cell]) -> str:
    """One line for each size and length: path errors under half the weight, the weight and twice it."""
    heads = ["clip", f"weight {FACTORS[0] * FAST.weight:g}, px", f"{FAST.weight:g}, px"]
    heads += [f"{FACTORS[1] * FAST.weight:g}, px", "clips"]
    rows = []
    for place, clip in PLACES.items():
        names = (f"{place}, weight x {FACTORS[0]:g}", f"{place}, normalised", f"{place}, weight x {FACTORS[1]:g}")
        cells = [found.get(name) for name in names]
        if all(cells):
            setting = replace(FAST, **clip)
            what = f"{setting.frames} frames of {setting.size} x {setting.size}"
            entries = [what, *(cell.entry(PATH) for cell in cells), str(len(cells[0].rows))]
            rows.append(entries)
    return markdown(heads, rows)


def shares_table(found: Mapping[str, Cell], times: Mapping[str, Sequence[float]]) -> str:
    """One line for each number of steps that share a gradient."""
    columns = (PATH, COSINE, SHAPE, CONSISTENCY)
    heads = ["steps a gradient", "gradients", "time", *(c.title for c in columns), "path error to that of 1", "clips"]
    rows = []
    for steps in SHARES:
        cell, each = found.get(f"reuse/{steps}"), found.get("reuse/1")
        if cell and each:
            pairs = zip(times[str(steps)], times["0"], strict=True)
            taken = f"{statistics.median(guided / free for guided, free in pairs):.2f}"
            entries = [str(steps), str(-(-FAST.guided_steps // steps)), taken, *(cell.entry(c) for c in columns)]
            rows.append([*entries, ratio(cell, each, PATH).text, str(len(cell.rows))])
    return markdown(heads, rows)


def take_times(model: EmbeddedModel, *, clips: int, rounds: int) -> None:
    """Seconds of sampling without guidance and with gradients that steps share, in turns, written to a file."""
    cases = held_out_cases(clips, 0)
    motions, noise = representations(model, cases, FAST), noise_of(cases)
    captions = [case.target.words for case in cases]
    settings = {"0": replace(FAST, weight=0.0)} | {str(steps): replace(FAST, reuse=steps) for steps in SHARES}
    generate(model, captions, noise, replace(FAST, steps=2, guided_steps=1, cool_down=0), motions=motions)  # warms up
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, setting in settings.items():
            start = time.perf_counter()
            generate(model, captions, noise, setting, motions=motions)
            seconds[name].append(round(time.perf_counter() - start, 3))
    write_whole(TIMES, (json.dumps({"run": this_run(), "seconds": seconds}, indent=1) + "\n").encode())


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
    same = {"cases": range(args.cases), "seeds": args.seeds}
    found |= {name: known[other].only(**same) for name, other in elsewhere.items() if other in known}
    runs = sorted({run for cell in found.values() for run in cell.record.runs})
    if not TIMES.exists():
        raise SystemExit(f"{TIMES} is not there: run without --report first")
    times = json.loads(TIMES.read_text(encoding="utf-8"))
    parts = [
        _HEAD.format(weight=PUBLISHED_WEIGHT),
        "\n".join(f"- measured on {run}" for run in runs),
        "## Size in pixels", rules_table(found, "size", SIZES),
        "## Number of frames", rules_table(found, "frames", LENGTHS),
        _WEIGHTS, weights_table(found),
        _SHARES.format(fast=FAST, run=times["run"]), shares_table(found, times["seconds"]),
    ]  # fmt: skip
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


_HEAD = """# One weight for every size and length

Written by `scripts/size_study.py`, which anyone can run again, on the embedded model and its held-out references
([FIDELITY.md](FIDELITY.md) says what they are, and what is measured). The preset `fast` with its rule `normalised`, and
the same with the rule `published` and weight {weight:g}, which push 16 frames of 64 x 64 pixels about as hard. The
things are as large, and move as far, in every size.

`normalised` pushes by its weight alone. The push of `published` is as strong as its gradient, which falls as there is
more to average over; the tables say how strong it is in the mean of a run's guided steps, as a share of the noise."""
_WEIGHTS = """## Half and twice the weight

Were another weight right for another size or length, half or twice the weight would follow better there."""
_SHARES = """## Gradients that steps share

`fast` takes a gradient at each of its {fast.guided_steps} guided steps of {fast.steps}. Time is that of all
{fast.steps} steps over that of a run without guidance, the median of turns ({run}); [PERFORMANCE.md](PERFORMANCE.md)
has the cost of a step in ComfyUI."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3, help="how often each run is timed, on an idle machine")
    parser.add_argument("--report", action="store_true", help="only write the page")
    args = parser.parse_args(arguments)
    args.store, args.model, args.first = STORE, MODEL_FILE, 0
    STORE.mkdir(parents=True, exist_ok=True)
    if not args.report:
        names = dict.fromkeys(source for name, source in sources(cells()).items() if name not in known_elsewhere())
        model = load_model()
        measure_all(model, {name: cells()[name] for name in names}, args)
        if not TIMES.exists():
            take_times(model, clips=4, rounds=args.rounds)
    write_page(args)


if __name__ == "__main__":
    main()
