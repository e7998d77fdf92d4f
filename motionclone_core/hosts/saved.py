"""What a backward pass needs, copied before the forward pass writes over it.

ControlNets and patches change activations in place that autograd has saved. PyTorch's own
`torch.autograd.graph.allow_mutation_on_saved_tensors` is not used: it tells tensors apart by identity and address,
which a later tensor may be given again once a copy has taken the first one's place. The later one is then read as the
first, and the gradient is silently wrong (seen with PyTorch 2.11 and 2.13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def copied_before_written() -> Iterator[None]:
    """While the block runs, tensors that autograd saves may be written to, through whatever view of their memory."""
    keeper = _Keeper()
    with saved_tensors_hooks(keeper.keep, _Kept.get), keeper:
        yield


class _Kept:
    """A tensor that is saved. It keeps its memory from being used again for as long as the keeper knows of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def get(self) -> Tensor:
        return self.tensor


class _Keeper(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, WeakSet[_Kept]] = {}

    def keep(self, tensor: Tensor) -> _Kept:
        # A graph that held itself by what it has saved would never go.
        kept = _Kept(tensor.detach())
        self._kept.setdefault(_memory(tensor), WeakSet()).add(kept)
        return kept

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in _written(func, args, kwargs or {}):
            for kept in self._kept.pop(_memory(tensor), ()):
                kept.tensor = kept.tensor.clone()
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    """Where the memory begins that a tensor is a view of."""
    return tensor.untyped_storage().data_ptr()


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation writes to."""
    if not func._schema.is_mutable:
        return
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from filter(torch.is_tensor, value if isinstance(value, list | tuple) else [value])


__all__ = ["copied_before_written"]
