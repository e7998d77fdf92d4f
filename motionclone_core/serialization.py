"""Motion representations as safetensors files with JSON metadata.

One file holds, per tap, ``<tap>.values`` (float16) and ``<tap>.indices`` (integer), both
``[positions, heads, frames, k]``, and under the metadata key ``motionclone`` a JSON object with the format
version, the latent's size, each tap's grid and the provenance. A motion that was read in several windows has
format version 2: the frames of each window stand in the JSON object, and tensors of window i are called
``<i>.<tap>.values`` and ``<i>.<tap>.indices``. One that was edited has format version 3: ``frame`` (top, left,
height, width) and ``timing`` (or null) stand in the JSON object, and a mask in the tensor ``mask`` (float16,
``[f or 1, H, W]``).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .grids import Frame
from .paths import write_whole
from .representation import MotionRepresentation, Provenance, TapRepresentation
from .taps import execution_order

FORMAT_VERSION = 3
METADATA_KEY = "motionclone"
_MASK = "mask"
SUFFIX = ".safetensors"
_INDEX_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


class MotionFileError(ValueError):
    """A motion file cannot be read; the message says why and what to do."""


def save_representation(representation: MotionRepresentation, path: Path) -> None:
    """Write a motion file; whole or not at all.

    Args:
        representation: what to write.
        path: a ``.safetensors`` file; its folder is made if it is missing.

    Raises:
        ValueError: what is to be written could not be read again, such as NaN.
    """
    path = Path(path)
    tensors = {}
    for prefix, taps in zip(_prefixes(len(representation.windows)), representation.windows.values(), strict=True):
        for name, tap in taps.items():
            _require_sound(name, tap)
            tensors[f"{prefix}{name}.values"] = tap.values.clone().contiguous()
            tensors[f"{prefix}{name}.indices"] = tap.indices.clone().contiguous()
    if representation.mask is not None:
        tensors[_MASK] = representation.mask.to(torch.float16).contiguous()
    write_whole(path, save(tensors, metadata={METADATA_KEY: json.dumps(_describe(representation))}))


def next_free(stem: Path) -> Path:
    """The first ``<stem>_00001.safetensors`` and so on that is not taken; ``stem`` may end in the suffix."""
    name = stem.name.removesuffix(SUFFIX)
    taken = {path.name for path in stem.parent.glob("*" + SUFFIX)} if stem.parent.is_dir() else set()
    free = (f"{name}_{number:05d}{SUFFIX}" for number in range(1, len(taken) + 2))
    return stem.with_name(next(candidate for candidate in free if candidate not in taken))


def load_representation(path: Path) -> MotionRepresentation:
    """Read a motion file.

    Raises:
        MotionFileError: the file is missing, truncated, not safetensors, not a motion file, damaged, or of
            a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise MotionFileError(f"there is no motion file {path.name}: it may have been moved or deleted")
    try:
        with safe_open(path, framework="pt") as file:
            description = _read_description(path.name, file.metadata())
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise MotionFileError(
            f"{path.name} is truncated or not a safetensors file ({error}): save the motion again"
        ) from error
    try:
        return _rebuild(description, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MotionFileError(f"{path.name} is damaged ({error}): save the motion again") from error


def _prefixes(windows: int) -> list[str]:
    return [""] if windows == 1 else [f"{i}." for i in range(windows)]


def _describe(representation: MotionRepresentation) -> dict[str, Any]:
    several = len(representation.windows) > 1
    timing, frame = representation.timing, representation.frame
    edited = timing is not None or representation.mask is not None or frame != Frame()
    edits = {"timing": None if timing is None else list(timing), "frame": list(astuple(frame))}
    return {
        # Packs that know the first version alone read what was seen whole and is not edited.
        "format_version": FORMAT_VERSION if edited else 2 if several else 1,
        **({"windows": [list(window) for window in representation.windows]} if several else {}),
        **(edits if edited else {}),
        "frames": representation.frames,
        "k": representation.k,
        "latent_size": list(representation.latent_size),
        "taps": {
            name: {"grid": list(tap.grid), "heads": tap.heads} for name, tap in representation.taps.items()
        },
        "provenance": _provenance_of(representation),
    }


def _provenance_of(representation: MotionRepresentation) -> dict[str, Any]:
    stored = asdict(representation.provenance)
    # Files of single frames stay as they have ever been.
    return stored if stored["group"] != 1 else {key: value for key, value in stored.items() if key != "group"}


def _read_description(name: str, metadata: dict[str, str] | None) -> dict[str, Any]:
    if not metadata or METADATA_KEY not in metadata:
        raise MotionFileError(
            f"{name} is a safetensors file, but not a motion file: choose one that Save Motion Rep wrote"
        )
    try:
        description = json.loads(metadata[METADATA_KEY])
        version = _whole(description["format_version"])
        if version < 1:
            raise ValueError(f"there is no format version {version}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MotionFileError(
            f"the description in {name} is damaged ({error}): save the motion again"
        ) from error
    if version > FORMAT_VERSION:
        raise MotionFileError(
            f"{name} has format version {version}, this pack reads up to {FORMAT_VERSION}: update the pack"
        )
    return description


def _rebuild(description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> MotionRepresentation:
    height, width = map(_whole, description["latent_size"])
    provenance = _provenance(description["provenance"])
    edits = _edits(description, tensors)
    if "windows" not in description:
        whole = MotionRepresentation.whole(_taps(description, tensors, ""), (height, width), provenance)
        return replace(whole, **edits)
    stored = [tuple(map(_whole, window)) for window in description["windows"]]
    windows = {
        window: _taps(description, tensors, prefix)
        for window, prefix in zip(stored, _prefixes(len(stored)), strict=True)
    }
    if len(windows) < len(stored):
        raise ValueError("a window stands there twice")
    return MotionRepresentation(windows, (height, width), provenance, **edits)


def _edits(description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    if "frame" not in description:
        return {}
    timing, mask = description["timing"], tensors.get(_MASK)
    if mask is not None and not (mask.dtype == torch.float16 and bool(((mask >= 0) & (mask <= 1)).all())):
        raise ValueError(f"a mask of {mask.dtype} values in 0 to 1 is expected in float16")
    top, left, height, width = map(_number, description["frame"])
    return {
        "frame": Frame(top, left, height, width),
        "timing": None if timing is None else tuple(map(_whole, timing)),
        "mask": None if mask is None else mask.clone(),
    }


def _taps(
    description: dict[str, Any], tensors: dict[str, torch.Tensor], prefix: str
) -> dict[str, TapRepresentation]:
    taps = {}
    for name in sorted(description["taps"], key=execution_order):
        values, indices = tensors[f"{prefix}{name}.values"], tensors[f"{prefix}{name}.indices"]
        rows, columns = map(_whole, description["taps"][name]["grid"])
        # Own memory: safetensors hands out a view of the file, which changes or breaks with it.
        tap = TapRepresentation(values.clone(), indices.clone(), (rows, columns))
        _require_sound(name, tap)
        taps[name] = tap
    return taps


def _require_sound(name: str, tap: TapRepresentation) -> None:
    if tap.values.dtype != torch.float16 or tap.indices.dtype not in _INDEX_TYPES:
        raise ValueError(f"{name} holds {tap.values.dtype} values at {tap.indices.dtype} indices")
    indices = tap.indices.long()
    if int(indices.min()) < 0 or int(indices.max()) >= tap.frames:
        raise ValueError(f"{name} points outside its {tap.frames} frames")
    if not bool(torch.isfinite(tap.values).all()):
        raise ValueError(f"{name} holds values that are not numbers")


def _provenance(stored: dict[str, Any]) -> Provenance:
    return Provenance(
        source=_text(stored["source"]),
        architecture=_text(stored["architecture"]),
        fingerprint=_text(stored["fingerprint"]),
        t_alpha=_whole(stored["t_alpha"]),
        noise_seed=_whole(stored["noise_seed"]),
        group=_group(stored.get("group", 1)),
    )


def _group(stored: Any) -> int:
    if _whole(stored) < 1:
        raise ValueError(f"a latent frame of {stored} frames is none")
    return stored


def _whole(stored: Any) -> int:
    if type(stored) is not int:
        raise TypeError(f"a whole number is expected in place of a {type(stored).__name__}")
    return stored


def _number(stored: Any) -> float:
    if type(stored) not in (int, float) or not math.isfinite(stored):
        raise TypeError(f"a number is expected in place of {stored!r}")
    return float(stored)


def _text(stored: Any) -> str:
    if not isinstance(stored, str):
        raise TypeError(f"text is expected in place of a {type(stored).__name__}")
    return stored
