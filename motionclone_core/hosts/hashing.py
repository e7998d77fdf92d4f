"""A hash of what values hold: tensors, settings, and functions that other packs put into a model.

It tells whether two runs would see the same; it is the same in every process, and before and after a run.
"""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

_SAMPLES = 64  # of each weight
_DIGITS = 16
# LoRAs keep their tensors in the first of these, hooks LoRAs and strengths in the next ones, ControlNets their
# weights, pictures and settings in the others.
_NAMES = (
    "weights", "hooks", "_strength_model", "control_model", "cond_hint_original", "strength", "timestep_percent_range",
    "previous_controlnet",
)  # fmt: skip


def hashed(value: Any) -> str:
    """16 hexadecimal digits of a value's contents."""
    found = hashlib.sha256()
    add(found, value)
    return found.hexdigest()[:_DIGITS]


def sampled(weight: Tensor) -> Tensor:
    """At most some hundred of a weight's elements, evenly spaced, flat."""
    flat = (weight.dequantize() if "Quantized" in type(weight).__name__ else weight).flatten()
    return flat[:: max(1, flat.numel() // _SAMPLES)]


def add(found: Any, value: Any) -> None:
    """Put a value's contents into a hash of `hashlib`."""
    if torch.is_tensor(value):
        found.update(repr((tuple(value.shape), str(value.dtype))).encode())
        found.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            found.update(str(key).encode())
            add(found, value[key])
    elif isinstance(value, (list, tuple)):
        found.update(str(len(value)).encode())
        for item in value:
            add(found, item)
    elif value is None or isinstance(value, (bool, int, float, str)):
        found.update(repr(value).encode())
    else:
        found.update(type(value).__name__.encode())
        add(found, _contents(value))


def _contents(value: Any) -> Any:
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [type(value.__self__).__name__, value.__func__]
    if isinstance(value, FunctionType):
        return [value.__qualname__, _held(value)]
    if isinstance(value, nn.Module):
        return {name: sampled(weight) for name, weight in value.named_parameters()}
    return [getattr(value, name, None) for name in _NAMES]


def _held(function: FunctionType) -> dict[str, Any]:
    """The settings among what a function refers to: numbers, texts and tensors that no run changes."""
    code = function.__code__
    rebound = {one.argval for one in dis.get_instructions(code) if one.opname == "STORE_DEREF"}
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    held = {name: _content(cell) for name, cell in cells if name not in rebound}
    return {name: value for name, value in held.items() if _is_setting(value)}


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing has been put into it
        return None


def _is_setting(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_setting(item) for item in value.values())
    if isinstance(value, tuple):
        return all(_is_setting(item) for item in value)
    return isinstance(value, (bool, int, float, str, Tensor))
