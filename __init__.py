"""ComfyUI-MotionClone: clone the motion of a reference video into a new one, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"
"""Served as ``/extensions/<name of this folder>``; ComfyUI's editor looks for help pages in ``docs`` there."""


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls to learn of the nodes; imports them only then."""
    from .nodes.extension import MotionCloneExtension

    return MotionCloneExtension()
