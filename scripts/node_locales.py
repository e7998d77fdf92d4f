#!/usr/bin/env python3
"""Writes locales/en/nodeDefs.json from the schemas of the nodes, as the ComfyUI that is found describes them.

ComfyUI hands the files under ``locales/`` to its editor, which shows their texts in place of the schemas'. The other
languages are written by hand; what they lack or have beyond the English file is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from find_comfyui import PACK, ComfyUI, find_comfyui

LOCALES = PACK / "locales"
FILE = "nodeDefs.json"
CATEGORY = "MotionClone"
AFTER_GENERATE = "control_after_generate"
ObjectInfo = Mapping[str, Mapping[str, Any]]

# Runs in ComfyUI's interpreter: no server, and no graphics card, which ComfyUI otherwise looks for when it is imported.
_DESCRIBE = """
import asyncio, importlib.util, json, sys
comfyui, pack = sys.argv[1:]
del sys.argv[1:]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu = True
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
async def described():
    extension = await module.comfy_entrypoint()
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in await extension.get_node_list()}
print("\\n" + json.dumps(asyncio.run(described())))
"""


def object_info(comfyui: ComfyUI) -> ObjectInfo:
    """What ``/object_info`` of this ComfyUI says of this pack's nodes, without a server."""
    command = [str(comfyui.python), "-c", _DESCRIBE, str(comfyui.path), str(PACK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ComfyUI at {comfyui.path} could not import the nodes:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def node_definitions(described: ObjectInfo) -> dict[str, Any]:
    """The contents of ``nodeDefs.json`` in the words of the schemas, for the nodes of this pack's category.

    Args:
        described: the answer of ``/object_info``, or a part of it.

    Returns:
        Per node ``display_name``, ``description``, ``inputs`` by name and ``outputs`` by number, as a string; each
        with its ``name`` and ``tooltip``. Widgets that the editor adds by itself have a name alone.
    """
    return {
        name: {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": dict(_inputs(info)),
            "outputs": dict(_outputs(info)),
        }
        for name, info in sorted(described.items())
        if info["category"] == CATEGORY
    }


def _inputs(info: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    for group in ("required", "optional"):
        for name, (_, *rest) in info["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            yield name, {"name": options.get("display_name") or name, "tooltip": options.get("tooltip") or ""}
            if options.get(AFTER_GENERATE):
                yield AFTER_GENERATE, {"name": AFTER_GENERATE.replace("_", " ")}


def _outputs(info: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    tooltips = info.get("output_tooltips") or ()
    for number, name in enumerate(info["output_name"]):
        yield str(number), {"name": name, "tooltip": (tooltips[number] if number < len(tooltips) else None) or ""}


def leaves(document: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every text of a locale's file, with the keys that lead to it."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def read_definitions(language: str) -> dict[str, Any]:
    """``nodeDefs.json`` of a language."""
    return json.loads((LOCALES / language / FILE).read_text(encoding="utf-8"))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    english = node_definitions(object_info(find_comfyui()))
    file = LOCALES / "en" / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(english, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{file}: {len(english)} nodes")
    wanted = {path for path, _ in leaves(english)}
    for other in sorted(LOCALES.glob(f"*/{FILE}")):
        there = {path for path, _ in leaves(read_definitions(other.parent.name))}
        for what, paths in (("lacks", wanted - there), ("has beyond it", there - wanted)):
            for path in sorted(paths):
                print(f"{other.parent.name} {what} {'.'.join(path)}")


if __name__ == "__main__":
    main()
