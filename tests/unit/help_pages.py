"""The help pages of the nodes, read as the tests need them."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "web" / "docs"
LANGUAGES = ("en", "zh")
_CODE = re.compile(r"`([^`]+)`")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


@dataclass(frozen=True)
class Page:
    """One help page.

    Attributes:
        text: the whole of it.
        sections: the rows of the tables under its headings, in order: inputs, outputs, wiring, and last
            what goes wrong.
    """

    text: str
    sections: tuple[tuple[list[str], ...], ...]

    @property
    def inputs(self) -> list[str]:
        return [name for row in self.sections[0] for name in _CODE.findall(row[0])]

    @property
    def outputs(self) -> list[str]:
        return [name for row in self.sections[1] for name in _CODE.findall(row[0])]

    @property
    def messages(self) -> list[str]:
        """What ComfyUI or its log says, where the page quotes it; … stands for a value."""
        return [name for row in self.sections[-1] for name in _CODE.findall(row[0])]

    @property
    def pictures(self) -> list[str]:
        return _PICTURE.findall(self.text)


def path_of(node: str, language: str) -> Path:
    """Where ComfyUI's editor looks for it: that of the language first, and the English one if there is none."""
    return PAGES / f"{node}.md" if language == "en" else PAGES / node / f"{language}.md"


def pages_in(language: str) -> dict[str, Page]:
    """Every page of a language, by the id of its node."""
    files = PAGES.glob("*.md") if language == "en" else PAGES.glob(f"*/{language}.md")
    return {file.stem if language == "en" else file.parent.name: read_page(file) for file in sorted(files)}


def read_page(file: Path) -> Page:
    text = file.read_text(encoding="utf-8")
    _, *parts = re.split(r"^## .*$", text, flags=re.MULTILINE)
    return Page(text, tuple(tuple(_rows(part)) for part in parts if _is_node_section(part)))


def _is_node_section(part: str) -> bool:
    # Sections of prose alone, such as what fits a card, lie between.
    return part.strip().startswith(("|", "```"))


def _rows(part: str) -> Iterator[list[str]]:
    """The rows of the first table under a heading, without its head."""
    table = re.match(r"\s*((?:\|.*\n)+)", part)
    for line in table[1].splitlines()[2:] if table else ():
        yield [entry.strip() for entry in line.strip("|").split("|")]


@functools.cache
def spoken_texts() -> list[str]:
    """Every text in the code of the pack, with … for the values in it."""
    files = [*(ROOT / "nodes").rglob("*.py"), *(ROOT / "motionclone_core").rglob("*.py")]
    return [text for file in files for text in _texts(ast.parse(file.read_text(encoding="utf-8")))]


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[-.\d]*[sdfgr]", "…", node.value)


def is_spoken(message: str, texts: list[str]) -> bool:
    """Whether some text holds the message; a … of the message may stand for more than one value."""
    pattern = re.compile(".*".join(re.escape(piece.strip()) for piece in message.split("…")), re.DOTALL)
    return any(pattern.search(text) for text in texts)
