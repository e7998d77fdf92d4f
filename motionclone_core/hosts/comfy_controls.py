"""ControlNets beside an observed or guided call: what of them fits, and what they remember from call to call."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..grids import RepresentationMismatchError
from .base import UnsupportedModelError

log = logging.getLogger(__name__)

# Advanced-ControlNet's reference ControlNets run the network again inside a call, and remember what they saw.
_REFERENCES = ("ref_control_list_all", "contextref_control_list_all")

Conditions = Iterable[Sequence[Mapping[str, Any]] | None]


def require_controls(conds: Conditions, frames: int) -> None:
    """Check that what ControlNets are given fits a video of so many frames.

    Raises:
        RepresentationMismatchError: a SparseCtrl has more condition frames, or one that is not in the video; the
            message says both numbers. (An ordinary ControlNet takes the first ones, and the log says so.)
    """
    for control in _controls(conds):
        given, method = _pictures(control), _sparse_method(control)
        if method is None:
            if given > frames:
                log.warning("a ControlNet is given %d pictures for %d frames: it takes the first ones", given, frames)
            continue
        if given > frames:
            raise RepresentationMismatchError(
                f"SparseCtrl is given {given} condition frames for a video of {frames}: give it at most {frames}"
            )
        outside = [index for index in getattr(method, "idxs", ())[:given] if not -frames <= index < frames]
        if outside:
            raise RepresentationMismatchError(
                f"SparseCtrl is to put a condition at frame {outside[0]} of a video of {frames}: its index method "
                f"counts from 0 to {frames - 1}"
            )


def require_no_references(transformer_options: Mapping[str, Any]) -> None:
    """Check that no reference ControlNet takes part in a call.

    Raises:
        UnsupportedModelError: one does.
    """
    if any(transformer_options.get(key) for key in _REFERENCES):
        raise UnsupportedModelError(
            "motion guidance does not work beside Advanced-ControlNet's reference ControlNets (Reference, ContextRef): "
            "take them out of this graph"
        )


def forget_batches(conds: Conditions) -> None:
    """Let SparseCtrls lay out their condition frames anew: they keep them for the batch of the call before."""
    for control in _controls(conds):
        if _sparse_method(control) is not None:
            control.cond_hint = None


def _controls(conds: Conditions) -> Iterator[Any]:
    """Every ControlNet of some conditions, those before it in its chain included, once."""
    seen: set[int] = set()
    for entry in (entry for cond in conds for entry in cond or ()):
        control = entry.get("control")
        while control is not None and id(control) not in seen:
            seen.add(id(control))
            yield control
            control = control.previous_controlnet


def _pictures(control: Any) -> int:
    """How many pictures a ControlNet is given."""
    hint = getattr(control, "cond_hint_original", None)
    hint = getattr(hint, "condhint", hint)  # of Advanced-ControlNet's preprocessor, which hands on latents
    return 0 if hint is None else len(hint)


def _sparse_method(control: Any) -> Any | None:
    """How Advanced-ControlNet's SparseCtrl spreads its condition frames; None of other ControlNets."""
    return getattr(getattr(control, "sparse_settings", None), "sparse_method", None)
