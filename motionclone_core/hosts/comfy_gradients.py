"""What ComfyUI does in a forward pass that a backward pass could not follow, and how it is avoided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import comfy.ldm.modules.attention as comfy_attention
import comfy.model_management
import torch
from torch import Tensor
from torch.autograd.graph import allow_mutation_on_saved_tensors

from .autograd import recording

_ATTENTION = "optimized_attention_override"
# These kernels have no backward pass: some raise, others silently cut the graph.
_FORWARD_ONLY = ("attention_flash", "attention_sage", "attention3_sage")
# AnimateDiff-Evolved's own patch, which calls motion modules and changes no activation in place.
_HARMLESS_PATCHES = {"forward_timestep_embed_patch"}


@contextmanager
def recording_call(control: object, transformer_options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Record one model call.

    ControlNet residuals are added to skip connections in place, and so do some patches (FreeU V2) change
    activations that autograd has saved; saved tensors are then copied before they change. Weights that
    ComfyUI streams through a buffer that the next layer overwrites are copied as well.

    Yields:
        The transformer options to call the model with; the given ones are left alone.
    """
    mutates = control is not None or bool(set(transformer_options.get("patches", {})) - _HARMLESS_PATCHES)
    with recording(_is_streamed), allow_mutation_on_saved_tensors() if mutates else nullcontext():
        yield {**transformer_options, _ATTENTION: _differentiable(transformer_options.get(_ATTENTION))}


def _is_streamed(tensor: Tensor) -> bool:
    """Whether a tensor lies in a buffer that ComfyUI reuses from layer to layer."""
    buffers = getattr(comfy.model_management, "STREAM_CAST_BUFFERS", {}).values()
    if not buffers:
        return False
    start = tensor.untyped_storage().data_ptr()
    return any(torch.is_tensor(b) and b.untyped_storage().data_ptr() == start for b in buffers)


def _differentiable(existing: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """An attention override that trades kernels without a backward pass for PyTorch's own."""

    def override(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if getattr(func, "__name__", "") in _FORWARD_ONLY:
            func = comfy_attention.attention_pytorch
        return func(*args, **kwargs) if existing is None else existing(func, *args, **kwargs)

    return override
