"""One guided model call of ComfyUI: recorded, whatever its forward pass does that a backward pass could not follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.ldm.modules.attention as comfy_attention
import comfy.model_management
import torch
from torch import Tensor

from ..representation import Window
from .autograd import eager, recording
from .base import Gradient, Guide, View
from .comfy_animatediff import Kernel
from .comfy_controls import require_no_references
from .comfy_dit import ATTENTION
from .comfy_host import Host
from .comfy_memory import MemoryMode, MemoryPlan, recomputable
from .gradients import GradientScale
from .recompute import recomputed
from .saved import copied_before_written

# These have no backward pass (some raise, others silently cut the graph), or cut their work by the memory that is free
# just then, which differs where a layer is run again.
_NOT_RECORDED = (
    "attention_flash", "attention_sage", "attention3_sage", "attention_comfy_kitchen_int8",
    "attention_sub_quad", "attention_split",
)  # fmt: skip


def _rotated(x: Tensor, rotations: Tensor) -> Tensor:
    """Rotary positions: of each pair of channels the product with its matrix ``[..., 2, 2]``."""
    pairs = x.to(rotations.dtype).unflatten(-1, (-1, 1, 2))
    return (rotations * pairs).sum(-1).flatten(-2).to(x.dtype)


# ComfyUI's own operators that have no backward pass.
_WITH_BACKWARD = {
    "comfy_kitchen.apply_rope1": _rotated,
    "comfy_kitchen.apply_rope": lambda q, k, rotations: (_rotated(q, rotations), _rotated(k, rotations)),
}
# AnimateDiff-Evolved's own patch, which calls motion modules and changes no activation in place.
_HARMLESS = {"forward_timestep_embed_patch"}
# Patches that act between the layers of the network; all others act inside its transformers.
_BETWEEN_LAYERS = _HARMLESS | {
    "emb_patch", "input_block_patch", "input_block_patch_after_skip", "middle_block_after_patch", "output_block_patch",
}  # fmt: skip


@dataclass(frozen=True)
class ModelCall:
    """A call of the model as an APPLY_MODEL wrapper gets it; it can be made several times."""

    executor: Any
    x: Tensor
    t: Tensor
    c_concat: Tensor | None
    c_crossattn: Tensor | None
    control: Mapping[str, list] | None
    transformer_options: Mapping[str, Any]
    others: Mapping[str, Any]

    def __call__(self, x: Tensor, transformer_options: dict) -> Tensor:
        """The prediction for another x, under other options."""
        # The network takes the residuals out of these lists.
        control = None if self.control is None else {name: [*kept] for name, kept in self.control.items()}
        return self.executor(
            x, self.t, self.c_concat, self.c_crossattn, control, transformer_options, **self.others
        )

    def window(self, host: Host) -> Window:
        """The frames that the call sees."""
        return host.window(self.transformer_options, self.x, len(self.transformer_options["uuids"]))

    @property
    def patched(self) -> bool:
        """Whether patches act inside transformers, and may not do the same twice."""
        return bool(self._patches - _BETWEEN_LAYERS or self.transformer_options.get("patches_replace"))

    @property
    def mutates(self) -> bool:
        """Whether activations may be changed in place: by residuals of ControlNets, by patches such as FreeU's."""
        return self.control is not None or bool(self._patches - _HARMLESS)

    @property
    def _patches(self) -> set[str]:
        return set(self.transformer_options.get("patches", {}))


class CallRecorder:
    """Takes the gradients of a run's guided calls.

    Args:
        host: the model.
        guide: whose energy.
        memory: see `MemoryPlan`.
        before_tap: called at each tap; raises when the user cancels.
    """

    def __init__(
        self, host: Host, guide: Guide, memory: MemoryMode, before_tap: Callable[[], None]
    ) -> None:
        self._host, self._guide, self._before_tap = host, guide, before_tap
        self._scale = GradientScale()
        self._plan = MemoryPlan(memory)

    @property
    def saving(self) -> bool:
        """Whether guided calls save memory."""
        return self._plan.saving

    def gradient(self, call: ModelCall, view: View) -> tuple[Tensor, Gradient]:
        """The call's prediction, and the gradient of the energy of its batch entries.

        Raises:
            UnsupportedModelError: something in the call remembers what it saw, and may not see it twice.
        """
        require_no_references(call.transformer_options)
        model = call.executor.class_obj
        reserve = int(model.memory_required(list(call.x.shape)))
        # From 0.33 on a patcher counts the pages in as well that dynamic VRAM would give up.
        counts = getattr(getattr(model, "current_patcher", None), "get_free_memory", None)
        free = partial(counts or comfy.model_management.get_free_memory, call.x.device)

        def attempt(scale: float) -> tuple[Tensor, Gradient]:
            return self._plan.run(partial(self._recorded, call, view, scale), reserve, free)

        return self._scale.take(attempt)

    def _recorded(
        self, call: ModelCall, view: View, scale: float, saving: bool, watch: Callable[[], None] | None
    ) -> tuple[Tensor, Gradient]:
        with ExitStack() as stack:
            stack.enter_context(recording(_is_streamed, watch, instead=_WITH_BACKWARD))
            if call.mutates or self._host.mutates:
                # Saved tensors are then copied before they change.
                stack.enter_context(copied_before_written())
            stack.enter_context(eager())
            if saving:
                again = partial(recording, _is_streamed, instead=_WITH_BACKWARD)
                stack.enter_context(recomputed(self._layers(call), again))
            x = call.x.detach().clone().requires_grad_()
            observer = self._guide.observer(x, view, scale=scale)
            options = dict(call.transformer_options)
            options[ATTENTION] = _differentiable(options.get(ATTENTION))
            stack.enter_context(
                self._host.observing(
                    observer, self._before_tap, x=x, transformer_options=options, kernel=_recordable
                )
            )
            stack.enter_context(_full_precision(call.executor.class_obj.diffusion_model))
            prediction = call(x, options).detach()
            return prediction, observer.result()

    def _layers(self, call: ModelCall) -> list[torch.nn.Module]:
        tapped = [self._host.sites[name] for name in self._guide.taps]
        network = call.executor.class_obj.diffusion_model
        return recomputable(network, self._host.rerun(), tapped, patched=call.patched)


def _is_streamed(tensor: Tensor) -> bool:
    """Whether a tensor lies in a buffer that ComfyUI reuses from layer to layer."""
    buffers = getattr(comfy.model_management, "STREAM_CAST_BUFFERS", {}).values()
    if not buffers:
        return False
    start = tensor.untyped_storage().data_ptr()
    return any(torch.is_tensor(b) and b.untyped_storage().data_ptr() == start for b in buffers)


@contextmanager
def _full_precision(network: torch.nn.Module) -> Iterator[None]:
    """Multiply by quantised weights as if they were not: ComfyUI's own function keeps them for a backward pass."""
    quantised = [layer for layer in network.modules() if getattr(layer, "_full_precision_mm", None) is False]
    try:
        for layer in quantised:
            layer._full_precision_mm = True
        yield
    finally:
        for layer in quantised:
            layer._full_precision_mm = False


def _recordable(kernel: Kernel) -> Kernel:
    """Attention itself, or PyTorch's where it cannot be recorded."""
    return comfy_attention.attention_pytorch if getattr(kernel, "__name__", "") in _NOT_RECORDED else kernel


def _differentiable(existing: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """An attention override that trades kernels which cannot be recorded for PyTorch's own."""

    def override(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        func = _recordable(func)
        if existing is None:
            return func(*args, **kwargs)
        result = existing(func, *args, **kwargs)
        # Another pack's override may take a kernel of its own, without a backward pass.
        cut = torch.is_grad_enabled() and not result.requires_grad and any(map(_has_gradient, args))
        return func(*args, **kwargs) if cut else result

    return override


def _has_gradient(argument: Any) -> bool:
    return torch.is_tensor(argument) and argument.requires_grad
