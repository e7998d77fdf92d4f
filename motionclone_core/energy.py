"""The sparse motion energy (paper, Eq. 4 to 6). Pure: no model, no state.

Shapes used here:
    p   spatial positions      n   heads      d   channels per head      f   frames      k   kept entries
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


def sparse_energy(attention: Tensor, values: Tensor, indices: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared distance of the kept entries, ``mean(w * (A[indices] - values)^2)``.

    Args:
        attention: A of the video being sampled, ``[p, n, f, f]``.
        values: kept entries of the reference, ``[p, n, f, k]``.
        indices: where they are, any integer type, same shape.
        weights: w, how much each position and frame counts, ``[p, f]``; 1 if it is left out. The mean is over all of
            them whatever their weights: what is left in counts as much as without the rest (this project).

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
    distances = (kept - values.to(attention.dtype)).square()
    if weights is not None:
        distances = distances * rearrange(weights.to(attention.dtype), "p f -> p 1 f 1")
    return distances.mean()
