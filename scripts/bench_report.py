"""Turns what scripts/bench.py measured into docs/PERFORMANCE.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from floor import Floor
from tables import markdown

PAGE = "PERFORMANCE.md"
FULL = 512
_WINDOW, _FLOAT16 = 16, 2
_SHARES = (1, 2, 3, 4)
_KINDS = ("measured", "counted", "shared")
_MIB, _GIB = 2**20, 2**30
Row = Mapping[str, Any]


def write_page(store: Path, floors: Sequence[Floor]) -> None:
    """Write the page beside the folder of the measurements.

    Args:
        store: folder of the measurements, one JSON file per machine.
        floors: of the sizes to show.

    Raises:
        SystemExit: nothing is measured.
    """
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(store.glob("*.json"))]
    if not runs:
        raise SystemExit(f"{store} has no measurement: run without --report first")
    parts = [_HEAD]
    for run in runs:
        where = "CPU" if run["cpu"] else "GPU"
        dates = sorted({row["date"] for kind in _KINDS for row in run.get(kind, ())})
        facts = f"{where}, ComfyUI {run['comfyui']} with `{' '.join(run['arguments'])}`, {', '.join(dates)}."
        parts += [f"## {run['machine']}", facts]
        if run["measured"]:
            parts += [_TIMES, times(run["measured"], floors)]
        if run.get("shared"):
            parts += [_SHARED, shared(run["shared"])]
        if run["counted"]:
            whole = [row for row in run["counted"] if (row["frames"], row["control"]) == (_WINDOW, False)]
            largest = max(row["size"] for row in whole)
            parts += [_KEPT, kept(run["counted"], 0.5 if run["cpu"] else 1.0), _LAYERS]
            parts += [by_layer(row) for row in whole if row["size"] == largest]
    parts += [_FLOOR, table_of_floors(floors)]
    (store.parent / PAGE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def times(rows: Sequence[Row], floors: Sequence[Floor]) -> str:
    """One line for each size and mode: medians, and the range of the pairs."""
    least = {floor.size: f"{floor.ratio:.3f}" for floor in floors}
    heads = ["clip", "memory", "guided / unguided step", "floor", "guided step, s", "extraction / conditional pass"]
    heads += ["peak guided, GiB", "peak unguided, GiB", "motion file, KiB", "pairs"]
    lines = []
    for row in rows:
        ratios = [guided / unguided for guided, unguided in row["seconds"]]
        passes = [extraction / conditional for extraction, conditional in row["passes"]]
        peaks = [f"{peak / _GIB:.2f}" if peak else "-" for peak in row["peak"]]
        lines.append([
            _clip(row), row["mode"], _spread(ratios), least.get(row["size"], "-"),
            f"{statistics.median(guided for guided, _ in row['seconds']):.2f}", _spread(passes),
            *peaks, f"{row['motion_file'] / 1024:.0f}", str(len(ratios)),
        ])  # fmt: skip
    return markdown(heads, lines)


def shared(rows: Sequence[Row]) -> str:
    """One line for each size and mode: the mean cost of guided steps of which several share a gradient."""
    heads = ["clip", "memory", "sharing / unguided step", *(f"reuse {steps}" for steps in _SHARES), "runs"]
    lines = []
    for row in rows:
        steps = row["seconds"]
        alone = [sharing / unguided for _, sharing, unguided in steps]
        means = [
            statistics.median((guided + (n - 1) * sharing) / (n * unguided) for guided, sharing, unguided in steps)
            for n in _SHARES
        ]
        lines.append([_clip(row), row["mode"], _spread(alone), *(f"{mean:.3f}" for mean in means), str(len(steps))])
    return markdown(heads, lines)


def kept(rows: Sequence[Row], half: float) -> str:
    """One line for each case, and what a line through the sizes says of the full one.

    Args:
        rows: what was counted.
        half: what part of it float16 takes.
    """
    heads = ["clip", "memory", "kept, MiB", "peak guided, MiB", "peak unguided, MiB", "guided, float16, weights, GiB"]

    def line(clip: str, row: Row, sizes: Sequence[float]) -> list[str]:
        whole = (half * sizes[1] + _FLOAT16 * row["weights"]) / _GIB
        return [clip, row["mode"], *(f"{size / _MIB:.0f}" for size in sizes), f"{whole:.2f}"]

    lines = [line(_clip(row), row, (row["kept"], *row["peaks"])) for row in rows]
    for mode, control in dict.fromkeys((row["mode"], row["control"]) for row in rows):
        those = [row for row in rows if (row["mode"], row["control"], row["frames"]) == (mode, control, _WINDOW)]
        by_size = {row["size"]: row for row in those}
        if len(by_size) > 1:
            columns = [[row["kept"] for row in by_size.values()]]
            columns += [[row["peaks"][i] for row in by_size.values()] for i in (0, 1)]
            full = [at_full_size(list(by_size), column) for column in columns]
            drawn = {**those[0], "size": FULL}
            lines.append(line(f"{_clip(drawn)}, by a straight line", drawn, full))
    return markdown(heads, lines)


def by_layer(row: Row, most: int = 12) -> str:
    """What is kept under each layer: the largest entries, and the rest in one."""
    entries = sorted(row["by_layer"].items(), key=lambda entry: -entry[1])
    lines = [[f"`{place or 'between layers'}`", f"{size / _MIB:.1f}"] for place, size in entries[:most]]
    rest = sum(size for _, size in entries[most:])
    return markdown([f"{_clip(row)}, {row['mode']}", "kept, MiB"], [*lines, ["all others", f"{rest / _MIB:.1f}"]])


def _clip(row: Row) -> str:
    clip = f"{row['frames']} frames of {row['size']} x {row['size']}"
    clip += f" in windows of {_WINDOW}" if row["frames"] > _WINDOW else ""
    return clip + (", SparseCtrl" if row["control"] else "")


def at_full_size(sizes: Sequence[int], values: Sequence[float]) -> float:
    """A value that grows in a straight line with the number of pixels, from the two largest sizes measured."""
    (low, below), (high, above) = sorted(zip(sizes, values, strict=True))[-2:]
    return below + (above - below) * (FULL**2 - low**2) / (high**2 - low**2)


def table_of_floors(floors: Sequence[Floor]) -> str:
    """One line for each size."""
    heads = ["size", "conditional pass, TFLOP", "up to the last tap", "its way back", "guided / unguided, at least"]
    lines = [
        [f"{f.size} x {f.size}", f"{f.whole / 1e12:.2f}", f"{f.part / f.whole:.3f}", f"{f.back / f.whole:.3f}",
         f"{f.ratio:.3f}"]
        for f in floors
    ]  # fmt: skip
    return markdown(heads, lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


_HEAD = """# What guidance costs

Written by `scripts/bench.py` (`make bench`), which anyone can run again on a machine that does nothing else: random
weights of the real shapes (SD 1.5 with AnimateDiff v3), a real ComfyUI server."""
_TIMES = """A guided step and the unguided one right after it, in one run: the median of the pairs' ratios, and their
range; beside it the floor (below). Both steps have a conditional and an unconditional pass. The extraction is one pass,
ended at the last layer that is read."""
_SHARED = """A step that shares the gradient of the one before it (`reuse`), between that one and an unguided one; and
what a guided step costs in the mean, in unguided ones, where 1 to 4 in a row share a gradient."""
_KEPT = """What lives when the backward pass starts, and at the peak of a step, beside the weights: counted operation by
operation; in the last column the weights that a run needs at hand are added (text encoder and VAE are not among them),
and all is float16. On a CPU activations are counted in float32, of which float16 takes half."""
_LAYERS = """By the layer that made it (its class, and those of the two around it), at the largest size:"""
_FLOOR = """## The floor

Floating-point operations of 16 frames, counted on PyTorch's meta device. A gradient down to the latents needs the way
back through every layer up to the last one that is read, and no gradient of a weight. What is left of a guided step,
two passes, is what an unguided one has."""
