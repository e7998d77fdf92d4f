"""Tables as the documents of the project have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, with a line for each row."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("|" + "".join(f" {entry} |" if entry else " |" for entry in line) for line in lines)
