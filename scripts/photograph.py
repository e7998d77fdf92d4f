#!/usr/bin/env python3
"""Takes the pictures of the example workflows: ComfyUI's own graph editor in headless Chromium, at a real server.

Needs Chromium (``apt-get install chromium``), and ComfyUI's interpreter for its web socket client: started with another
one, this script hands over to it. The models are random weights under the names that the workflows ask for.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib.util
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comfy_server import ComfyServer
from draw_clip import draw_inputs
from find_comfyui import PACK, ComfyUI, find_comfyui
from random_models import ModelFiles, ensure_models, published_names

FOLDER = PACK / "example_workflows"
CHROMIUM = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
            "--hide-scrollbars", "--remote-debugging-port=0", "--force-device-scale-factor=1")  # fmt: skip
SCALE, EDGE, QUALITY = 0.75, 40, 82  # pixels of the picture to one of the sheet; around it; of the JPEG

_SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Notification.ShowVersionUpdates": False,
}
# The graph alone: no side bars, no menus, no messages.
_HIDDEN = (
    ".p-toast", ".p-dialog-mask", ".side-tool-bar-container", ".comfyui-body-top", ".comfyui-body-bottom",
    ".comfyui-body-left", ".comfyui-body-right", ".comfy-menu", ".graph-canvas-panel .p-buttongroup", ".actionbar",
    ".actionbar-container", ".workflow-tabs-container", ".pointer-events-auto", ".subgraph-breadcrumb",
    ".p-splitter-gutter", "[class*=minimap]",
)  # fmt: skip
_BARE = f"""
const style = document.createElement('style');
style.textContent = '{", ".join(_HIDDEN)} {{ display: none !important; }}';
document.head.append(style)"""
_FIT = """
(() => {
  const canvas = window.app.canvas, box = %s;
  canvas.ds.scale = %f;
  canvas.ds.offset[0] = -box[0]; canvas.ds.offset[1] = -box[1];
  canvas.links_render_mode = 2; canvas.setDirty(true, true); canvas.draw(true, true);
})()"""


class Browser:
    """A page of Chromium, spoken to by its debugging protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._count = socket, 0

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": parameters})
        async for message in self._socket:
            answer = json.loads(message.data)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
        raise RuntimeError("Chromium has gone")

    async def run(self, script: str) -> Any:
        """The value of a script; a promise is waited for."""
        answer = await self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    async def until(self, script: str, seconds: float = 60.0) -> None:
        for _ in range(int(seconds / 0.25)):
            if await self.run(script):
                return
            await asyncio.sleep(0.25)
        raise TimeoutError(script)


def bounds(graph: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, width and height of everything on a sheet, in its pixels."""
    boxes = [group["bounding"] for group in graph["groups"]]
    left, top = min(box[0] for box in boxes) - EDGE, min(box[1] for box in boxes) - EDGE
    right, bottom = max(box[0] + box[2] for box in boxes) + EDGE, max(box[1] + box[3] for box in boxes) + EDGE
    return left, top, right - left, bottom - top


async def take(port: int, debugging: str, names: list[str]) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.ws_connect(debugging, max_msg_size=0) as socket:
        page = Browser(socket)
        await page.ask("Page.navigate", url=f"http://127.0.0.1:{port}/")
        await page.until("!!(window.app && window.app.graph && window.app.canvas && document.readyState == 'complete')")
        await asyncio.sleep(3)
        await page.run(_BARE)
        for name in names:
            graph = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
            box = bounds(graph)
            size = {"width": round(box[2] * SCALE), "height": round(box[3] * SCALE)}
            await page.ask("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
            await page.run(f"window.app.loadGraphData({json.dumps(graph)})")
            await asyncio.sleep(2)
            await page.run(_FIT % (json.dumps(box), SCALE))
            await asyncio.sleep(1)
            picture = await page.ask("Page.captureScreenshot", format="jpeg", quality=QUALITY)
            (FOLDER / f"{name}.jpg").write_bytes(base64.b64decode(picture["data"]))
            print(FOLDER / f"{name}.jpg")


def named(files: ModelFiles, folder: Path) -> dict[str, list[Path]]:
    """Random weights under the names that the workflows ask for. (Nothing is run, so that any file is a LoRA.)"""
    names = published_names(files) | {"loras": {"v3_sd15_adapter.ckpt": files.motion_module}}
    for name, file in (pair for kind in names.values() for pair in kind.items()):
        (folder / name).symlink_to(file)
    return {kind: [folder / name for name in files] for kind, files in names.items()}


def photograph(found: ComfyUI, names: list[str]) -> None:
    """Takes the pictures of these workflows."""
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        with ComfyServer(found, models=named(ensure_models(found), folder)) as server:
            for file in draw_inputs(folder / "inputs"):
                server.add_input(file)
            server.post("/settings", _SETTINGS)
            with chromium(folder / "profile") as debugging:
                asyncio.run(take(server.port, debugging, names))


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """Headless Chromium, and where its page is spoken to."""
    command = [*CHROMIUM, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as browser:
        try:
            line = next(line for line in browser.stderr if "DevTools listening on" in line)
            host = line.split("ws://")[1].split("/")[0]
            with urllib.request.urlopen(f"http://{host}/json") as answer:
                yield next(p for p in json.load(answer) if p["type"] == "page")["webSocketDebuggerUrl"]
        finally:
            browser.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="workflows, all by default")
    args = parser.parse_args()
    found = find_comfyui()
    if importlib.util.find_spec("aiohttp") is None:
        return subprocess.run([str(found.python), __file__, *args.names], check=False).returncode
    photograph(found, args.names or sorted(file.stem for file in FOLDER.glob("*.json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
