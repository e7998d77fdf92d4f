#!/usr/bin/env python3
"""Takes the pictures of the example workflows: ComfyUI's own graph editor in headless Chromium, at a real server.

Needs Chromium (``apt-get install chromium``). The models are random weights under the names that the workflows ask for.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from comfy_server import ComfyServer
from draw_clip import draw_inputs
from editor import Editor, editor
from find_comfyui import PACK, ComfyUI, find_comfyui
from random_models import published_links

FOLDER = PACK / "example_workflows"
SCALE, EDGE, QUALITY = 0.75, 40, 82  # pixels of the picture to one of the sheet; around it; of the JPEG

_SETTINGS = {
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
}
# The graph alone: no side bars, no menus, no messages.
_HIDDEN = (
    ".p-toast", ".p-dialog-mask", ".side-tool-bar-container", ".comfyui-body-top", ".comfyui-body-bottom",
    ".comfyui-body-left", ".comfyui-body-right", ".comfy-menu", ".graph-canvas-panel .p-buttongroup", ".actionbar",
    ".actionbar-container", ".workflow-tabs-container", ".pointer-events-auto", ".subgraph-breadcrumb",
    ".p-splitter-gutter", "[class*=minimap]",
)  # fmt: skip
_FIT = """
([box, scale]) => {
  const canvas = window.app.canvas;
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = -box[0]; canvas.ds.offset[1] = -box[1];
  canvas.links_render_mode = 2; canvas.setDirty(true, true); canvas.draw(true, true);
}"""


def bounds(graph: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, width and height of everything on a sheet, in its pixels."""
    boxes = [group["bounding"] for group in graph["groups"]]
    left, top = min(box[0] for box in boxes) - EDGE, min(box[1] for box in boxes) - EDGE
    right, bottom = max(box[0] + box[2] for box in boxes) + EDGE, max(box[1] + box[3] for box in boxes) + EDGE
    return left, top, right - left, bottom - top


def take(opened: Editor, name: str) -> Path:
    """A picture of one workflow."""
    page, file = opened.page, FOLDER / f"{name}.json"
    box = bounds(json.loads(file.read_text(encoding="utf-8")))
    page.set_viewport_size({"width": round(box[2] * SCALE), "height": round(box[3] * SCALE)})
    opened.drop(file)
    page.wait_for_timeout(1000)
    page.evaluate(_FIT, [box, SCALE])
    page.wait_for_timeout(1000)
    picture = file.with_suffix(".jpg")
    page.screenshot(path=picture, type="jpeg", quality=QUALITY)
    return picture


def photograph(found: ComfyUI, names: list[str]) -> None:
    """Takes the pictures of these workflows."""
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        with ComfyServer(found, models=published_links(found, folder)) as server:
            for file in draw_inputs(folder / "inputs"):
                server.add_input(file)
            server.post("/settings", _SETTINGS)
            with editor(server) as opened:
                opened.page.add_style_tag(content=f"{', '.join(_HIDDEN)} {{ display: none !important; }}")
                for name in names:
                    print(take(opened, name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="workflows, all by default")
    args = parser.parse_args()
    photograph(find_comfyui(), args.names or sorted(file.stem for file in FOLDER.glob("*.json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
