"""Measures every step of a sampling run: time, peak memory, and what lives when the backward pass starts."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP
from torch import nn

from .live import LiveBytes

_KEY = "motionclone_meter"


class Meter:
    """A MODEL whose sampling runs write what their steps cost.

    ``memory`` counts live bytes operation by operation, which takes time of its own; without it steps are timed.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "MotionClone/benchmark", "execute", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model": ("MODEL",), "name": ("STRING", {"default": "run"}), "memory": ("BOOLEAN", {})},
        }

    def execute(self, model: Any, name: str, memory: bool) -> tuple[Any]:
        model = model.clone()
        record = _Record(memory)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, record.run(name))
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, _KEY, record.step)
        return (model,)


class _Record:
    def __init__(self, memory: bool) -> None:
        self._memory = memory
        self._steps: list[dict[str, Any]] = []

    def run(self, name: str) -> Callable[..., Any]:
        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self._steps = []
            report: dict[str, Any] = {"weights": _weights(executor.class_obj)}
            result = executor(*args, **kwargs)
            report |= {"device": str(comfy.model_management.get_torch_device()), "steps": self._steps}
            Path(folder_paths.get_output_directory(), f"{name}.json").write_text(json.dumps(report))
            return result

        return wrapper

    def step(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        cuda = torch.cuda.is_available() and comfy.model_management.get_torch_device().type == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        with _counting() if self._memory else nullcontext() as live:
            start = time.perf_counter()
            result = executor(*args, **kwargs)
            if cuda:
                torch.cuda.synchronize()
            row: dict[str, Any] = {"seconds": time.perf_counter() - start}
        if cuda:
            row["peak"] = torch.cuda.max_memory_allocated()
        if live is not None:
            row |= {"live_peak": live.peak, "kept": live.kept, "kept_by_layer": live.kept_by_layer}
        self._steps.append(row)
        return result


def _weights(guider: Any) -> int:
    """How many weights a run needs at hand: of the model, of what is injected into it, and of ControlNets."""
    entries = [entry for cond in guider.conds.values() for entry in cond]
    patchers = [guider.model_patcher, *(p for e in entries if "control" in e for p in e["control"].get_models())]
    patchers += [inner for patcher in patchers for inner in patcher.get_nested_additional_models()]
    # What is injected into a network is found twice.
    weights = {id(weight): weight for patcher in patchers for weight in patcher.model.parameters()}
    return sum(weight.numel() for weight in weights.values())


class _Live(LiveBytes):
    """Remembers what lived when a gradient was first asked for."""

    kept = 0
    kept_by_layer: dict[str, int]

    def note(self) -> None:
        if not self.kept:
            self.kept, self.kept_by_layer = self.now, dict(+self.by_place)


@contextmanager
def _counting() -> Iterator[_Live]:
    """Count live bytes here, by the module that is running."""
    running: list[str] = []
    names: Counter[str] = Counter()

    def enter(module: nn.Module, _: Any) -> None:
        names[type(module).__name__] += 1
        running.append(type(module).__name__)

    def leave(module: nn.Module, *_: Any) -> None:
        running.pop()

    live = _Live(lambda: "/".join(running[-3:]))
    live.kept_by_layer = {}
    take = torch.autograd.grad

    def grad(*args: Any, **kwargs: Any) -> Any:
        live.note()
        return take(*args, **kwargs)

    hooks = (
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    )
    torch.autograd.grad = grad
    try:
        with live:
            yield live
    finally:
        torch.autograd.grad = take
        for hook in hooks:
            hook.remove()
