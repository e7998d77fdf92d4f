"""ComfyUI's own graph editor in headless Chromium, used as people use it: for the pictures and the browser tests."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from comfy_server import ComfyServer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
# What ComfyUI shows a new user first, and what it would fetch from elsewhere.
_SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.ShowMissingModelsWarning": True,
    "Comfy.Workflow.ShowMissingNodesWarning": True,
}
_READY = "() => window.app?.graph && window.app?.canvas && document.readyState == 'complete'"
_DROP = """
([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type: 'application/json'}));
  const canvas = document.querySelector('#graph-canvas');
  for (const kind of ['dragenter', 'dragover', 'drop'])
    canvas.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""
_WIDGETS = """
() => Object.fromEntries(window.app.graph._nodes.map((node) => [
  node.id, Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.value]))]))"""
_SET = """
([id, name, value]) => {
  const node = window.app.graph.getNodeById(id);
  const widget = node.widgets.find((widget) => widget.name == name);
  widget.value = value;
  widget.callback?.(value, window.app.canvas, node);
}"""


_UNKNOWN = """
() => window.app.graph._nodes
  .filter((node) => node.has_errors || !(node.type in window.LiteGraph.registered_node_types))
  .map((node) => node.type)"""
_CLEAR = """
() => {
  window.app.graph.clear();
  window.app.canvas.ds.scale = 1;
  window.app.canvas.ds.offset = [0, 0];
  window.app.canvas.setDirty(true, true);
}"""
_PREVIEW = """
(id) => {
  const picture = window.app.graph.getNodeById(id)?.imgs?.[0];
  return picture?.complete && picture.naturalWidth ? [picture.naturalWidth, picture.naturalHeight] : null;
}"""
_CENTRE = """
(id) => {
  window.app.canvas.centerOnNode(window.app.graph.getNodeById(id));
  window.app.canvas.setDirty(true, true);
}"""
_TEXT = """
(id) => (window.app.graph.getNodeById(id).widgets ?? [])
  .filter((widget) => widget.type == 'progressText' || widget.name.startsWith('$$'))
  .map((widget) => String(widget.value)).join('\\n')"""
_ADD = """
([kind, x, y]) => {
  const node = window.LiteGraph.createNode(kind);
  node.pos = [x, y];
  window.app.graph.add(node);
  window.app.canvas.draw(true, true);
  return node.id;
}"""
_SLOTS = """
([origin, output, target, slot]) => {
  const canvas = window.app.canvas, box = canvas.canvas.getBoundingClientRect();
  const ends = [[origin, false, output], [target, true, slot]];
  return ends.map(([id, into, place]) => {
    const [x, y] = window.app.graph.getNodeById(id).getConnectionPos(into, place);
    const [left, top] = canvas.ds.convertOffsetToCanvas([x, y]);
    return [left + box.left, top + box.top];
  });
}"""
_SELECT = """
(id) => {
  const node = window.app.graph.getNodeById(id);
  window.app.canvas.deselectAll();
  window.app.canvas.selectNode(node);
  window.app.canvas.setDirty(true, true);
}"""


class NoBrowserError(RuntimeError):
    """There is no Chromium."""


def find_chromium() -> str:
    """Where Chromium is.

    Raises:
        NoBrowserError: nowhere.
    """
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise NoBrowserError(f"there is none of {', '.join(BROWSERS)}: install one, such as by `apt-get install chromium`")


class Editor:
    """A page of the editor.

    Args:
        page: Playwright's.
        server: that serves it.
    """

    def __init__(self, page: Page, server: ComfyServer) -> None:
        self.page, self.server = page, server

    def open(self) -> None:
        """Go to the editor and wait until it is there."""
        self.page.goto(f"http://127.0.0.1:{self.server.port}/")
        self.page.wait_for_function(_READY)
        # The menus come after the canvas.
        self.page.wait_for_selector("#graph-canvas")
        self.page.wait_for_timeout(2000)

    @contextmanager
    def beside(self, server: ComfyServer) -> Iterator[Editor]:
        """The editor of another server, in the same browser."""
        server.post("/settings", _SETTINGS)
        page = self.page.context.browser.new_page(viewport=self.page.viewport_size)
        try:
            other = Editor(page, server)
            other.open()
            yield other
        finally:
            page.close()

    def drop(self, file: Path) -> None:
        """Drag a workflow's file onto the canvas and let it go."""
        content = base64.b64encode(file.read_bytes()).decode()
        self.page.evaluate(_DROP, [file.name, content])
        wanted = len(json.loads(file.read_text(encoding="utf-8"))["nodes"])
        self.page.wait_for_function("(wanted) => window.app.graph._nodes.length == wanted", arg=wanted)
        self.page.wait_for_timeout(1000)

    def graph(self) -> dict[str, Any]:
        """The workflow as the editor would save it."""
        return self.page.evaluate("() => window.app.graph.serialize()")

    def widgets(self) -> dict[int, dict[str, Any]]:
        """The values of all widgets, by the node's number and their names."""
        return {int(number): values for number, values in self.page.evaluate(_WIDGETS).items()}

    def set_widgets(self, changed: Mapping[int, Mapping[str, Any]]) -> None:
        """Give widgets other values."""
        for number, values in changed.items():
            for name, value in values.items():
                self.page.evaluate(_SET, [number, name, value])

    def complaints(self) -> list[str]:
        """The texts of dialogs and messages that are shown."""
        shown = self.page.locator(
            "[data-testid=error-overlay]:visible, .p-dialog:visible, .p-toast-message:visible"
        )
        return [text.strip() for text in shown.all_inner_texts() if text.strip()]

    def unknown(self) -> list[str]:
        """The kinds of nodes on the sheet that the editor does not know, or shows to be wrong."""
        return self.page.evaluate(_UNKNOWN)

    def kinds(self) -> list[str]:
        """Of all nodes on the sheet."""
        return self.page.evaluate("() => window.app.graph._nodes.map((node) => node.type)")

    def numbers_of(self, kind: str) -> list[int]:
        """The nodes of a kind, by their numbers."""
        return [node["id"] for node in self.graph()["nodes"] if node["type"] == kind]

    def clear(self) -> None:
        """An empty sheet, at its natural size."""
        self.page.keyboard.press("Escape")
        self.page.evaluate(_CLEAR)

    def run(self) -> None:
        """Queue what is on the sheet."""
        self.page.get_by_test_id("queue-button").click()

    def preview_of(self, number: int, *, seconds: float) -> tuple[int, int]:
        """Width and height of the picture that a node shows, once it does.

        Raises:
            RuntimeError: the editor complains instead; the message says of what.
        """
        # Pictures are loaded when they are drawn.
        self.page.evaluate(_CENTRE, number)
        for _ in range(round(2 * seconds)):
            if size := self.page.evaluate(_PREVIEW, number):
                return tuple(size)
            if said := self.complaints():
                raise RuntimeError("; ".join(said))
            self.page.wait_for_timeout(500)
        raise RuntimeError(f"node {number} shows no picture after {seconds} seconds")

    def text_in(self, number: int) -> str:
        """What a node says of its run."""
        return self.page.evaluate(_TEXT, number)

    def search(self, words: str) -> None:
        """Add the first node that the search finds."""
        self.found(words, close=False)
        self.page.keyboard.press("Enter")
        self.page.wait_for_function("() => window.app.graph._nodes.length > 0")

    def found(self, words: str, *, close: bool = True) -> list[str]:
        """The names of the nodes that the search finds, the best first."""
        box = self.page.get_by_placeholder(re.compile("^Add a node"))
        for _ in range(5):
            self.page.mouse.dblclick(700, 800)
            self.page.wait_for_timeout(300)
            if box.is_visible():
                break
        box.fill(words)
        names, before = self._results(), None
        for _ in range(20):
            if names and names == before:
                break
            self.page.wait_for_timeout(250)
            names, before = self._results(), names
        if close:
            self.page.keyboard.press("Escape")
        return names

    def _results(self) -> list[str]:
        shown = self.page.locator("[role=option]:visible, [data-testid*=result]:visible").all_inner_texts()
        return [line for entry in shown for line in entry.split("\n")]

    def add(self, kind: str, x: int, y: int) -> int:
        """Put a node at a place of the window; returns its number."""
        return int(self.page.evaluate(_ADD, [kind, x, y]))

    def wire(self, origin: int, output: int, target: int, slot: int) -> None:
        """Draw a wire with the mouse."""
        start, end = self.page.evaluate(_SLOTS, [origin, output, target, slot])
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=8)
        self.page.mouse.up()
        self.page.wait_for_timeout(200)

    def help_of(self, number: int) -> str:
        """What the help page of a node says."""
        self.page.evaluate(_SELECT, number)
        self.page.get_by_test_id("info-button").click()
        tab = self.page.get_by_test_id("panel-tab-info")
        tab.wait_for()
        self.page.wait_for_timeout(1500)
        return self.page.locator(".node-help-content").last.inner_text()

    def shoot(self, path: Path) -> Path:
        """A picture of the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        return path


@contextmanager
def editor(server: ComfyServer, *, width: int = 1600, height: int = 1000) -> Iterator[Editor]:
    """The editor of a server, open, for as long as the block runs.

    Args:
        server: it runs.
        width: of the window, in pixels.
        height: likewise.

    Raises:
        NoBrowserError: there is no Chromium.
    """
    executable = find_chromium()
    server.post("/settings", _SETTINGS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        try:
            made = Editor(browser.new_page(viewport={"width": width, "height": height}), server)
            made.open()
            yield made
        finally:
            browser.close()
