#!/usr/bin/env python3
"""Turns a workflow as ComfyUI's graph editor saves it into the form that ``/prompt`` takes.

The graph form keeps the values of a node's widgets as a bare list, in the order of its inputs, so that the
description of the node classes (``/object_info``) is needed to name them. What only the editor can resolve
(subgraphs, reroutes, primitives, muted and bypassed nodes) is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comfy_server import ComfyServer, Prompt, ServerError
from find_comfyui import ComfyUINotFound, find_comfyui

NOTES = {"MarkdownNote", "Note"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEEDS = {"seed", "noise_seed"}  # the editor gives these a "control after generate" unless told not to
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}
UPLOADS = {"image_upload", "animated_image_upload", "video_upload", "audio_upload"}
ALWAYS = 0  # the mode of a node that is neither muted nor bypassed

ObjectInfo = Mapping[str, Mapping[str, Any]]
Workflow = Mapping[str, Any]


def is_graph_form(document: Mapping[str, Any]) -> bool:
    """Whether a JSON document is what the editor saves, not a prompt."""
    return isinstance(document.get("nodes"), list)


def to_prompt(workflow: Workflow, object_info: ObjectInfo) -> Prompt:
    """The prompt of a workflow: every node but the notes, with named inputs.

    Args:
        workflow: as the editor saves it (version 0.4).
        object_info: descriptions of all node classes, as ``/object_info`` gives them.

    Raises:
        ValueError: a node class is unknown, a node needs the editor, or the widgets do not fit the class.
    """
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    nodes = [node for node in workflow["nodes"] if node["type"] not in NOTES]
    prompt: Prompt = {}
    for node in nodes:
        described = object_info.get(node["type"])
        if described is None:
            raise ValueError(f"node {node['id']} is a {node['type']!r}, which this ComfyUI does not have")
        if node.get("mode", ALWAYS) != ALWAYS:
            raise ValueError(f"node {node['id']} ({node['type']}) is muted or bypassed: only the editor runs it")
        inputs = _widget_values(node, described) | _linked(node, origins)
        title = node.get("title") or described.get("display_name") or node["type"]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


def _linked(node: Mapping[str, Any], origins: Mapping[int, list[Any]]) -> dict[str, list[Any]]:
    connected = (slot for slot in node.get("inputs", []) if slot.get("link") is not None)
    return {slot["name"]: list(origins[slot["link"]]) for slot in connected}


def _widget_values(node: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """Names the saved values; a linked widget keeps its value there, which its link then replaces."""
    values = list(node.get("widgets_values") or [])
    named: dict[str, Any] = {}
    uploads = 0
    for name, kind, options in _widgets(described):
        if not values:
            raise ValueError(f"node {node['id']} ({node['type']}) has no value for {name!r}: save it again")
        named[name] = values.pop(0)
        uploads += any(options.get(upload) for upload in UPLOADS)
        controlled = options.get("control_after_generate", kind == "INT" and name in SEEDS)
        if controlled and values.pop(0) not in AFTER_GENERATE:
            raise ValueError(f"node {node['id']} ({node['type']}) has no 'control after generate' after {name!r}")
    if len(values) > uploads:  # an upload button saves a value as well, behind all others
        raise ValueError(f"node {node['id']} ({node['type']}) has values left over: {values}")
    return named


def _widgets(described: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, type and options of the inputs that are shown as widgets, in their order."""
    for group in ("required", "optional"):
        inputs = described["input"].get(group, {})
        for name in described.get("input_order", {}).get(group, inputs):
            kind, options = inputs[name][0], (inputs[name][1:] or [{}])[0]
            kind = "COMBO" if isinstance(kind, list) else kind
            if kind in WIDGET_TYPES and not options.get("forceInput"):
                yield name, kind, options


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workflow", type=Path, help="as saved by the graph editor")
    args = parser.parse_args()
    workflow = json.loads(args.workflow.read_text(encoding="utf-8"))
    try:
        with ComfyServer(find_comfyui()) as server:
            print(json.dumps(to_prompt(workflow, server.object_info()), indent=2, ensure_ascii=False))
    except (ComfyUINotFound, ServerError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
