"""Gradients through a network whose weights autograd would refuse.

ComfyUI runs nodes under ``torch.inference_mode()``. Weights, conditioning and masks made there are
inference tensors, which cannot be saved for a backward pass, not even after the mode is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# torch 2.4 has no Buffer.
_PLAIN = (Tensor, torch.nn.Parameter, getattr(torch.nn, "Buffer", Tensor))
# Functions that save a weight; no other may be handed a copy, least of all those that write into it.
_SAVING_WEIGHTS = {
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "group_norm", "layer_norm", "rms_norm",
}  # fmt: skip
_ATTRIBUTE_ACCESS = ("__get__", "__set__", "__delete__")


def _ordinary(tensor: Tensor) -> Tensor:
    """The same memory as a tensor that autograd takes as a constant; no copy."""
    if tensor.is_inference():
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    if isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad:
        return tensor.detach()
    return tensor


def _each(argument: Any) -> Any:
    if type(argument) in _PLAIN:
        return _ordinary(argument)
    if type(argument) in (list, tuple):
        return type(argument)(_each(item) for item in argument)
    return argument


class ConstantWeights(TorchFunctionMode):
    """Hands every torch function ordinary aliases of the inference tensors and parameters it is given.

    The network itself is not touched, so there is nothing to put back: weights that are reloaded, patched
    or cast while the mode is on are met when they are used. No gradient by a weight is ever recorded.

    Args:
        is_reused: whether a tensor's memory is overwritten before the backward pass; a copy of such a
            weight is saved. Autograd could not notice: an alias has a version counter of its own.
        watch: called before every layer that is recorded; may raise.
        instead: by their names, such as ``namespace.operator``, functions for operators that have no backward pass.
    """

    def __init__(
        self,
        is_reused: Callable[[Tensor], bool] | None = None,
        watch: Callable[[], None] | None = None,
        instead: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        super().__init__()
        self._is_reused, self._watch, self._instead = is_reused, watch, instead or {}

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Reading or setting an attribute must reach the tensor itself, not an alias of it. What is read of
        # a weight may be a view, such as .T, and is as constant as the weight.
        if getattr(func, "__name__", None) in _ATTRIBUTE_ACCESS:
            with torch.no_grad() if isinstance(args[0], torch.nn.Parameter) else nullcontext():
                return func(*args, **kwargs)
        if getattr(func, "__name__", None) in _SAVING_WEIGHTS and torch.is_grad_enabled():
            if self._watch is not None:
                self._watch()
            args = tuple(self._kept(argument) for argument in args)
            kwargs = {name: self._kept(value) for name, value in kwargs.items()}
        if isinstance(func, torch._ops.OpOverloadPacket) and torch.is_grad_enabled():
            func = self._instead.get(str(func), func)
        return func(*_each(args), **{name: _each(value) for name, value in kwargs.items()})

    def _kept(self, argument: Any) -> Any:
        reused = type(argument) in _PLAIN and self._is_reused is not None and self._is_reused(argument)
        return argument.clone() if reused else argument


@contextmanager
def recording(
    is_reused: Callable[[Tensor], bool] | None = None,
    watch: Callable[[], None] | None = None,
    *,
    instead: Mapping[str, Callable[..., Any]] | None = None,
) -> Iterator[None]:
    """Record gradients here, whatever the caller's mode; weights count as constants.

    Args:
        is_reused: see `ConstantWeights`.
        watch: likewise.
        instead: likewise.
    """
    with torch.inference_mode(False), torch.enable_grad(), ConstantWeights(is_reused, watch, instead):
        yield


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled networks as they were written: what was compiled without taps has none."""
    # PyTorch before 2.6 has no stance.
    stance = getattr(torch.compiler, "set_stance", None)
    with stance("force_eager") if stance else nullcontext():
        yield
