"""Motion representations as safetensors files with JSON metadata.

One file holds, per tap, ``<tap>.values`` (float16) and ``<tap>.indices`` (integer), both
``[positions, heads, frames, k]``, and under the metadata key ``motionclone`` a JSON object with the format
version, the latent's size, each tap's grid and the provenance. A motion that was read in several windows has
format version 2: the frames of each window stand in the JSON object, and tensors of window i are called
``<i>.<tap>.values`` and ``<i>.<tap>.indices``. One that was edited has format version 3: ``frame`` (top, left,
height, width) and ``timing`` (or null) stand in the JSON object, and a mask in the tensor ``mask`` (float16,
``[f or 1, H, W]``). Where words of the reference lie stands in the tensor ``foreground`` (float16, ``[f, y, x]``),
which readers of any version may leave out. One that was read at several noise levels has format version 4: their
timesteps stand in the JSON object as ``levels``, and the names of the tensors of the reading at timestep t, its words
among them, begin with ``t<t>/``; ``t_alpha`` of the provenance is that of the first.

An inversion is a file of its own kind: ``clean`` and ``z.<timestep>``, float32, ``[f, c, h, w]``, and under the
metadata key ``motionclone_inversion`` a JSON object with the format version, the timesteps and the origin.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .grids import Frame
from .inversion import Inversion, InversionOrigin
from .paths import write_whole
from .representation import MotionRepresentation, Provenance, TapRepresentation
from .series import AnyReading, MotionSeries
from .taps import execution_order

FORMAT_VERSION = 4
METADATA_KEY = "motionclone"
INVERSION_VERSION = 1
INVERSION_KEY = "motionclone_inversion"
_MASK, _FOREGROUND = "mask", "foreground"
SUFFIX = ".safetensors"
_INDEX_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


class MotionFileError(ValueError):
    """A motion file cannot be read; the message says why and what to do."""


def save_representation(motion: AnyReading, path: Path) -> None:
    """Write a motion file; whole or not at all.

    Args:
        motion: what to write.
        path: a ``.safetensors`` file; its folder is made if it is missing.

    Raises:
        ValueError: what is to be written could not be read again, such as NaN.
    """
    readings = motion.readings if isinstance(motion, MotionSeries) else (motion,)
    levels = motion.timesteps if isinstance(motion, MotionSeries) else None
    tensors = {}
    for start, reading in zip(_starts(levels), readings, strict=True):
        tensors.update(_tensors(reading, start))
    if readings[0].mask is not None:
        tensors[_MASK] = readings[0].mask.to(torch.float16).contiguous()
    description = _describe(readings[0]) if levels is None else _describe_levels(readings[0], levels)
    write_whole(Path(path), save(tensors, metadata={METADATA_KEY: json.dumps(description)}))


def _tensors(reading: MotionRepresentation, start: str) -> dict[str, torch.Tensor]:
    tensors = {}
    for prefix, taps in zip(_prefixes(len(reading.windows)), reading.windows.values(), strict=True):
        for name, tap in taps.items():
            _require_sound(name, tap)
            tensors[f"{start}{prefix}{name}.values"] = tap.values.clone().contiguous()
            tensors[f"{start}{prefix}{name}.indices"] = tap.indices.clone().contiguous()
    if reading.foreground is not None:
        tensors[start + _FOREGROUND] = reading.foreground.to(torch.float16).contiguous()
    return tensors


def next_free(stem: Path) -> Path:
    """The first ``<stem>_00001.safetensors`` and so on that is not taken; ``stem`` may end in the suffix."""
    name = stem.name.removesuffix(SUFFIX)
    taken = {path.name for path in stem.parent.glob("*" + SUFFIX)} if stem.parent.is_dir() else set()
    free = (f"{name}_{number:05d}{SUFFIX}" for number in range(1, len(taken) + 2))
    return stem.with_name(next(candidate for candidate in free if candidate not in taken))


def load_representation(path: Path) -> AnyReading:
    """Read a motion file.

    Raises:
        MotionFileError: the file is missing, truncated, not safetensors, not a motion file, damaged, or of
            a newer format.
    """
    path = Path(path)
    description, tensors = _opened(path, _MOTION)
    try:
        return _rebuild(description, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MotionFileError(f"{path.name} is damaged ({error}): {_MOTION.again}") from error


def save_inversion(inversion: Inversion, path: Path) -> None:
    """Write an inversion's file, ``.safetensors``; whole or not at all."""
    tensors = {"clean": inversion.clean, **{f"z.{t}": latent for t, latent in inversion.latents.items()}}
    origin = asdict(inversion.origin)
    description = {"format_version": INVERSION_VERSION, "timesteps": list(inversion.timesteps), "origin": origin}
    # Own memory, one tensor each, as safetensors asks for.
    stored = {name: tensor.to(torch.float32).clone().contiguous() for name, tensor in tensors.items()}
    write_whole(Path(path), save(stored, metadata={INVERSION_KEY: json.dumps(description)}))


def load_inversion(path: Path) -> Inversion:
    """Read an inversion's file.

    Raises:
        MotionFileError: as `load_representation`.
    """
    path = Path(path)
    description, tensors = _opened(path, _INVERSION)
    try:
        origin = description["origin"]
        names = {name: _text(origin[name]) for name in ("clip", "model", "conditioning")}
        latents = {_whole(timestep): tensors[f"z.{timestep}"].clone() for timestep in description["timesteps"]}
        if any(tensor.dtype != torch.float32 for tensor in (tensors["clean"], *latents.values())):
            raise ValueError("latents are expected in float32")
        return Inversion(latents, tensors["clean"].clone(), InversionOrigin(**names, steps=_whole(origin["steps"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MotionFileError(f"{path.name} is damaged ({error}): {_INVERSION.again}") from error


@dataclass(frozen=True)
class _Kind:
    """What a file holds, and what is said if it does not."""

    name: str
    key: str
    version: int
    other: str
    again: str


_MOTION = _Kind(
    "motion file",
    METADATA_KEY,
    FORMAT_VERSION,
    "is a safetensors file, but not a motion file: choose one that Save Motion Rep wrote",
    "save the motion again",
)
_INVERSION = _Kind(
    "inversion file",
    INVERSION_KEY,
    INVERSION_VERSION,
    "is a safetensors file, but not an inversion: choose another name",
    "delete it, and it is computed anew",
)


def _opened(path: Path, kind: _Kind) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The description in a file, and its tensors."""
    if not path.is_file():
        raise MotionFileError(f"there is no {kind.name} {path.name}: it may have been moved or deleted")
    try:
        with safe_open(path, framework="pt") as file:
            description = _read_description(path.name, file.metadata(), kind)
            return description, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise MotionFileError(
            f"{path.name} is truncated or not a safetensors file ({error}): {kind.again}"
        ) from error


def _starts(levels: Sequence[int] | None) -> list[str]:
    """What the names of the tensors of each reading begin with."""
    return [""] if levels is None else [f"t{level}/" for level in levels]


def _prefixes(windows: int) -> list[str]:
    return [""] if windows == 1 else [f"{i}." for i in range(windows)]


def _describe(representation: MotionRepresentation) -> dict[str, Any]:
    several = len(representation.windows) > 1
    timing, frame = representation.timing, representation.frame
    edited = timing is not None or representation.mask is not None or frame != Frame()
    edits = {"timing": None if timing is None else list(timing), "frame": list(astuple(frame))}
    return {
        # Packs that know the first version alone read what was seen whole and is not edited.
        "format_version": 3 if edited else 2 if several else 1,
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


def _describe_levels(first: MotionRepresentation, levels: Sequence[int]) -> dict[str, Any]:
    edits = {"timing": None if first.timing is None else list(first.timing), "frame": list(astuple(first.frame))}
    return {**_describe(first), **edits, "format_version": FORMAT_VERSION, "levels": list(levels)}


def _read_description(name: str, metadata: dict[str, str] | None, kind: _Kind) -> dict[str, Any]:
    if not metadata or kind.key not in metadata:
        raise MotionFileError(f"{name} {kind.other}")
    try:
        description = json.loads(metadata[kind.key])
        version = _whole(description["format_version"])
        if version < 1:
            raise ValueError(f"there is no format version {version}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MotionFileError(
            f"the description in {name} is damaged ({error}): {kind.again}"
        ) from error
    if version > kind.version:
        raise MotionFileError(
            f"{name} has format version {version}, this pack reads up to {kind.version}: update the pack"
        )
    return description


def _rebuild(description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> AnyReading:
    if "levels" not in description:
        return _reading(description, tensors, "")
    levels = [_whole(level) for level in description["levels"]]
    readings = (_reading(description, tensors, start) for start in _starts(levels))
    at = zip(levels, readings, strict=True)
    return MotionSeries(tuple(replace(r, provenance=replace(r.provenance, t_alpha=level)) for level, r in at))


def _reading(description: dict[str, Any], tensors: dict[str, torch.Tensor], start: str) -> MotionRepresentation:
    height, width = map(_whole, description["latent_size"])
    provenance = _provenance(description["provenance"])
    edits = {**_edits(description, tensors), "foreground": _shares(tensors.get(start + _FOREGROUND), "the words")}
    if "windows" not in description:
        whole = MotionRepresentation.whole(_taps(description, tensors, start), (height, width), provenance)
        return replace(whole, **edits)
    stored = [tuple(map(_whole, window)) for window in description["windows"]]
    windows = {
        window: _taps(description, tensors, start + prefix)
        for window, prefix in zip(stored, _prefixes(len(stored)), strict=True)
    }
    if len(windows) < len(stored):
        raise ValueError("a window stands there twice")
    return MotionRepresentation(windows, (height, width), provenance, **edits)


def _edits(description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    if "frame" not in description:
        return {}
    timing = description["timing"]
    top, left, height, width = map(_number, description["frame"])
    return {
        "frame": Frame(top, left, height, width),
        "timing": None if timing is None else tuple(map(_whole, timing)),
        "mask": _shares(tensors.get(_MASK), "a mask"),
    }


def _shares(stored: torch.Tensor | None, what: str) -> torch.Tensor | None:
    """A tensor of values from 0 to 1 in memory of its own, if there is one."""
    if stored is None:
        return None
    if not (stored.dtype == torch.float16 and bool(((stored >= 0) & (stored <= 1)).all())):
        raise ValueError(f"{what} of {stored.dtype} values in 0 to 1 is expected in float16")
    return stored.clone()


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
