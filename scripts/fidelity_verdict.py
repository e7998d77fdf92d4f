"""What one would ask of the method, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fidelity_cells import COLOUR, CONSISTENCY, COSINE, MET, NOT_MET, PATH, SHAPE, Cell, gain

FAR = 1.5
Answer = tuple[str, str, str, str]  # what, what one would ask, what was measured, whether that is enough
_LIMITED = ("main/no guidance", "main/guided")
_FAST = ("fast/no guidance", "fast/fast")
_CONTROL = "fast/another clip's motion"
_EQUAL = ("k/1", "fast/plain control")
_PUBLISHED = ("fast/published weight", "fast/published weight, plain control")


def verdict(cells: Mapping[str, Cell], latents: str) -> str:
    """A table over 100 steps and ``fast``, and a line over all cells.

    Args:
        cells: by name.
        latents: the range of the training clips' latents.
    """
    wanted = (*_LIMITED, *_FAST, _CONTROL, *_EQUAL, *_PUBLISHED)
    if any(name not in cells for name in wanted) or len({frozenset(cells[name].record.done) for name in wanted}) > 1:
        return "The comparison follows when these cells are measured over the same clips."
    published, fast = (_answers(*(cells[name] for name in names)) for names in (_LIMITED, _FAST))
    lines = ["| | asked | 100 steps, limited | `fast`, 30 steps |", "| --- | --- | --- | --- |"]
    for one, other in zip(published, fast, strict=True):
        lines.append(f"| {one[0]} | {one[1]} | {_marked(one)} | {_marked(other)} |")
    rest = [
        _of_control(cells["fast/no guidance"], cells[_CONTROL]),
        _of_k("at an equal push", *(cells[name] for name in _EQUAL)),
        _of_k("under the published rule", *(cells[name] for name in _PUBLISHED)),
        *_pace(cells["main/guided"], cells["fast/fast"]),
    ]
    lines += [f"| {answer[0]} | {answer[1]} | | {_marked(answer)} |" for answer in rest]
    return "\n".join([*lines, "", *_of_all(cells, latents)])


def _marked(answer: Answer) -> str:
    return f"{answer[2]}, {answer[3]}"


def _answers(floor: Cell, guided: Cell) -> list[Answer]:
    ratio, cosine = guided.mean(PATH.key) / floor.mean(PATH.key), guided.mean(COSINE.key)
    return [
        ("path error, guided / unguided", "at most 0.35", f"{ratio:.3f}", MET if ratio <= 0.35 else NOT_MET),
        ("velocity cosine, guided", "at least 0.80", guided.entry(COSINE), MET if cosine >= 0.80 else NOT_MET),
        ("shape, guided less unguided, points", "at least -5", *gain(guided, floor, SHAPE).at_least(-5)),
        ("colour, guided less unguided, points", "at least -5", *gain(guided, floor, COLOUR).at_least(-5)),
        ("temporal consistency, guided less unguided", "at least 0", *gain(guided, floor, CONSISTENCY).at_least(0)),
    ]


def _of_control(floor: Cell, control: Cell) -> Answer:
    within = gain(control, floor, COSINE).within(0.15)
    return ("velocity cosine, another clip's motion less no guidance", "within 0.15", *within)


def _of_k(where: str, sparse: Cell, plain: Cell) -> Answer:
    return f"velocity cosine, k = 1 less k = 16, {where}", "at least 0", *gain(sparse, plain, COSINE).at_least(0)


def _pace(published: Cell, fast: Cell) -> list[Answer]:
    return [
        ("path error, `fast` less 100 steps, px", "at most 0", *gain(fast, published, PATH).at_most(0)),
        ("velocity cosine, `fast` less 100 steps", "at least 0", *gain(fast, published, COSINE).at_least(0)),
    ]


def _of_all(cells: Mapping[str, Cell], latents: str) -> list[str]:
    low, high = (float(bound) for bound in latents.split(" to "))
    every = [cell for cell in _distinct(cells.values()) if cell.setting]
    kinds = {
        "without guidance": [cell for cell in every if not cell.guided],
        "guided, sweeps included": [cell for cell in every if cell.guided and not cell.unbounded],
        "guided by the published rule without a limit": [cell for cell in every if cell.unbounded],
    }
    lines = [
        f"| clips | all | beyond {low:.1f} to {high:.1f} | beyond {FAR * low:.1f} to {FAR * high:.1f} |",
        "| --- | --- | --- | --- |",
    ]
    for kind, found in kinds.items():
        beyond, far = (_outside(found, factor * low, factor * high) for factor in (1.0, FAR))
        lines.append(f"| {kind} | {_clips(found)} | {beyond} | {far} |")
    skipped = f"Clips with NaN or infinity, and guided steps skipped for them: {_not_numbers(every)}."
    return [
        "Sampling without guidance leaves the range of the training clips' latents now and then. What leaves it by "
        "half is broken:",
        "",
        *lines,
        "",
        skipped,
    ]


def _outside(cells: Iterable[Cell], low: float, high: float) -> int:
    return sum(int(((cell.values("low") < low) | (cell.values("high") > high)).sum()) for cell in cells)


def _not_numbers(cells: Iterable[Cell]) -> int:
    return sum(int(np.isnan(cell.values("low")).sum() + cell.values("skipped").sum()) for cell in cells)


def _clips(cells: Iterable[Cell]) -> int:
    return sum(len(cell.rows) for cell in cells)


def _distinct(cells: Iterable[Cell]) -> Iterable[Cell]:
    """One cell of those that show the same rows."""
    return {id(cell.record): cell for cell in cells}.values()
