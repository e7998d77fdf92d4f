"""Sheets of ComfyUI's graph editor: workflows in columns of groups, with the widgets of the installed packs."""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workflow import SEEDS, UPLOADS, WIDGET_TYPES, ObjectInfo

WIDTH, GAP, MARGIN, TITLE = 350, 60, 20, 80  # pixels: of a node, between nodes, inside a group, above its first node
ROW, WIDGET, TEXT = 22, 28, 110  # heights of a socket, of a widget, of a text field
GREY = ("#2a363b", "#1e262a")
# Packs by their names in the Comfy registry: by them the editor says which one is missing, and the Manager installs it.
_PACKS = {
    "ComfyUI-AnimateDiff-Evolved": "comfyui-animatediff-evolved",
    "ComfyUI-Advanced-ControlNet": "comfyui-advanced-controlnet",
    "ComfyUI-MotionClone": "motionclone",
}


@dataclass(frozen=True)
class Socket:
    """An output of a node."""

    node: int
    slot: int


@dataclass
class Placed:
    """A node on the sheet; ``placed[i]`` is its i-th output."""

    number: int
    document: dict[str, Any]

    def __getitem__(self, slot: int) -> Socket:
        return Socket(self.number, slot)


@dataclass
class Sheet:
    """A workflow while it is laid out: groups stand in columns, nodes in groups, from left to right, from the top."""

    name: str
    text: str
    known: ObjectInfo
    files: Mapping[str, tuple[str, str]]
    """Folder and address of each model's file."""
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0

    def column(self, title: str, colour: str) -> None:
        """Begin a group to the right of all others."""
        self.x = max((node["pos"][0] + node["size"][0] for node in self.nodes), default=-2 * GAP) + 2 * GAP
        self.y = 0.0
        self._group(title, colour)

    def below(self, title: str, colour: str) -> None:
        """Begin a group under the last one."""
        self.y += TITLE + 10
        self._group(title, colour)

    def _group(self, title: str, colour: str) -> None:
        bounding = [self.x - MARGIN, self.y - TITLE, WIDTH + 2 * MARGIN, TITLE]
        kept = {"id": len(self.groups) + 1, "title": title, "bounding": bounding, "color": colour}
        self.groups.append({**kept, "font_size": 24, "flags": {}})

    def note(self, title: str, text: str, height: float) -> None:
        """A page of Markdown."""
        self._place("MarkdownNote", title, GREY, height, {"inputs": [], "outputs": [], "widgets_values": [text]})

    def add(
        self, kind: str, title: str = "", *, tint: tuple[str, str] | None = None, tall: float = 0.0, **inputs: Any
    ) -> Placed:
        """A node with its inputs by name: values for widgets, `Socket` or `Placed` (its first output) for wires."""
        described = self.known[kind]
        named = {name: entry for group in ("required", "optional") for name, entry in _ordered(described, group)}
        if unknown := set(inputs) - set(named):
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}")
        wires = {name: given[0] if isinstance(given, Placed) else given for name, given in inputs.items()}
        wires = {name: given for name, given in wires.items() if isinstance(given, Socket)}
        entries = [_Entry.of(name, spec, name in wires) for name, spec in named.items()]
        sockets: list[dict[str, Any]] = []
        for entry in entries:
            if entry.is_socket:
                sockets.append(entry.socket(optional=entry.name in described["input"].get("optional", {})))
                if entry.name in wires:
                    place = (len(self.nodes) + 1, len(sockets) - 1)
                    sockets[-1]["link"] = self._link(wires[entry.name], *place)
        values = [v for e in entries if e.is_widget for v in e.values(None if e.name in wires else inputs.get(e.name))]
        document = {"inputs": sockets, "outputs": _outputs(described), "properties": self._properties(kind, values)}
        uploads = sum(entry.uploads for entry in entries)
        document["widgets_values"] = values + ["image"] * uploads
        needed = max(sum(entry.height for entry in entries), ROW * len(document["outputs"]))
        return self._place(kind, title, tint, tall or needed + 20 + TEXT * uploads, document)

    def _properties(self, kind: str, values: list[Any]) -> dict[str, Any]:
        named = [value for value in values if isinstance(value, str) and value in self.files]
        models = [{"name": n, "url": self.files[n][1], "directory": self.files[n][0]} for n in named]
        _, custom, pack = self.known[kind]["python_module"].rpartition("custom_nodes.")
        found = {"cnr_id": _PACKS[pack] if custom else "comfy-core", "Node name for S&R": kind}
        return found | ({"models": models} if models else {})

    def _link(self, origin: Socket, target: int, slot: int) -> int:
        number = len(self.links) + 1
        kind = self.nodes[origin.node - 1]["outputs"][origin.slot]["type"]
        self.links.append([number, origin.node, origin.slot, target, slot, kind])
        self.nodes[origin.node - 1]["outputs"][origin.slot]["links"].append(number)
        return number

    def _place(
        self, kind: str, title: str, tint: tuple[str, str] | None, height: float, parts: Mapping[str, Any]
    ) -> Placed:
        number = len(self.nodes) + 1
        document = {"id": number, "type": kind, "pos": [self.x, self.y], "size": [WIDTH, round(height)]}
        document |= {"flags": {}, "order": number - 1, "mode": 0, "properties": {}, **parts}
        document |= {"title": title} if title else {}
        document |= dict(zip(("color", "bgcolor"), tint, strict=True)) if tint else {}
        self.nodes.append(document)
        self.y += round(height) + GAP
        bounding = self.groups[-1]["bounding"]
        bounding[3] = self.y - GAP + MARGIN - bounding[1]
        return Placed(number, document)

    def document(self) -> dict[str, Any]:
        """What the editor would save."""
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"motionclone/{self.name}")
        counts = {"last_node_id": len(self.nodes), "last_link_id": len(self.links)}
        parts = {"nodes": self.nodes, "links": self.links, "groups": self.groups, "config": {}}
        view = {"ds": {"scale": 0.55, "offset": [130, 180]}}
        return {"id": str(identity), "revision": 0, **counts, **parts, "extra": view, "version": 0.4}


def unwrapped(text: str) -> str:
    """Markdown with one line for each paragraph and item."""
    return re.sub(r"(?<=\S)\n(?: +|(?![\n\d#-]))", " ", inspect.cleandoc(text))


@dataclass(frozen=True)
class _Entry:
    """An input of a node class: a socket, a widget, or a widget that is wired, which is both."""

    name: str
    kind: str
    options: Mapping[str, Any]
    is_socket: bool
    is_widget: bool

    @classmethod
    def of(cls, name: str, spec: list[Any], wired: bool) -> _Entry:
        options = (spec[1:] or [{}])[0]
        choices = spec[0] if isinstance(spec[0], list) else options.get("options", []) if spec[0] == "COMBO" else []
        kind = "COMBO" if isinstance(spec[0], list) else spec[0]
        if choices:
            options = {"default": choices[0], **options}
        is_widget = kind in WIDGET_TYPES and not options.get("forceInput")
        return cls(name, kind, options, wired or not is_widget, is_widget)

    @property
    def is_seed(self) -> bool:
        """Whether the editor shows below it what becomes of it after a run."""
        return bool(self.options.get("control_after_generate", self.kind == "INT" and self.name in SEEDS))

    @property
    def uploads(self) -> bool:
        return any(self.options.get(upload) for upload in UPLOADS)

    @property
    def height(self) -> float:
        widget = (TEXT if self.options.get("multiline") else WIDGET) + WIDGET * self.is_seed
        return ROW * self.is_socket + widget * self.is_widget

    def values(self, given: Any) -> list[Any]:
        """What the editor keeps of the widget."""
        value = self.options.get("default") if given is None else given
        return [value, "fixed"] if self.is_seed else [value]

    def socket(self, *, optional: bool) -> dict[str, Any]:
        shape = {"widget": {"name": self.name}} if self.is_widget else {"shape": 7} if optional else {}
        return {"name": self.name, "type": self.kind, "link": None, **shape}


def _ordered(described: Mapping[str, Any], group: str) -> list[tuple[str, list[Any]]]:
    inputs = described["input"].get(group, {})
    return [(name, inputs[name]) for name in described.get("input_order", {}).get(group, inputs) if name in inputs]


def _outputs(described: Mapping[str, Any]) -> list[dict[str, Any]]:
    pairs = zip(described["output_name"], described["output"], strict=True)
    return [{"name": name, "type": kind, "links": []} for name, kind in pairs]
