"""Layers that keep their input alone for the backward pass, and run again when it needs the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(
    layers: Iterable[nn.Module],
    again: Callable[[], AbstractContextManager] = nullcontext,
) -> Iterator[None]:
    """While the block runs, these layers keep their inputs alone where gradients are recorded.

    A layer must give the same when it is run twice. Lists and dictionaries among its arguments may be written
    to: the second run is handed them as they were. Autograd raises if a tensor among them was written to,
    unless `saved.copied_before_written` is on.

    Args:
        layers: none of them inside another.
        again: entered around a layer that is run again, which may be on another thread.
    """
    patched = [(layer, vars(layer).get("forward")) for layer in dict.fromkeys(layers)]
    try:
        for layer, _ in patched:
            layer.forward = _Recomputed(layer.forward, again)
        yield
    finally:
        for layer, own in patched:
            if own is None:
                del layer.forward
            else:
                layer.forward = own


class _Recomputed:
    def __init__(self, forward: Callable[..., Any], again: Callable[[], AbstractContextManager]) -> None:
        self._forward, self._again = forward, again

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, form = tree_flatten((args, kwargs))
        # What depends on the network's input is autograd's to keep; all else is only remembered.
        moving = [i for i, leaf in enumerate(leaves) if torch.is_tensor(leaf) and leaf.requires_grad]
        if not torch.is_grad_enabled() or not moving:
            return self._forward(*args, **kwargs)
        inputs = [leaves[i] for i in moving]
        for i in moving:
            leaves[i] = None
        first = [(args, kwargs)]

        def run(*tensors: Tensor) -> Any:
            if first:
                positional, named = first.pop()
                return self._forward(*positional, **named)
            given = dict(zip(moving, tensors, strict=True))
            positional, named = tree_unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)], form)
            with self._again():
                return self._forward(*positional, **named)

        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)
