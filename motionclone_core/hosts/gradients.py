"""Gradients over a run: at which scale they are taken, and for how many steps one serves."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .base import Gradient

log = logging.getLogger(__name__)

Prediction = TypeVar("Prediction")


class GradientScale:
    """What the energy of a run is multiplied by on its way back through a network in half precision.

    Too small a gradient is lost there, too large a one is infinite: a gradient that is not finite is taken again at
    smaller scales, and the run keeps the one that helps. Where none does, the next step tries the smallest first, and
    no other unless that helps. Powers of two cost no bit.
    """

    def __init__(self) -> None:
        self._scales = (2.0**12, 2.0**6, 1.0, 2.0**-6)
        self._helpless = False

    def take(
        self, attempt: Callable[[float], tuple[Prediction, Gradient]]
    ) -> tuple[Prediction, Gradient]:
        """What ``attempt`` gives at the largest scale at which its gradient is finite.

        Where no scale helps the gradient is not finite.

        Args:
            attempt: runs the model at a scale; gives its prediction, and the gradient.
        """
        if self._helpless:
            prediction, gradient = attempt(self._scales[-1])
            if not gradient.finite:
                return prediction, gradient
        self._helpless = False
        for scale in self._scales:
            prediction, gradient = attempt(scale)
            # No scale mends an energy that is no number: the network itself has overflowed.
            if gradient.finite or not all(math.isfinite(energy) for energy in gradient.energies):
                break
        else:
            self._helpless = True
        if gradient.finite and scale != self._scales[0]:
            log.info("gradients overflow at a scale of %g; from here on it is %g", self._scales[0], scale)
            self._scales = tuple(smaller for smaller in self._scales if smaller <= scale)
        return prediction, gradient


class SharedGradient:
    """The last gradient of a run, for the steps that share it.

    What is shared is the gradient by the latent z of unit variance, in which a step's push is written (paper, Eq. 2).

    Args:
        steps: how many steps share a gradient.
        flow: whether x = (1 - sigma) z_0 + sigma * eps, and not z_0 + sigma * eps.
    """

    def __init__(self, steps: int, *, flow: bool = False) -> None:
        self._steps, self._kept_share = steps, (lambda sigma: 1.0 - sigma) if flow else (lambda sigma: 1.0)
        self._kept: tuple[int, Tensor] | None = None

    def at(self, step: int, sigma: float) -> Tensor | None:
        """The gradient by x at ``sigma``; None if this step has to take its own."""
        # A step that comes before the one whose gradient is kept belongs to a pass that has started over.
        if self._steps == 1 or self._kept is None or not 0 <= step - self._kept[0] < self._steps:
            return None
        return self._kept[1] / self._deviation(sigma)

    def keep(self, gradient: Tensor, step: int, sigma: float) -> None:
        """Remember a gradient by x, taken at ``sigma``; one that is not finite serves no other step."""
        if self._steps > 1 and bool(torch.isfinite(gradient).all()):
            self._kept = (step, gradient * self._deviation(sigma))

    def _deviation(self, sigma: float) -> float:
        """x / z."""
        return math.hypot(self._kept_share(sigma), sigma)
