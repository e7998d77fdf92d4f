"""A small differentiable video network with temporal attention, in place of a host's model.

Shapes used here:
    b   batch entries      f   frames      c, h, w   channels, height and width of the latent
    p   positions of a tap      n   heads      d   channels per head
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The first sees every cell of the latent, the others a quarter of them.
TAPS = (
    "down_blocks.0.motion.0.attention.0",
    "up_blocks.1.motion.0.attention.0",
    "up_blocks.1.motion.0.attention.1",
)
HEADS = 2
CHANNELS = 4


class TemporalAttention(nn.Module):
    """Residual self-attention over frames, at each position of [b * f, n * d, h, w]."""

    def __init__(self, channels: int, frames: int, heads: int) -> None:
        super().__init__()
        self.frames, self.heads = frames, heads
        self.encoding = nn.Parameter(torch.randn(frames, channels))
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, h: Tensor, tap: str, observer) -> Tensor:
        frames, channels, height, width = self.frames, *h.shape[1:]
        entries = h.shape[0] // frames
        rows = h.reshape(entries, frames, channels, height * width).permute(0, 3, 1, 2)
        rows = rows.reshape(-1, frames, channels)
        encoded = rows + self.encoding
        q, k, v = self.to_q(encoded), self.to_k(encoded), self.to_v(encoded)
        if observer is not None and tap in observer.taps:
            observer.observe(tap, q, k, self.heads)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = (rows + out).reshape(entries, height * width, frames, channels).permute(0, 2, 3, 1)
        return out.reshape(h.shape)


class ToyHost(nn.Module):
    """Latents [b * f, c, h, w] in and out; weights are constants, float64."""

    def __init__(self, frames: int, *, heads: int = HEADS, seed: int = 0) -> None:
        super().__init__()
        width = 4 * heads
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.enter = nn.Conv2d(CHANNELS, width, 3, padding=1)
            self.shrink = nn.Conv2d(width, width, 3, padding=1, stride=2)
            self.attention = nn.ModuleList(TemporalAttention(width, frames, heads) for _ in TAPS)
            self.leave = nn.Conv2d(width, CHANNELS, 3, padding=1)
        self.double().requires_grad_(False)
        self.reached: list[str] = []

    def run(self, x: Tensor, observer=None, *, skip: Sequence[str] = ()) -> Tensor:
        """Predict noise for x [b * f, c, h, w]; the taps named in ``skip`` are left out."""
        self.reached = []
        h = self.enter(x)
        for index, tap in enumerate(TAPS):
            if tap not in skip:
                h = self.attention[index](h, tap, observer)
                self.reached.append(tap)
            if index == 0:
                h = torch.tanh(self.shrink(h))
        h = nn.functional.interpolate(h, size=x.shape[-2:])
        return self.leave(h)


class Recorder:
    """An observer that keeps the q and k it is handed, with their graph."""

    taps = TAPS

    def __init__(self) -> None:
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(self, tap: str, q: Tensor, k: Tensor, heads: int) -> None:
        self.seen[tap] = (q, k)


def written_out_attention(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """exp(q.k / sqrt(d)) / sum of it, one head after the other; [p, f, n * d] -> [p, n, f, f]."""
    d = q.shape[-1] // heads
    maps = []
    for n in range(heads):
        part = slice(n * d, (n + 1) * d)
        weights = torch.exp((q[:, :, None, part] * k[:, None, :, part]).sum(-1) / d**0.5)
        maps.append(weights / weights.sum(-1, keepdim=True))
    return torch.stack(maps, dim=1)


def written_out_energy(attention: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """sum of (M * A - L)^2 over the number of ones in M, with dense L and M (paper, Eq. 5 and 6)."""
    mask = torch.zeros_like(attention).scatter(-1, indices.long(), 1.0)
    dense = torch.zeros_like(attention).scatter(-1, indices.long(), values.to(attention.dtype))
    return ((mask * attention - dense) ** 2).sum() / mask.sum()
