"""How much of a guided model call is kept for its backward pass, and what is run again instead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from typing import Literal, TypeVar

import comfy.model_management
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import nn

log = logging.getLogger(__name__)

MemoryMode = Literal["auto", "speed", "memory"]
MEMORY_MODES: tuple[MemoryMode, ...] = ("auto", "speed", "memory")

_Made = TypeVar("_Made")
_Watch = Callable[[], None]
_GIB = 2**30


# What allocators and libraries say for which there is no type of their own.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "unable to find an engine")


class NoRoomError(RuntimeError):
    """Recording a call would leave too little memory free."""


class MemoryPlan:
    """Whether the calls of a run are recorded whole or saving memory.

    Under ``auto`` the first call of a size is recorded whole for as long as there is room; when it runs short, or
    memory ever runs out, the call is made again saving memory, and so are all that follow.

    Args:
        mode: ``speed`` keeps everything, ``memory`` runs layers again, ``auto`` chooses.
    """

    def __init__(self, mode: MemoryMode) -> None:
        if mode not in MEMORY_MODES:
            raise ValueError(f"memory is {mode!r}: choose one of {', '.join(MEMORY_MODES)}")
        self._choosing = mode == "auto"
        self._measured = 0
        self.saving = mode == "memory"

    def run(self, call: Callable[[bool, _Watch | None], _Made], reserve: int, free: Callable[[], int]) -> _Made:
        """What a call gives, made as the plan says.

        Args:
            call: told whether to save memory, and what to call before each layer.
            reserve: bytes that the rest of the network needs beside what is kept.
            free: bytes of memory that are free just then.
        """
        if self.saving or not self._choosing:
            return call(self.saving, None)
        try:
            made = call(False, None if reserve <= self._measured else _watch_over(reserve, free))
        except Exception as error:
            if not isinstance(error, NoRoomError) and not _is_out_of_memory(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
        else:
            self._measured = max(self._measured, reserve)
            return made
        # Only here is the traceback gone, and with it what the call had kept.
        self.saving = True
        comfy.model_management.soft_empty_cache()
        log.warning("guided steps save memory from here on, and take longer: %s", reason)
        return call(True, None)


def _watch_over(reserve: int, free: Callable[[], int]) -> _Watch:
    def watch() -> None:
        found = free()
        if found < reserve:
            raise NoRoomError(
                f"{found / _GIB:.2f} GiB are free, and {reserve / _GIB:.2f} GiB are needed beside what is recorded"
            )

    return watch


def _is_out_of_memory(error: Exception) -> bool:
    # ComfyUI before 0.9 has no is_oom.
    known = getattr(comfy.model_management, "is_oom", None)
    typed = known(error) if known else isinstance(error, comfy.model_management.OOM_EXCEPTION)
    said = str(error).lower()
    return typed or (isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY))


def recomputable(
    network: nn.Module,
    layers: tuple[Collection[nn.Module], Collection[nn.Module]],
    tapped: Collection[nn.Module],
    *,
    patched: bool,
) -> list[nn.Module]:
    """The layers that save memory if they are run again, none inside another.

    Whole transformers and motion modules keep several times what goes through them; where a tap or a patch must see
    each call once, their feed-forward parts alone are run again. Residual blocks keep little, unless their weights
    are cast for every call: then a backward pass would hold on to all the casts.

    Args:
        network: the network, with the motion modules in it if it has some.
        layers: those that keep much, and parts of them that neither taps nor patches are in.
        tapped: the layers that are observed.
        patched: other patches act inside transformers.
    """
    wholes, parts = layers
    # Another pack's own forward, such as reference attention's, may remember what it saw.
    whole = {
        layer
        for layer in wholes
        if not patched and not any(part in tapped or _is_replaced(part) for part in layer.modules())
    }
    if any(getattr(layer, "comfy_cast_weights", False) for layer in network.modules()):
        whole |= {layer for layer in network.modules() if isinstance(layer, ResBlock)}
    return list(_outermost(network, whole | set(parts)))


def _is_replaced(layer: nn.Module) -> bool:
    """Whether another pack has put a forward of its own into a layer; its class's own may have been put back."""
    forward = vars(layer).get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(layer).forward


def _outermost(layer: nn.Module, chosen: Collection[nn.Module]) -> Iterator[nn.Module]:
    if layer in chosen:
        yield layer
        return
    for child in layer.children():
        yield from _outermost(child, chosen)
