"""The sockets that this pack adds to ComfyUI."""

from __future__ import annotations

from comfy_api.latest import io

MotionRep = io.Custom("MOTION_REP")
"""Carries a `motionclone_core.representation.MotionRepresentation`."""

CATEGORY = "MotionClone"
