"""Energies over the steps of a run, as a picture.

Pictures are uint8 RGB, pixel (0, 0) is the top left one and its centre has the coordinates (0, 0).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    BACKGROUND,
    INK,
    MUTED,
    PATH_COLOUR,
    Colour,
    Picture,
    area_cover,
    blank,
    dot_cover,
    line_cover,
    painted,
    text_width,
    write,
)

Run = Sequence[tuple[int, float]]  # a step, counted from 0, and the energy there

# Told apart in lightness as well as in hue.
RUN_COLOURS: tuple[Colour, ...] = (PATH_COLOUR, (255, 176, 59), (214, 96, 196), (128, 222, 116))
SIZE = (288, 512)
_SMALLEST = (96, 160)
_LINES = 4  # of the grid, about
_TINY, _HUGE = 1e-300, 1e300  # beyond them floats run out: what lies there is drawn at the edge


@dataclass(frozen=True)
class _Axes:
    """Where the plot lies in the picture, and what its edges stand for.

    Attributes:
        box: left, top, right and bottom in pixels.
        steps: of the run.
        ticks: energies with a number, evenly spaced, the first at the bottom and the last at the top.
    """

    box: tuple[float, float, float, float]
    steps: int
    ticks: tuple[float, ...]

    def x(self, step: float) -> float:
        left, _, right, _ = self.box
        # A step takes up a column; a point lies in the middle of it.
        return left + (step + 0.5) / self.steps * (right - left)

    def y(self, energy: float) -> float:
        _, top, _, bottom = self.box
        low, high = self.ticks[0], self.ticks[-1]
        return bottom - (min(energy, high) - low) / (high - low) * (bottom - top)


def energy_plot(
    runs: Run | Mapping[str, Run],
    steps: int,
    *,
    guided: Collection[int] | None = None,
    size: tuple[int, int] = SIZE,
) -> Picture:
    """How the energy falls: a line for each run, over all steps; the guided ones stand on a lighter ground.

    Where there is no energy, the picture says so.

    Steps are counted from 1, as people do. A step whose energy is no number, where a gradient overflowed, breaks
    the line. Names of runs for which there is no room are left out, the last ones first.

    Args:
        runs: of one run, steps from 0 and the energy at each; or several runs by their names.
        steps: how many the run has, guided or not.
        guided: the steps from 0 that were guided. A gradient may serve several, and an energy is read once for all of
            them; and a step whose energy was read may have gone unguided. None: the steps that have an energy.
        size: height and width of the picture.

    Returns:
        ``[H, W, 3]``.

    Raises:
        ValueError: a step that the run does not have, an energy below 0, or too small a picture.
    """
    named = dict(runs) if isinstance(runs, Mapping) else {"": runs}
    _require_runs(named, steps, guided or (), size)
    page, letters = blank(*size), max(9, round(size[0] / 22))
    energies = [energy for run in named.values() for _, energy in run if math.isfinite(energy)]
    if not energies:
        _write_middle(page, "no energy was read" if guided else "no step was guided", letters)
        return page
    if guided is None:
        guided = {step for run in named.values() for step, _ in run}
    axes = _axes(_ticks(energies), steps, size, letters)
    page = _with_ground(page, axes, sorted(guided))
    _write_numbers(page, axes, letters)
    if guided:
        _write_guided(page, axes, 1 + max(guided), letters)
    for run, colour in zip(named.values(), _colours(len(named)), strict=True):
        page = _with_run(page, axes, run, colour, pen=max(1.2, size[0] / 130))
    _write_names(page, list(named), letters, axes)
    return page


def _axes(ticks: tuple[float, ...], steps: int, size: tuple[int, int], letters: int) -> _Axes:
    numbers = max(text_width(number, letters, False) for number in _spoken(ticks))
    box = (numbers + 1.9 * letters, 3.0 * letters, size[1] - 1.4 * letters, size[0] - 3.4 * letters)
    return _Axes(box, steps, ticks)


def _write_middle(page: Picture, text: str, letters: int) -> None:
    at = (page.shape[1] - text_width(text, letters, False)) // 2, page.shape[0] // 2
    write(page, text, at, letters, MUTED)


def _require_runs(
    runs: Mapping[str, Run], steps: int, guided: Collection[int], size: tuple[int, int]
) -> None:
    if size[0] < _SMALLEST[0] or size[1] < _SMALLEST[1]:
        raise ValueError(
            f"a plot of {size[1]} x {size[0]} pixels: at least {_SMALLEST[1]} x {_SMALLEST[0]} can be read"
        )
    for step in guided:
        if not 0 <= step < steps:
            raise ValueError(f"step {step} cannot have been guided: the run has {steps} steps from 0")
    for name, run in runs.items():
        for step, energy in run:
            if not 0 <= step < steps:
                raise ValueError(f"{name or 'the run'} has an energy at step {step}, it has {steps} steps from 0")
            if energy < 0:
                raise ValueError(f"{name or 'the run'} has the energy {energy} at step {step}: energies are at least 0")


def _ticks(energies: Sequence[float]) -> tuple[float, ...]:
    """Round numbers from 0 to above the highest energy."""
    highest = min(max(energies), _HUGE)
    highest = max(highest, _TINY) if highest else 1.0
    scale = 10.0 ** math.floor(math.log10(highest / _LINES))
    # A logarithm may be rounded to the wrong side of a power of ten: the largest step is taken unasked.
    steps = (scale * round_one for round_one in (1, 2, 2.5, 5))
    step = next((step for step in steps if highest / step <= _LINES), 10 * scale)
    return tuple(step * i for i in range(math.ceil(highest / step - 1e-9) + 1))


def _spoken(ticks: Sequence[float]) -> list[str]:
    """As few digits as tell the ticks apart."""
    step = ticks[1] - ticks[0]
    if not 1e-4 <= step < 1e5:
        return ["0" if not tick else f"{tick:.2g}" for tick in ticks]
    places = max(0, -math.floor(math.log10(step)))
    places += f"{step:.{places + 1}f}"[-1] != "0"
    return [f"{tick:.{places}f}" for tick in ticks]


def _mixed(share: float) -> Colour:
    """Between the background and the ink."""
    return tuple(round(a + share * (b - a)) for a, b in zip(BACKGROUND, INK, strict=True))


def _with_ground(page: Picture, axes: _Axes, guided: Sequence[int]) -> Picture:
    """The columns of guided steps, and the lines of the grid."""
    left, top, right, bottom = axes.box
    half = (right - left) / axes.steps / 2
    columns = [_rectangle(axes.x(step) - half, top, axes.x(step) + half, bottom) for step in guided]
    page = painted(page, area_cover(page.shape[:2], columns), _mixed(0.11), 1.0)
    heights = [round(axes.y(tick)) for tick in axes.ticks]
    lines = [np.array([[left, y], [right, y]]) for y in heights]
    page = painted(page, line_cover(page.shape[:2], lines[1:], 1.0), _mixed(0.2), 1.0)
    return painted(page, line_cover(page.shape[:2], lines[:1], 1.0), _mixed(0.55), 1.0)


def _rectangle(left: float, top: float, right: float, bottom: float) -> NDArray[np.float64]:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _write_guided(page: Picture, axes: _Axes, last: int, letters: int) -> None:
    """What the lighter ground says, at the upper right of it, where the energy has fallen; if there is room."""
    name, size = "guided", round(0.85 * letters)
    width = text_width(name, size, False)
    end = axes.x(last - 0.5) - 0.6 * size
    if end - width > axes.box[0] + 3 * letters:
        write(page, name, (round(end - width), round(axes.box[1] + 1.4 * size)), size, _mixed(0.45))


def _write_numbers(page: Picture, axes: _Axes, letters: int) -> None:
    left, _, _, bottom = axes.box
    for tick, number in zip(axes.ticks, _spoken(axes.ticks), strict=True):
        at = round(left - 0.7 * letters - text_width(number, letters, False)), round(axes.y(tick) + 0.36 * letters)
        write(page, number, at, letters, MUTED)
    for step in _numbered(axes, letters):
        number = str(step)
        x = round(axes.x(step - 1) - text_width(number, letters, False) / 2)
        write(page, number, (x, round(bottom + 1.3 * letters)), letters, MUTED)
    name = "step"
    middle = (axes.box[0] + axes.box[2] - text_width(name, letters, False)) / 2
    write(page, name, (round(middle), round(bottom + 2.7 * letters)), letters, MUTED)


def _numbered(axes: _Axes, letters: int) -> list[int]:
    """The steps that have a number, from 1: the first, and every so many that they do not touch."""
    left, _, right, _ = axes.box
    room = (text_width(str(axes.steps), letters, False) + 1.2 * letters) * axes.steps / (right - left)
    every = next(n * 10**power for power in range(9) for n in (1, 2, 5) if n * 10**power >= room)
    steps = [step for step in range(every, axes.steps + 1, every) if step - 1 >= room]
    return [1, *steps]


def _with_run(page: Picture, axes: _Axes, run: Run, colour: Colour, *, pen: float) -> Picture:
    points = [(axes.x(step), axes.y(energy) if math.isfinite(energy) else math.nan) for step, energy in sorted(run)]
    strokes: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isnan(point[1]):
            strokes.append([])
        else:
            strokes[-1].append(point)
    lines = [np.array(stroke) for stroke in strokes if stroke]
    if not lines:
        return page
    page = painted(page, line_cover(page.shape[:2], lines, 2.6 * pen), BACKGROUND, 0.5)
    page = painted(page, line_cover(page.shape[:2], lines, pen), colour, 1.0)
    ends = [lines[0][0], lines[-1][-1]]
    # Where there is room every step has its dot; else the first and the last have.
    roomy = (axes.box[2] - axes.box[0]) / axes.steps > 6 * pen
    return painted(page, dot_cover(page.shape[:2], np.concatenate(lines) if roomy else ends, 1.5 * pen), colour, 1.0)


def _colours(count: int) -> list[Colour]:
    return [RUN_COLOURS[i % len(RUN_COLOURS)] for i in range(count)]


def _write_names(page: Picture, names: Sequence[str], letters: int, axes: _Axes) -> None:
    """What is drawn, above the plot: the title to the left, and the names of the runs to the right."""
    baseline = round(1.75 * letters)
    write(page, "energy", (round(1.0 * letters), baseline), letters, INK, bold=True)
    title = 2.2 * letters + text_width("energy", letters, True)
    shown = [(name, colour) for name, colour in zip(names, _colours(len(names)), strict=True) if name]
    size = _size_of_names([name for name, _ in shown], axes.box[2] - title, letters)
    while shown and _names_width([name for name, _ in shown], size, letters) > axes.box[2] - title:
        shown.pop()
    x = axes.box[2] - _names_width([name for name, _ in shown], size, letters) + 0.6 * letters
    for name, colour in shown:
        key = dot_cover(page.shape[:2], [np.array([x, baseline - 0.36 * letters])], 0.36 * letters)
        page[:] = painted(page, key, colour, 1.0)
        write(page, name, (round(x + 0.7 * letters), baseline), size, INK)
        x += _names_width([name], size, letters)


def _size_of_names(names: Sequence[str], room: float, letters: int) -> int:
    """The largest size of letters at which all names have room, but no smaller than can be read."""
    sizes = range(letters, max(6, round(0.7 * letters)), -1)
    return next((size for size in sizes if _names_width(names, size, letters) <= room), sizes.stop)


def _names_width(names: Sequence[str], size: int, letters: int) -> float:
    """Of names with the dots before them and the gaps between."""
    return sum(text_width(name, size, False) + 2.0 * letters for name in names)
