"""What one would ask of the method, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fidelity_cells import (
    COLOUR,
    CONSISTENCY,
    COSINE,
    FIDELITY,
    FRECHET,
    MET,
    NOT_MET,
    PATH,
    SHAPE,
    Cell,
    Estimate,
    gain,
    level,
    ratio,
)
from tables import markdown

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
    bounds = _bounds(latents)
    published, fast = (_answers(*(cells[name] for name in names), bounds) for names in (_LIMITED, _FAST))
    rows = [(one[0], one[1], _marked(one), _marked(other)) for one, other in zip(published, fast, strict=True)]
    rest = [
        _of_control(cells["fast/no guidance"], cells[_CONTROL]),
        _of_k("at an equal push", *(cells[name] for name in _EQUAL)),
        _of_k("under the published rule", *(cells[name] for name in _PUBLISHED)),
        *_pace(cells["main/guided"], cells["fast/fast"]),
    ]
    rows += [(answer[0], answer[1], "", _marked(answer)) for answer in rest]
    asked = markdown(["", "asked", "100 steps, limited", "`fast`, 30 steps"], rows)
    return "\n".join([asked, "", *_beside(cells), "", *_of_all(cells, bounds)])


def _marked(answer: Answer) -> str:
    return f"{answer[2]}, {answer[3]}"


def _bounds(latents: str) -> tuple[float, float]:
    low, high = (float(bound) for bound in latents.split(" to "))
    return low, high


def answers(floor: Cell, guided: Cell) -> list[Answer]:
    """What one would ask of guided clips beside those without guidance."""
    return [
        ("path error, guided / unguided", "at most 0.35", *ratio(guided, floor, PATH).at_most(0.35)),
        ("velocity cosine, guided", "at least 0.80", *level(guided, COSINE).at_least(0.80)),
        ("shape, guided less unguided, points", "at least -5", *gain(guided, floor, SHAPE).at_least(-5)),
        ("colour, guided less unguided, points", "at least -5", *gain(guided, floor, COLOUR).at_least(-5)),
        ("temporal consistency, guided less unguided", "at least 0", *gain(guided, floor, CONSISTENCY).at_least(0)),
    ]


def _answers(floor: Cell, guided: Cell, bounds: tuple[float, float]) -> list[Answer]:
    return [
        *answers(floor, guided),
        ("clips beyond the training clips' latents (unguided)", "none", *_beyond(floor, guided, bounds, 1.0)),
        ("clips beyond them by half (unguided)", "none", *_beyond(floor, guided, bounds, FAR)),
    ]


def _beyond(floor: Cell, guided: Cell, bounds: tuple[float, float], factor: float) -> tuple[str, str]:
    found, free = (_outside([cell], *(factor * bound for bound in bounds)) for cell in (guided, floor))
    return f"{found} of {len(guided.rows)} ({free})", NOT_MET if found else MET


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


def _beside(cells: Mapping[str, Cell]) -> list[str]:
    fast, k_1, plain = cells["fast/fast"], *(cells[name] for name in _EQUAL)
    found: dict[str, Estimate] = {
        "motion fidelity, `fast` less 100 steps": gain(fast, cells["main/guided"], FIDELITY),
        "Fréchet, `fast` less 100 steps, % of diagonal": gain(fast, cells["main/guided"], FRECHET),
        "motion fidelity, k = 1 less k = 16, at an equal push": gain(k_1, plain, FIDELITY),
        "temporal consistency, k = 1 less k = 16, at an equal push": gain(k_1, plain, CONSISTENCY),
        "temporal consistency, k = 1 less `fast`": gain(k_1, fast, CONSISTENCY),
        "path error, another clip's motion less no guidance, px": gain(cells[_CONTROL], cells[_FAST[0]], PATH),
    }
    table = markdown(["", "measured"], ((what, estimate.text) for what, estimate in found.items()))
    return ["Beside what is asked:", "", table]


def _of_all(cells: Mapping[str, Cell], bounds: tuple[float, float]) -> list[str]:
    low, high = bounds
    every = [cell for cell in _distinct(cells.values()) if cell.setting]
    kinds = {
        "without guidance": [cell for cell in every if not cell.guided],
        "guided, sweeps included": [cell for cell in every if cell.guided and not cell.unbounded],
        "guided by the published rule without a limit": [cell for cell in every if cell.unbounded],
    }
    heads = ["clips", "all", f"beyond {low:.2f} to {high:.2f}", f"beyond {FAR * low:.2f} to {FAR * high:.2f}"]
    rows = []
    for kind, found in kinds.items():
        beyond, far = (_outside(found, factor * low, factor * high) for factor in (1.0, FAR))
        rows.append((kind, str(_clips(found)), str(beyond), str(far)))
    broken = {cell.name: _outside([cell], FAR * low, FAR * high) for cell in every}
    named = ", ".join(f"{name} ({count})" for name, count in broken.items() if count)
    skipped = f"Clips with NaN or infinity, and guided steps skipped for them: {_not_numbers(every)}."
    return [
        "Sampling without guidance leaves the range of the training clips' latents now and then. What leaves it by "
        "half is broken:",
        "",
        markdown(heads, rows),
        "",
        *([f"Beyond by half: {named}.", ""] if named else []),
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
