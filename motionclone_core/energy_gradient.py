"""The observer that sums the energy of one model call, and takes its gradient at the last tap.

Shapes used here:
    b   batch entries of a model call      f   frames      c   channels
    r   rows of a tap: b times its positions, batch entries outermost
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .appearance import Pull
from .attention import temporal_attention
from .energy import sparse_energy
from .grids import RepresentationMismatchError
from .hosts.base import Gradient
from .representation import TapRepresentation
from .taps import execution_order


@dataclass(frozen=True)
class Target:
    """What one batch entry of a call is held against at one tap, and how much that counts."""

    kept: TapRepresentation
    share: float = 1.0


Targets = Mapping[str, Sequence[Sequence[Target]]]  # in one window, by tap name and batch entry


class EnergyGradient:
    """Sums the energy of the taps of one model call and takes its gradient at the last of them.

    The energy of a tap is a mean over all that it is held against: where a call's attention sees several windows, one
    after the other, over all of them.

    From there on nothing is recorded: `observe` turns autograd off, and whoever called the model under
    ``torch.enable_grad()`` gets it back when that block ends. The backward pass thus starts as early as
    it can, and the rest of the network costs what it costs without guidance.

    Args:
        x: see `hosts.base.Guide.observer`.
        targets: what each of the call's windows is held against.
        entries: batch entries of the call.
        scale: see `hosts.base.Guide.observer`.
        pulls: what holds keys against an unguided video, by tap, in a call of one window and one batch entry.
    """

    def __init__(
        self,
        x: Tensor,
        targets: Sequence[Targets],
        entries: int = 1,
        scale: float = 1.0,
        pulls: Mapping[str, Pull] | None = None,
    ) -> None:
        self._x = x
        self._pulls = {name: pull.to(x.device) for name, pull in (pulls or {}).items()}
        self._scale = scale
        self._entries = entries
        self._targets = [
            {
                name: [[replace(target, kept=target.kept.to(x.device)) for target in entry] for entry in tap]
                for name, tap in window.items()
            }
            for window in targets
        ]
        self._reached = Counter[str]()
        self._energies: list[list[Tensor]] = []
        self._gradient: Tensor | None = None

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(sorted({*self._targets[0], *self._pulls}, key=execution_order))

    def observe(self, tap: str, q: Tensor, k: Tensor, heads: int) -> None:
        """Add one tap's energy; at the last tap take the gradient and stop recording."""
        windows = len(self._targets)
        targets = self._targets[self._reached[tap] % windows].get(tap)
        self._reached[tap] += 1
        energies = [] if targets is None else self._motion_energies(tap, q, k, heads, targets)
        if tap in self._pulls:
            pulled = self._pulls[tap].energy(k)
            energies = [sum(energies, start=pulled)]
        self._energies.append([energy / windows for energy in energies])
        if len(self._energies) == windows * len(self.taps):
            self._take_gradient()

    def _motion_energies(
        self, tap: str, q: Tensor, k: Tensor, heads: int, targets: Sequence[Sequence[Target]]
    ) -> list[Tensor]:
        """Of each batch entry."""
        _require_shape(tap, q, [entry[0].kept for entry in targets])
        entries = zip(q.chunk(self._entries), k.chunk(self._entries), targets, strict=True)
        return [_energy(temporal_attention(q_b, k_b, heads), entry) for q_b, k_b, entry in entries]

    def result(self) -> Gradient:
        """See `hosts.base.GradientObserver`."""
        if self._gradient is None:
            raise ValueError(
                f"the model reached {len(self._reached)} of {len(self.taps)} guided layers: a motion module's effect "
                f"or scale of 0, another patch, or torch.compile before PyTorch 2.6 leaves the rest out"
            )
        energies = tuple(float(sum(entry)) for entry in zip(*self._energies, strict=True))
        return Gradient(self._gradient, energies)

    def _take_gradient(self) -> None:
        # Batch entries do not see one another, so the gradient of the sum holds each entry's own.
        total = torch.stack([energy for tap in self._energies for energy in tap]).sum()
        (scaled,) = torch.autograd.grad(total * self._scale, self._x)
        self._gradient = scaled / self._scale
        self._energies = [[energy.detach() for energy in tap] for tap in self._energies]
        torch.set_grad_enabled(False)


def _energy(attention: Tensor, targets: Sequence[Target]) -> Tensor:
    """Of one batch entry at one tap."""
    energies = [
        target.share * sparse_energy(attention, target.kept.values, target.kept.indices, target.kept.weights)
        for target in targets
    ]
    return torch.stack(energies).sum()


def _require_shape(tap: str, q: Tensor, entries: Sequence[TapRepresentation]) -> None:
    rows, frames = sum(kept.values.shape[0] for kept in entries), entries[0].frames
    if q.shape[0] != rows or q.shape[1] != frames:
        raise RepresentationMismatchError(
            f"{tap} works on {q.shape[1]} frames and {q.shape[0]} positions, the motion representation has "
            f"{frames} frames and {rows} positions there: take other patches of the attention away"
        )
