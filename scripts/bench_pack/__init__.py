"""Nodes that only the benchmark uses: they measure the steps of a sampling run inside ComfyUI.

``MotionCloneMeter`` puts wrappers on a MODEL; after each run the figures of its steps lie in the output folder,
one JSON file per run.
"""

from __future__ import annotations

from . import meter

NODE_CLASS_MAPPINGS = {"MotionCloneMeter": meter.Meter}
