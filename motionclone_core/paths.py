"""Names that people type -> files inside one folder, and nowhere else; files that are whole or absent.

ComfyUI servers are reached over the network, so a file name in a prompt is not to be trusted.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_LONGEST = 255  # bytes of one name, on common file systems


def resolve_inside(root: Path, name: str) -> Path:
    """The real path of ``name``, which must lie below the folder ``root``; the file need not exist.

    Subfolders are allowed. Refused are absolute paths, ``..`` that climbs out, and symbolic links that
    lead out; a link to another place below ``root`` is followed, and ``root`` itself may be a link.

    Args:
        root: the only allowed folder.
        name: a path relative to it.

    Returns:
        An absolute path without symbolic links.

    Raises:
        ValueError: ``name`` leads elsewhere, or is no file name; the message names the allowed folder.
    """
    if not name or "\0" in name:
        raise ValueError(f"{name!r} is not a file name: give the name of a file in {root}")
    if os.path.isabs(name):
        raise ValueError(
            f"{name!r} is an absolute path: only files in {root} are allowed, give a name relative to it"
        )
    try:
        folder = Path(os.path.realpath(root))
        path = Path(os.path.realpath(folder / name))
    except (OSError, ValueError) as error:  # a name that this file system cannot hold
        raise ValueError(
            f"{name!r} is not a file name ({error}): give the name of a file in {root}"
        ) from error
    if path == folder:
        raise ValueError(f"{name!r} is the folder {root} itself: give the name of a file in it")
    longest = max(len(os.fsencode(part)) for part in path.parts)
    if longest > _LONGEST:
        raise ValueError(f"{name[:20]!r}... is no file name: it has {longest} bytes, at most {_LONGEST} are allowed")
    if not path.is_relative_to(folder):
        raise ValueError(
            f"{name!r} leads out of {root}: only files in that folder are allowed, move or copy it there"
        )
    return path


def list_inside(root: Path, wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
    """The names, sorted and with forward slashes, of the files below ``root`` that do not lead out of it.

    Linked folders are not entered, so that a link to a parent cannot loop. A missing folder has no files.

    Args:
        root: the folder.
        wanted: says of a name whether it counts; names are resolved, which is slow, only if it does.
    """
    names = []
    for folder, _, files in os.walk(root):
        for file in files:
            name = Path(folder, file).relative_to(root).as_posix()
            if wanted(name) and _leads_inside(root, name):
                names.append(name)
    return sorted(names)


def _leads_inside(root: Path, name: str) -> bool:
    try:
        return resolve_inside(root, name).is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the name ``path`` once all of it is written; its folder is made if missing.

    Whatever goes wrong in the block, a file of that name stays what it was, and nothing else is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written here: files of tempfile and of safetensors' save_file are for nobody else to read.
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; see `whole`."""
    with whole(path) as file:
        file.write(content)
