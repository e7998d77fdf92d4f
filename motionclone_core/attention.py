"""Temporal attention: queries and keys to probabilities, and the strongest of them.

Shapes used here:
    r   rows: batch entries times spatial positions, batch entries outermost
    f   frames
    n   heads
    d   channels per head
    k   kept entries per row of attention
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def temporal_attention(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Attention over frames, A = softmax(q k^T / sqrt(d)) (paper, Eq. 3).

    Args:
        q: queries after the positional encoding, ``[r, f, n * d]``, any floating dtype.
        k: keys after the positional encoding, same shape.
        heads: n.

    Returns:
        Probabilities in float32 (float64 for float64), ``[r, n, f, f]``; rows sum to 1.

    Raises:
        ValueError: the shapes differ or the channels do not divide into ``heads``.
    """
    if q.shape != k.shape or q.ndim != 3:
        raise ValueError(
            f"temporal self-attention needs q and k of one shape [rows, frames, channels], "
            f"got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if q.shape[-1] % heads:
        raise ValueError(f"{q.shape[-1]} channels do not divide into {heads} heads")
    dtype = torch.promote_types(q.dtype, torch.float32)
    q = rearrange(q.to(dtype), "r f (n d) -> r n f d", n=heads)
    k = rearrange(k.to(dtype), "r f (n d) -> r n f d", n=heads)
    scores = torch.einsum("rnid,rnjd->rnij", q, k) * q.shape[-1] ** -0.5
    return scores.softmax(dim=-1)


def strongest(attention: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row: the non-zeros of the mask M (paper, Eq. 5).

    Args:
        attention: ``[r, n, f, f]``.
        k: entries to keep, 1 to f.

    Returns:
        Values ``[r, n, f, k]`` in descending order, and their indices, int64, same shape.

    Raises:
        ValueError: k is outside 1 to f.
    """
    frames = attention.shape[-1]
    if not 1 <= k <= frames:
        raise ValueError(
            f"k is {k}, but a row of attention over {frames} frames has {frames} entries: "
            f"choose k from 1 to {frames}"
        )
    values, indices = attention.topk(k, dim=-1)
    return values, indices
