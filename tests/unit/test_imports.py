"""The direction of imports, as AGENTS.md draws it; and that importing the pack imports nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = "motionclone_core/"
HOST_PACKAGES = {
    "comfy", "comfy_api", "comfy_execution", "comfy_extras", "diffusers", "folder_paths", "latent_preview", "server",
}  # fmt: skip
LIBRARIES = {"cv2", "einops", "numpy", "safetensors", "torch"}
# Where ComfyUI may be imported.
HOST_ROOMS = (CORE + "hosts/comfy_*", "nodes/*")
# It finds the families of diffusion transformers by the names of their files.
FINDER_OF_FAMILIES = CORE + "hosts/comfy_host"


# --- the drawing ----------------------------------------------------------------------------------


def layers_of(map_text):
    """The drawing's layers, lowest first: per layer, patterns of modules such as ``hosts/comfy_*``."""
    drawing = re.search(r"Imports point one way:\s*```\n(.*?)```", map_text, re.S)[1]
    without_remarks = re.sub(r"\([^)]*\)", "", drawing)
    return [re.findall(r"[\w/*]+", layer) for layer in without_remarks.split("<-")]


def place(module, layers):
    """(layer, pattern) of ``motionclone_core/energy`` or ``nodes/guide``; None if it is not drawn."""
    name = module.removeprefix(CORE)
    for height, layer in enumerate(layers):
        for pattern in layer:
            if fnmatchcase(name, pattern) or name.startswith(pattern + "/"):
                return height, pattern
    return None


def may_import(importer, imported, layers):
    here, there = place(importer, layers), place(imported, layers)
    return here is not None and there is not None and (there[0] < here[0] or there == here)


# --- the imports ----------------------------------------------------------------------------------


def modules_of(root):
    """Module name (``motionclone_core/hosts/base``, ``__init__``) -> file, of everything that is shipped."""
    files = [root / "__init__.py", *(root / "motionclone_core").rglob("*.py"), *(root / "nodes").rglob("*.py")]
    return {file.relative_to(root).with_suffix("").as_posix(): file for file in files if file.exists()}


def runs(tree):
    """All nodes except those under ``if TYPE_CHECKING:``, which are read but never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from (inner for branch in node.orelse for inner in (branch, *runs(branch)))
        else:
            yield node
            yield from runs(node)


def imports_of(module, tree, known):
    """(line, what): a module of the pack as ``/a/b``, anything else by its dotted name."""
    for node in tree:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module
        elif isinstance(node, ast.ImportFrom):
            folder = module.split("/")[: -node.level] + (node.module or "").split(".")
            base = "/".join(part for part in folder if part)
            for alias in node.names:
                candidate = f"{base}/{alias.name}".lstrip("/")
                yield node.lineno, "/" + (candidate if candidate in known else base)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("__import__", "import_module")):
            yield node.lineno, "importlib"


def fault(module, target, modules, layers):
    """Why ``module`` may not import ``target``, or None."""
    if target.startswith("/"):
        imported = target[1:] if target[1:] in modules else f"{target[1:]}/__init__".lstrip("/")
        return None if may_import(module, imported, layers) else f"may not import {imported}"
    top = target.split(".")[0]
    own = {name.split("/")[0] for name in modules} - {"__init__"}
    if top in own or top in ("scripts", "tests"):
        return f"imports {target} absolutely"
    if top in HOST_PACKAGES:
        return None if any(fnmatchcase(module, room) for room in HOST_ROOMS) else f"imports {target} outside hosts"
    if top == "importlib" and module == FINDER_OF_FAMILIES:
        return None
    if top == "importlib" or top not in LIBRARIES | set(sys.stdlib_module_names):
        return f"imports {target}"
    return None


def faults_of(root):
    """Every import of the pack at ``root`` that its AGENTS.md does not allow."""
    layers, modules = layers_of((root / "AGENTS.md").read_text(encoding="utf-8")), modules_of(root)
    faults = []
    for module, file in modules.items():
        tree = list(runs(ast.parse(file.read_text(encoding="utf-8"))))
        for line, target in imports_of(module, tree, modules):
            why = fault(module, target, modules, layers)
            if why:
                faults.append(f"{module}:{line} {why}")
        if place(module, layers) is None and not module.endswith("/__init__"):
            faults.append(f"{module} is not on the map")
    return faults


# --- the pack -------------------------------------------------------------------------------------


def test_the_pack_imports_in_the_direction_of_the_map():
    assert faults_of(ROOT) == []


def test_everything_that_is_drawn_exists():
    modules = modules_of(ROOT)
    layers = layers_of((ROOT / "AGENTS.md").read_text(encoding="utf-8"))
    drawn = {pattern for layer in layers for pattern in layer}
    assert {place(module, layers)[1] for module in modules if place(module, layers)} == drawn
    assert len(modules) > 15


def imported_with(code):
    script = f"import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in result.stdout.split()}


IMPORT_AS_COMFYUI_DOES = (
    "import importlib.util as u; "
    "spec = u.spec_from_file_location('custom_nodes/pack', '__init__.py', submodule_search_locations=['.']); "
    "sys.modules[spec.name] = module = u.module_from_spec(spec); spec.loader.exec_module(module); "
    "assert module.comfy_entrypoint"
)


def test_importing_the_pack_imports_neither_torch_nor_comfy():
    heavy = LIBRARIES | HOST_PACKAGES | {"motionclone_core", "nodes"}
    assert imported_with(IMPORT_AS_COMFYUI_DOES) & heavy == set()
    assert {"torch"} <= imported_with("import motionclone_core.attention")


def test_the_core_runs_without_comfy():
    core = [name for name in modules_of(ROOT) if name.startswith(CORE) and "/comfy_" not in name]
    names = [name.removesuffix("/__init__").replace("/", ".") for name in core]
    assert not imported_with("import " + ", ".join(names)) & HOST_PACKAGES


# --- the checker itself ---------------------------------------------------------------------------

MADE_UP_MAP = """
Imports point one way:

```
low, other
  <- middle
    <- hosts/base
      <- {left, right}   {hosts/comfy_*}      (do not import each other <- ever)
        <- nodes <- __init__
```
"""
SOUND = {
    "__init__.py": "async def f():\n    from .nodes.top import A\n",
    "motionclone_core/__init__.py": "",
    "motionclone_core/low.py": "import math\nimport torch\n",
    "motionclone_core/other.py": "",
    "motionclone_core/middle.py": "from .low import a\nfrom . import other\n",
    "motionclone_core/left.py": "from .hosts.base import A\nfrom .middle import b\n",
    "motionclone_core/right.py": "",
    "motionclone_core/hosts/__init__.py": "",
    "motionclone_core/hosts/base.py": "from ..middle import b\n",
    "motionclone_core/hosts/comfy_one.py": "import comfy.utils\nfrom .base import A\nfrom . import comfy_two\n",
    "motionclone_core/hosts/comfy_two.py": "from ..low import a\n",
    "nodes/__init__.py": "",
    "nodes/top.py": "from ..motionclone_core.hosts import comfy_one\nfrom .beside import c\n",
    "nodes/beside.py": "from comfy_api.latest import io\n",
}


def pack(folder, **changes):
    for name, text in {"AGENTS.md": MADE_UP_MAP, **SOUND, **changes}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


def test_the_drawing_is_read_in_layers():
    assert layers_of(MADE_UP_MAP) == [
        ["low", "other"],
        ["middle"],
        ["hosts/base"],
        ["left", "right", "hosts/comfy_*"],
        ["nodes"],
        ["__init__"],
    ]


def test_a_sound_pack_has_no_faults(tmp_path):
    assert faults_of(pack(tmp_path)) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("motionclone_core/low.py", "from .middle import b", "may not import motionclone_core/middle"),
        ("motionclone_core/low.py", "from .other import b", "may not import motionclone_core/other"),
        ("motionclone_core/low.py", "from . import middle", "may not import motionclone_core/middle"),
        ("motionclone_core/low.py", "def f():\n    from .hosts import base", "may not import motionclone_core/hosts/"),
        ("motionclone_core/low.py", "from ..nodes.top import A", "may not import nodes/top"),
        ("motionclone_core/low.py", "from .. import comfy_entrypoint", "may not import __init__"),
        ("motionclone_core/low.py", "try:\n    import comfy.utils\nfinally: pass", "imports comfy.utils outside hosts"),
        ("motionclone_core/hosts/base.py", "import comfy.utils", "imports comfy.utils outside hosts"),
        ("motionclone_core/low.py", "from diffusers import A", "imports diffusers outside hosts"),
        ("motionclone_core/low.py", "import folder_paths", "imports folder_paths outside hosts"),
        ("motionclone_core/low.py", "import requests", "imports requests"),
        ("motionclone_core/low.py", "__import__('comfy')", "imports importlib"),
        ("motionclone_core/low.py", "import importlib\nimportlib.import_module('comfy')", "imports importlib"),
        ("motionclone_core/middle.py", "import motionclone_core.low", "imports motionclone_core.low absolutely"),
        ("motionclone_core/middle.py", "from scripts.x import y", "imports scripts.x absolutely"),
        ("motionclone_core/left.py", "from .right import d", "may not import motionclone_core/right"),
        ("motionclone_core/left.py", "from .hosts.comfy_one import d", "may not import motionclone_core/hosts/comfy_"),
        ("motionclone_core/hosts/base.py", "from ..left import d", "may not import motionclone_core/left"),
        ("motionclone_core/hosts/comfy_two.py", "from ..left import d", "may not import motionclone_core/left"),
        ("motionclone_core/hosts/comfy_two.py", "from ...nodes.top import d", "may not import nodes/top"),
        ("nodes/top.py", "from nodes import beside", "imports nodes absolutely"),
        ("nodes/top.py", "from .. import comfy_entrypoint", "may not import __init__"),
        ("motionclone_core/new.py", "", "motionclone_core/new is not on the map"),
        ("motionclone_core/hosts/__init__.py", "from .base import A", "may not import motionclone_core/hosts/base"),
        ("__init__.py", "import comfy", "imports comfy outside hosts"),
    ],
)
def test_a_violation_is_found(tmp_path, name, text, expected):
    faults = faults_of(pack(tmp_path, **{name: text + "\n"}))
    assert any(fault.startswith(name.removesuffix(".py")) and expected in fault for fault in faults), faults


def test_what_is_only_read_by_type_checkers_is_no_import(tmp_path):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import comfy\nelse:\n    import diffusers\n"
    faults = faults_of(pack(tmp_path, **{"__init__.py": text}))
    assert faults == ["__init__:5 imports diffusers outside hosts"]


# --- the table ------------------------------------------------------------------------------------


def rooms_of(map_text):
    """Module of the core -> what AGENTS.md's table of rooms says that it imports."""
    rows = re.findall(r"^\| `motionclone_core/([\w/]+)\.py` \|.*\| (.+) \|$", map_text, re.M)
    return {name: {one.strip() for one in imported.split(",")} for name, imported in rows}


def test_the_table_of_rooms_names_what_each_imports():
    rooms, modules = rooms_of((ROOT / "AGENTS.md").read_text(encoding="utf-8")), modules_of(ROOT)
    assert len(rooms) > 40
    for room, said in rooms.items():
        tree = list(runs(ast.parse((ROOT / CORE / f"{room}.py").read_text(encoding="utf-8"))))
        targets = [target for _, target in imports_of(CORE + room, tree, modules) if target.startswith("/")]
        found = {target.removeprefix("/" + CORE) for target in targets}
        family = "hosts/comfy_" if room.startswith("hosts/comfy_") else "-"
        others = {name for name in found if not name.startswith(family)}
        drawn = {name for name in said if CORE + name in modules and not name.startswith(family)}
        assert others == drawn, room
