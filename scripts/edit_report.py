"""Turns the cells that scripts/edit_study.py measured into a section of docs/FIDELITY.md.

Shapes used here:
    o   objects      f   frames
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edit_cells import (
    MARGIN,
    OTHER_SIZES,
    OVERLAPS,
    Clip,
    EditSetting,
    Paths,
    cells,
    clips,
    unretimed,
    wanted,
)
from embedded.drawing import FRAMES, SIZE
from fidelity_cells import COLOUR, PATH, SHAPE, Cell, Column, ratio, read_cells
from motionclone_core.metrics import path_error
from motionclone_core.representation import Window
from tables import markdown

NEAR = 5.0  # pixels: a thing within it follows
RETIMED = {
    "half speed": "at half speed",
    "reversed": "backwards",
    "to and fro": "to and fro at double speed",
    "32 frames": "32 frames, fitted to 16",
}
PLACED = {
    "a tenth to the right": "a tenth of the frame to the right",
    "three quarters as large": "three quarters as large",
    "half as large": "half as large, a fifth of the frame to the right",
}
_SEEN = Column("seen", "seen, %", 100, 1)
Value = Callable[[Clip, Paths], float]


@dataclass(frozen=True)
class Run:
    """What one cell's clips show.

    Attributes:
        cell: its rows hold where things were found.
        setting: how it was sampled.
        clips: the references by their numbers.
    """

    cell: Cell
    setting: EditSetting
    clips: Mapping[int, Clip]

    def scored(self, value: Value) -> Cell:
        """The cell with a number of pixels of each clip as its path error."""
        rows = [
            {"case": row["case"], "seed": row["seed"], PATH.key: value(self.clips[row["case"]], np.array(row["paths"]))}
            for row in self.cell.rows
        ]
        return replace(self.cell, record=replace(self.cell.record, rows=tuple(rows)))


def read_runs(store: Path, origins: Mapping[str, Any]) -> dict[str, Run]:
    """The cells that were measured as they would be today, over the references that all of one kind have."""
    found = read_cells(store, {name: name for name in origins}, origins)
    settings, runs = cells(), {}
    for kind in {settings[name].clips for name in found}:
        alike = {name: cell for name, cell in found.items() if settings[name].clips == kind}
        references = {clip.index: clip for clip in clips(kind, max(len(cell.rows) for cell in alike.values()))}
        runs |= {name: Run(_sorted(cell), settings[name], references) for name, cell in alike.items()}
    return {name: runs[name] for name in settings if name in runs}


def _sorted(cell: Cell) -> Cell:
    rows = sorted(cell.rows, key=lambda row: (row["case"], row["seed"]))
    return replace(cell, record=replace(cell.record, rows=tuple(rows)))


# --- numbers of one clip ----------------------------------------------------------------------------------


def error_to(setting: EditSetting, paths: Callable[[Clip, EditSetting], Paths] = wanted) -> Value:
    """Path error to what a setting asks for."""
    return lambda clip, found: path_error(found, paths(clip, setting))


def apart(found: Paths, true: Paths) -> np.ndarray:
    """Mean distance of every found thing from every true path, ``[o, o]``."""
    return np.linalg.norm(found[:, None] - true[None], axis=-1).mean(-1)


def which_follows(found: Paths, true: Paths) -> int:
    """The thing that is nearest to a path ``[f, 2]``: what it shows is not what the reference shows there."""
    return int(np.linalg.norm(found - true, axis=-1).mean(-1).argmin())


def of_guided(setting: EditSetting, thing: int) -> Value:
    """Path error of what follows the thing that is guided."""
    return lambda clip, found: float(apart(found, wanted(clip, setting))[:, thing].min())


def of_other(setting: EditSetting, thing: int) -> Value:
    """Path error, to the path of the thing that is not guided, of what does not follow the one that is."""

    def error(clip: Clip, found: Paths) -> float:
        paths = wanted(clip, setting)
        return float(apart(found, paths)[1 - which_follows(found, paths[thing]), 1 - thing])

    return error


def moved_other(setting: EditSetting, thing: int, free: Run) -> Value:
    """How far what does not follow the guided thing is from where it is without guidance.

    As colours do not tell things apart, those of the two clips are paired so that they are least far from one another.
    """
    before = {row["case"]: np.array(row["paths"]) for row in free.cell.rows}

    def distance(clip: Clip, found: Paths) -> float:
        other = 1 - which_follows(found, wanted(clip, setting)[thing])
        distances = apart(found, before[clip.index])
        paired = other if np.trace(distances) <= np.trace(distances[::-1]) else 1 - other
        return float(distances[other, paired])

    return distance


def of_part(setting: EditSetting, choose: Callable[[np.ndarray], float]) -> Value:
    """One number of the path errors of both things, assigned as in `metrics.path_error`; first that of the first."""

    def error(clip: Clip, found: Paths) -> float:
        distances = apart(found, wanted(clip, setting))
        straight, crossed = np.diag(distances), np.diag(distances[::-1])
        return float(choose(straight if straight.sum() <= crossed.sum() else crossed))

    return error


# --- seams ------------------------------------------------------------------------------------------------


def edges(windows: Sequence[Window]) -> set[int]:
    """Steps, from a frame to the next, at which a window begins or ends, by their first frames."""
    last = max(map(max, windows))
    begins, ends = {window[0] - 1 for window in windows}, {window[-1] for window in windows}
    return {step for step in begins | ends if 0 <= step < last}


def middles(windows: Sequence[Window]) -> set[int]:
    """Steps at which one window comes to weigh more than the one before it."""
    pairs = itertools.pairwise(windows)
    return {(after[0] + before[-1]) // 2 for before, after in pairs}


def step_error(setting: EditSetting, *, at: Iterable[int] = (), not_at: Iterable[int] = ()) -> Value:
    """Mean length of what steps from frame to frame are too long, too short or beside their way.

    Args:
        setting: says the wanted path.
        at: the steps, by their first frames; all if there are none.
        not_at: steps to leave out.
    """
    chosen = sorted((set(at) or set(range(setting.frames - 1))) - set(not_at))

    def error(clip: Clip, found: Paths) -> float:
        beside = np.diff(found - wanted(clip, setting), axis=1)
        return float(np.linalg.norm(beside, axis=-1)[:, chosen].mean())

    return error


# --- tables -----------------------------------------------------------------------------------------------


def _common(*scored: Cell) -> list[Cell]:
    """The same cells over the references that all of them have."""
    cases = set.intersection(*({row["case"] for row in cell.rows} for cell in scored))
    return [cell.only(cases) for cell in scored]


def _beside_free(guided: Cell, free: Cell) -> list[str]:
    """Guided, unguided, and what is left of the error."""
    guided, free = _common(guided, free)
    return [guided.entry(PATH), free.entry(PATH), ratio(guided, free, PATH).text]


def times_table(runs: Mapping[str, Run], as_read: Cell) -> str:
    """Path errors of retimed and of placed motions."""
    heads = ["motion", "path error, px", "without guidance, px", "ratio", "to the path as it was, px", "clips"]
    free, lines = runs["one/no guidance"], []
    same = as_read.only(free.clips, 1)
    if same.rows:
        entries = _beside_free(same, free.scored(error_to(free.setting)))
        lines.append(["as read", *entries, "-", str(len(same.rows))])
    for name, title in {f"one/{name}": title for name, title in (RETIMED | PLACED).items()}.items():
        if name in runs:
            run = runs[name]
            entries = _beside_free(*(each.scored(error_to(run.setting)) for each in (run, free)))
            before = run.scored(error_to(run.setting, unretimed)).entry(PATH)
            lines.append([title, *entries, before, str(len(run.cell.rows))])
    return markdown(heads, lines)


def masks_table(runs: Mapping[str, Run]) -> str:
    """What follows and what stays, for each mask, beside no guidance and guidance of the whole frame."""
    heads = ["guided", "run", "path error of what is guided, px", "ratio", "path error of the other, px"]
    heads += ["the other, from where it is without guidance, px", "clips"]
    free, lines = runs["two/no guidance"], []
    for name, thing in (("first", 0), ("all but the first", 1)):
        for title, run in (
            ("no guidance", free), ("whole frame", runs.get("two/whole frame")), ("masked", runs.get(f"two/{name}")),
        ):  # fmt: skip
            if run is not None:
                values = of_guided(TWO_PATHS, thing), of_other(TWO_PATHS, thing)
                its, other, base = _common(*map(run.scored, values), free.scored(values[0]))
                moved = run.scored(moved_other(TWO_PATHS, thing, free)).only(free.clips)
                entries = [its.entry(PATH), ratio(its, base, PATH).text, other.entry(PATH), moved.entry(PATH)]
                lines.append([name, title, *entries, str(len(its.rows))])
    return markdown(heads, lines)


TWO_PATHS = cells()["two/whole frame"]


def parts_table(runs: Mapping[str, Run]) -> str:
    """Path errors of both things, together and apart."""
    heads = ["run", "path error, px", "ratio", "first, px", "second, px", "the nearer, px", "the farther, px"]
    heads += [f"both within {NEAR:g} px", "one", "none", COLOUR.title]
    free, lines = runs["two/no guidance"], []
    titles = {"no guidance": "no guidance", "whole frame": "one motion, read off both together"}
    titles |= {"each its own, tight": "two motions, each masked tightly"}
    titles |= {"each its own": "two motions, each in its half"}
    chosen = [(title, runs[f"two/{name}"]) for name, title in titles.items() if f"two/{name}" in runs]
    for title, run in chosen:
        both, base = _common(*(each.scored(of_part(TWO_PATHS, np.mean)) for each in (run, free)))
        parts = [run.scored(of_part(TWO_PATHS, choose)) for choose in (_first, _second, np.min, np.max)]
        within = run.scored(of_part(TWO_PATHS, lambda errors: float((errors <= NEAR).sum()))).values(PATH.key)
        counts = [str(int((within == number).sum())) for number in (2, 1, 0)]
        entries = [both.entry(PATH), ratio(both, base, PATH).text, *(part.entry(PATH) for part in parts)]
        lines.append([title, *entries, *counts, run.cell.entry(COLOUR)])
    return markdown(heads, lines)


def _first(errors: np.ndarray) -> float:
    return float(errors[0])


def _second(errors: np.ndarray) -> float:
    return float(errors[1])


def windows_table(runs: Mapping[str, Run]) -> str:
    """Path errors in windows, and errors of the steps at seams beside those of other steps."""
    heads = ["overlap", "run", "path error, px", "ratio", "step error where a window begins or ends, px"]
    heads += ["elsewhere, px", "ratio", "in the middle of an overlap, px", "ratio to elsewhere", "clips"]
    lines = []
    for overlap in OVERLAPS:
        free = runs.get(f"long/no guidance, overlap {overlap}")
        for title, run in (("no guidance", free), ("guided", runs.get(f"long/overlap {overlap}"))):
            if run is not None:
                left = _left(run, free)
                entries = [run.scored(error_to(run.setting)).entry(PATH), left, *_seams(run)]
                lines.append([str(overlap), title, *entries, str(len(run.cell.rows))])
    return markdown(heads, lines)


def _left(run: Run, free: Run | None) -> str:
    """The ratio of path errors to those without guidance."""
    if free is None:
        return "-"
    return ratio(*_common(*(each.scored(error_to(each.setting)) for each in (run, free))), PATH).text


def _seams(run: Run) -> list[str]:
    windows = run.setting.windows
    steps = (edges(windows), middles(windows))
    elsewhere = run.scored(step_error(run.setting, not_at=set.union(*steps)))
    at, mid = (run.scored(step_error(run.setting, at=some)) for some in steps)
    return [
        at.entry(PATH), elsewhere.entry(PATH), ratio(at, elsewhere, PATH).text,
        mid.entry(PATH), ratio(mid, elsewhere, PATH).text,
    ]  # fmt: skip


def sizes_table(runs: Mapping[str, Run], as_read: Cell) -> str:
    """Path errors at other sizes than the motion was read at."""
    heads = ["read at", "guides", "path error, px", "without guidance, px", "ratio", "% of the frame"]
    heads += ["seen, %", "without guidance", "shape, %", "without guidance", "clips"]
    lines = []
    for read, size in ((32, 64), (64, 64), (128, 64), (64, 32), (32, 32), (64, 128)):
        free = runs.get("one/no guidance" if size == SIZE else f"one/no guidance, {size}")
        run = runs.get(f"one/{read} to {size}")
        if free is None or (run is None and (read, size) != (SIZE, SIZE)):
            continue
        plain = as_read.only(free.clips, 1) if run is None else run.cell
        scored = plain if run is None else run.scored(error_to(run.setting))
        if plain.rows:
            entries = _beside_free(scored, free.scored(error_to(free.setting)))
            entries.append(replace(PATH, factor=100 / size, digits=1).written(
                100 / size * scored.mean(PATH.key), 100 / size * scored.error(PATH.key)
            ))  # fmt: skip
            entries += [each.entry(column) for column in (_SEEN, SHAPE) for each in (plain, free.cell)]
            lines.append([str(read), str(size), *entries, str(len(plain.rows))])
    return markdown(heads, lines)


# --- the section ------------------------------------------------------------------------------------------


def section(store: Path, origins: Mapping[str, Any], as_read: Cell | None) -> str:
    """What edits of motions do; empty if nothing of it is measured.

    Args:
        store: folder of the records.
        origins: what the records have to say of model, precision and setting, for every cell.
        as_read: the cell of ``fast`` that this page has anyway.
    """
    runs = read_runs(store, origins)
    if not runs:
        return ""
    none = Cell("fast/fast", replace(next(iter(runs.values())).cell.record, rows=()))
    as_read = as_read or none
    parts = [_HEAD.format(facts="\n".join(f"- {fact}" for fact in _facts(runs, len(origins))))]
    if "one/no guidance" in runs:
        parts += [_TIMES, times_table(runs, as_read)]
    if "two/no guidance" in runs:
        parts += [_MASKS.format(margin=MARGIN), masks_table(runs), _PARTS, parts_table(runs)]
    if any(name.startswith("long/") for name in runs):
        parts += [_WINDOWS.format(frames=FRAMES), windows_table(runs)]
    if any(f"one/no guidance, {size}" in runs for size in OTHER_SIZES):
        parts += [_SIZES, sizes_table(runs, as_read)]
    return "\n\n".join(parts)


def _facts(runs: Mapping[str, Run], number: int) -> list[str]:
    counts = sorted({len(run.cell.rows) for run in runs.values()})
    unfinished = len(runs) < number or len(counts) > 1
    measured = sorted({run for each in runs.values() for run in each.cell.record.runs})
    done = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return [
        *([f"**not finished**: {len(runs)} of {number} cells, over {done} clips"] * unfinished),
        f"held-out references of a kind: {counts[-1]}; seeds: 1",
        *(f"measured on {run}" for run in measured),
    ]


_HEAD = """## Edits of a motion

Written by `scripts/edit_study.py` (`make edits`), which goes on where it was. The preset `fast`, the same noise with
and without guidance. The store holds where each thing was found in each frame, from which all numbers follow. Settings
were chosen on references 64 and on; the ratio is that of path errors, guided to unguided.

{facts}"""
_TIMES = """### Another time, another place

References of one thing that goes its way (straight, curved, turning or under a camera; one that stays where it is has
no path to retime). The path error is that to the edited path. *To the path as it was* is the error of the same results
to the path of the reference's first 16 frames without the edit: where a motion is retimed in deed, it is much larger.
*As read* shows rows of the sections above."""
_MASKS = """### A mask

References of two things, neither of which comes where the other has been. The model often draws both in the colour of
one, and still moves them as asked; so things are followed here whatever their colour. The mask goes with the first
thing: in each frame a disc, {margin:g} pixels wider than the thing all around; *all but the first* is the same mask
inverted. What shows up nearest to the guided thing's path counts as what follows it, in every run; the other is then
looked for on the other path. *From where it is without guidance* is its mean distance from where it is in the unguided
clip of the same noise: a mask that left the rest alone would leave it there. Inverted, a mask that goes with a thing
guides all around it, and so says where the thing can be: it goes much of its way without being guided."""
_PARTS = """### Two motions in two regions

Each of two motions is read off a clip in which one of the two things is alone, and both lead one clip. *Tightly* masked
as above, a motion knows nothing of the ground around its thing; *in its half* of the frame it counts up to where what
the other thing passes is nearer. *First* and *second* are the errors of what follows the one motion and the other, the
things assigned as in the path error; *the nearer* and *the farther* those of the better followed thing of each clip and
of the other. The motions are summed before `normalised` gives the push its size, so that one of a steeper energy may
outweigh the other: *first* and *second* would then be alike, as either may be the steeper one, but not *the nearer* and
*the farther*. *Colour* says how often a thing of each colour that is asked for is there at all."""
_WINDOWS = """### Windows

References of 64 frames in which a thing goes along a closed curve, read and guided in sliding windows of {frames}
frames. *Step error* is how much a step from frame to frame is too long, too short or beside its way: between the frames
where a window begins or ends, in the middle of an overlap, where one window comes to weigh more than the other, and at
all other steps. If clips jumped at seams, it would be larger there."""
_SIZES = """### Other sizes

A motion read at one size guides another; things are as large and go as far in proportion. The model was trained on 64
pixels alone: *seen* and *shape* without guidance say how far it draws what it is asked for at another size."""
