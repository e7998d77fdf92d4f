"""The sparse motion energy (paper, Eq. 4 to 6). Pure: no model, no state.

Shapes used here:
    p   spatial positions      n   heads      d   channels per head      f   frames      k   kept entries
"""

from __future__ import annotations

from torch import Tensor

from .attention import temporal_attention


def sparse_energy(attention: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """Mean squared distance of the kept entries, ``mean((A[indices] - values)^2)``.

    Args:
        attention: A of the video being sampled, ``[p, n, f, f]``.
        values: kept entries of the reference, ``[p, n, f, k]``.
        indices: where they are, any integer type, same shape.

    Returns:
        The mean over positions, heads, frames and kept entries, a scalar of the attention's dtype.

    Raises:
        ValueError: the shapes do not fit one another.
    """
    if attention.shape[:3] != values.shape[:3] or values.shape != indices.shape:
        raise ValueError(
            f"attention of shape {tuple(attention.shape)} cannot be compared with values "
            f"{tuple(values.shape)} at indices {tuple(indices.shape)}"
        )
    kept = attention.gather(-1, indices.long())
    return (kept - values.to(attention.dtype)).square().mean()


def tap_energy(q: Tensor, k: Tensor, heads: int, values: Tensor, indices: Tensor) -> Tensor:
    """`sparse_energy` of one tap's queries and keys, ``[p, f, n * d]`` each, in float32 or better."""
    return sparse_energy(temporal_attention(q, k, heads), values, indices)
