#!/usr/bin/env python3
"""Finds ComfyUI, its interpreter and AnimateDiff-Evolved, for the tests and the scripts.

ComfyUI is looked for at ``COMFYUI_PATH``, else the folder this pack is installed in, else
``~/comfy/ComfyUI``. Its interpreter is ``COMFYUI_PYTHON``, else ``.venv`` or ``venv`` inside ComfyUI,
else the interpreter that runs this script. Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parents[1]
ANIMATEDIFF_URL = "https://github.com/Kosinkadink/ComfyUI-AnimateDiff-Evolved"
ADVANCED_CONTROLNET_URL = "https://github.com/Kosinkadink/ComfyUI-Advanced-ControlNet"
HOST_MODULES = ("torch", "aiohttp", "yaml", "PIL")
PACK_MODULES = {"einops": "einops", "safetensors": "safetensors", "cv2": "opencv-python", "numpy": "numpy"}


class ComfyUINotFound(RuntimeError):
    """No usable ComfyUI; the message names what to install or set."""


@dataclass(frozen=True)
class ComfyUI:
    """An installation of ComfyUI that has AnimateDiff-Evolved."""

    path: Path
    python: Path
    version: str
    animatediff: Path
    packs: tuple[Path, ...]
    """The other custom node packs (folders), this one left out."""

    def pack(self, name: str) -> Path | None:
        """The first other pack whose folder name contains ``name``, case ignored."""
        return next((p for p in self.packs if name.lower() in p.name.lower()), None)


def find_comfyui() -> ComfyUI:
    """The ComfyUI that the tests and the scripts use.

    Raises:
        ComfyUINotFound: none is there, or it lacks AnimateDiff-Evolved, or its interpreter is missing.
    """
    reasons = []
    for path, why in _candidates():
        reason = _what_is_missing(path)
        if reason is None:
            return _describe(path)
        reasons.append(f"  {path} ({why}): {reason}")
    raise ComfyUINotFound(
        "no ComfyUI with AnimateDiff-Evolved was found. Looked at:\n"
        + "\n".join(reasons)
        + "\nSet COMFYUI_PATH to a ComfyUI folder (and COMFYUI_PYTHON to its interpreter if that is not in"
        f" .venv or venv there), and clone {ANIMATEDIFF_URL} into its custom_nodes."
    )


def missing_modules(python: Path) -> tuple[list[str], list[str]]:
    """What ``python`` cannot import: modules ComfyUI needs, then this pack's requirements (pip's names)."""
    names = [*HOST_MODULES, *PACK_MODULES]
    code = "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])"
    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ComfyUINotFound(f"{python} does not run: {done.stderr.strip()}. Set COMFYUI_PYTHON.")
    absent = done.stdout.split()
    return [n for n in HOST_MODULES if n in absent], [p for n, p in PACK_MODULES.items() if n in absent]


def check_packs(found: ComfyUI) -> None:
    """Makes sure that the packs are there that the tests need besides AnimateDiff-Evolved.

    Raises:
        ComfyUINotFound: one is not; the message says where to get it.
    """
    if found.pack("Advanced-ControlNet") is None:
        raise ComfyUINotFound(
            f"{found.path} has no ComfyUI-Advanced-ControlNet in custom_nodes, which the tests need; "
            f"clone {ADVANCED_CONTROLNET_URL} there"
        )


def check_interpreter(found: ComfyUI) -> None:
    """Makes sure that the interpreter can run ComfyUI with this pack.

    Raises:
        ComfyUINotFound: something is not installed; the message holds the pip command.
    """
    host, pack = missing_modules(found.python)
    if host:
        raise ComfyUINotFound(
            f"{found.python} cannot run ComfyUI: it lacks {', '.join(host)}. Set COMFYUI_PYTHON to the"
            f" interpreter of {found.path}, or run:"
            f' "{found.python}" -m pip install -r "{found.path / "requirements.txt"}"'
        )
    if pack:
        raise ComfyUINotFound(
            f"ComfyUI's interpreter lacks {', '.join(pack)}, which this pack needs."
            f' Run: "{found.python}" -m pip install -r "{PACK / "requirements.txt"}"'
        )


def _candidates() -> Iterator[tuple[Path, str]]:
    named = os.environ.get("COMFYUI_PATH")
    if named:
        # Whoever names a folder wants that folder, not another one found in silence.
        yield Path(named).expanduser().absolute(), "COMFYUI_PATH"
        return
    for pack in _pack_folders():
        if pack.parent.name == "custom_nodes":
            yield pack.parents[1], "where this pack is installed"
    yield Path("~/comfy/ComfyUI").expanduser(), "the usual place"


def _pack_folders() -> list[Path]:
    """This pack's folder, also under the name of the link through which the shell entered it."""
    shell = Path(os.environ.get("PWD", ""))
    linked = shell.is_absolute() and shell.exists() and shell != PACK and shell.samefile(PACK)
    return [PACK, shell] if linked else [PACK]


def _what_is_missing(path: Path) -> str | None:
    if not path.is_dir():
        return "no such folder"
    for part in ("main.py", "comfy"):
        if not (path / part).exists():
            return f"not a ComfyUI: no {part} in it"
    if _animatediff(path) is None:
        return f"no ComfyUI-AnimateDiff-Evolved in custom_nodes; clone {ANIMATEDIFF_URL} there"
    return None


def _animatediff(path: Path) -> Path | None:
    return next((p for p in _pack_dirs(path) if "animatediff-evolved" in p.name.lower()), None)


def _pack_dirs(path: Path) -> list[Path]:
    folder = path / "custom_nodes"
    if not folder.is_dir():
        return []
    packs = (p for p in folder.iterdir() if (p / "__init__.py").is_file())
    return sorted(p for p in packs if not p.name.endswith(".disabled"))


def _describe(path: Path) -> ComfyUI:
    animatediff = _animatediff(path)
    assert animatediff is not None
    others = (p for p in _pack_dirs(path) if p != animatediff and not p.samefile(PACK))
    return ComfyUI(path, _interpreter(path), _version(path), animatediff, tuple(others))


def _interpreter(path: Path) -> Path:
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        program = shutil.which(os.path.expanduser(named))
        if program is None:
            raise ComfyUINotFound(f"COMFYUI_PYTHON={named} is no program. Set it to ComfyUI's interpreter.")
        return Path(program).absolute()
    programs = ("bin/python", "Scripts/python.exe")
    inside = (path / env / program for env in (".venv", "venv") for program in programs)
    # Not resolved: a virtual environment is found through the link's own place.
    return next((p for p in inside if p.is_file()), Path(sys.executable))


def _version(path: Path) -> str:
    file = path / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    match = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
    return match.group(1) if match else "unknown"


def main() -> int:
    try:
        found = find_comfyui()
        check_interpreter(found)
    except ComfyUINotFound as error:
        print(error, file=sys.stderr)
        return 1
    print(f"ComfyUI {found.version}: {found.path}")
    print(f"interpreter: {found.python}")
    print(f"AnimateDiff-Evolved: {found.animatediff}")
    print(f"other packs: {', '.join(p.name for p in found.packs) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
