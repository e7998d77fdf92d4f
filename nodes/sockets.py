"""The sockets that this pack adds to ComfyUI."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

MotionRep = io.Custom("MOTION_REP")
"""Carries a `representation.MotionRepresentation` of the core, readings of one clip at several noise levels in a
`series.MotionSeries`, or several motions in a `mixing.Motion`."""

InversionSocket = io.Custom("INVERSION")
"""Carries an `inversion.Inversion` of the core."""

MotionCurve = io.Custom("MOTION_CURVE")
"""Carries a `motionclone_core.schedule.StrengthCurve`."""

MotionWords = io.Custom("MOTION_WORDS")
"""Carries a `motionclone_core.semantics.Words`."""

MotionSemantics = io.Custom("MOTION_SEMANTICS")
"""Carries a `motionclone_core.semantics.Semantics`."""

CATEGORY = "MotionClone"

SEARCH_ALIASES = ("motion clone", "motionclone")
"""What finds every node of this pack, beside the names of its own."""

_SCHEMA_FIELDS = frozenset(inspect.signature(io.Schema).parameters)


def node_schema(*, search_aliases: Sequence[str], **fields: Any) -> io.Schema:
    """An `io.Schema` of this pack's category; fields that this ComfyUI does not know yet are left out.

    ComfyUI 0.8 has no ``search_aliases``.

    Args:
        search_aliases: what else people type to find the node; those of the whole pack are added.
        **fields: those of `io.Schema`.
    """
    fields["search_aliases"] = list(dict.fromkeys((*SEARCH_ALIASES, *search_aliases)))
    known = {name: value for name, value in fields.items() if name in _SCHEMA_FIELDS}
    return io.Schema(category=CATEGORY, **known)
