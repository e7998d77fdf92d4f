"""Taps: the temporal self-attention layers of a model, by names that no host decides.

- Of a UNet, a tap is called ``<block>.motion.<module>.attention.<layer>``: block is ``down_blocks.<b>``, ``mid_block``
  or ``up_blocks.<b>``; module counts the motion modules of the block, layer the temporal self-attention layers of the
  module. SD 1.5 with AnimateDiff has six in ``up_blocks.1``.
- Of a diffusion transformer, it is called ``blocks.<b>.attention``: the self-attention of block b, counted from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain

DEFAULT_BLOCKS = "up_blocks.1"
# What a host chooses where nobody does.
AUTO_BLOCKS = "auto"
_NAME = re.compile(r"(?P<stage>down_blocks|mid_block|up_blocks)(?:\.(?P<block>\d+))?"
                   r"\.motion\.(?P<module>\d+)\.attention\.(?P<layer>\d+)")
_OF_TRANSFORMER = re.compile(r"blocks\.(?P<block>\d+)\.attention")
_NUMBER = re.compile(r"\d+(\.\d*)?(e[+-]?\d+)?|\.\d+", re.IGNORECASE)
_STAGES = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}


class UnknownTapError(ValueError):
    """A pattern matches no tap of the model."""


def tap_name(block: str, module: int, layer: int) -> str:
    """``("up_blocks.1", 0, 1)`` -> ``"up_blocks.1.motion.0.attention.1"``."""
    return f"{block}.motion.{module}.attention.{layer}"


def transformer_tap_name(block: int) -> str:
    """``12`` -> ``"blocks.12.attention"``."""
    return f"blocks.{block}.attention"


def block_of(tap: str) -> str:
    """The block that a tap lies in, ``"up_blocks.1"`` or ``"blocks.12"``."""
    return tap.split(".motion.")[0].removesuffix(".attention")


def execution_order(tap: str) -> tuple[int, int, int, int]:
    """A key that sorts taps in the order in which a network reaches them.

    Raises:
        ValueError: ``tap`` is no tap name.
    """
    match = _OF_TRANSFORMER.fullmatch(tap)
    if match is not None:
        return (0, int(match["block"]), 0, 0)
    match = _NAME.fullmatch(tap)
    if match is None:
        raise ValueError(
            f"{tap!r} is not a tap name such as 'up_blocks.1.motion.0.attention.0' or 'blocks.12.attention'"
        )
    return (_STAGES[match["stage"]], int(match["block"] or 0), int(match["module"]), int(match["layer"]))


def select_taps(available: Iterable[str], patterns: str, *, auto: str = "") -> tuple[str, ...]:
    """Choose taps by name.

    Args:
        available: the taps that the model has.
        patterns: one or more of them, separated by commas: a block (``up_blocks.1``), a longer prefix
            that ends at a dot (``up_blocks.1.motion.0``), or a shell pattern (``up_blocks.*``).
        auto: patterns that the word ``auto`` stands for; empty where it stands for none.

    Returns:
        The taps that any pattern matches, in the order of execution, each once.

    Raises:
        UnknownTapError: the text holds no pattern, or one of them matches nothing.
    """
    names = sorted(available, key=execution_order)
    wanted = _parts(patterns)
    if auto:
        wanted = list(chain.from_iterable(_parts(auto) if part == AUTO_BLOCKS else [part] for part in wanted))
    if not wanted:
        raise UnknownTapError(f"no block was named; {_blocks_that_exist(names)}")
    chosen: set[str] = set()
    for pattern in wanted:
        found = {name for name in names if _matches(name, pattern)}
        if not found:
            raise UnknownTapError(f"no temporal attention matches {pattern!r}; {_blocks_that_exist(names)}")
        chosen |= found
    return tuple(name for name in names if name in chosen)


def _parts(patterns: str) -> list[str]:
    return [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(pattern + ".") or fnmatchcase(name, pattern)


def _blocks_that_exist(names: Sequence[str]) -> str:
    blocks = list(dict.fromkeys(block_of(name) for name in names))
    if len(blocks) > 2 and all(_OF_TRANSFORMER.fullmatch(name) for name in names):
        return f"this model has: {blocks[0]} to {blocks[-1]}"
    return f"this model has: {', '.join(blocks) or 'none'}"


def weights_of(text: str) -> dict[str, float]:
    """``"up_blocks.1: 1, up_blocks.2: 0.5"`` as numbers by pattern; an empty text is none.

    Raises:
        ValueError: an entry is not a pattern, a colon and a number of at least 0, or stands there twice.
    """
    weights: dict[str, float] = {}
    for entry in (part.strip() for part in text.split(",") if part.strip()):
        name, _, number = (part.strip() for part in entry.rpartition(":"))
        if not name or not _NUMBER.fullmatch(number):
            raise ValueError(
                f"{entry!r} is no weight of a block: write a block, a colon and a number of at least 0, such as "
                f"'up_blocks.1: 1, up_blocks.2: 0.5'"
            )
        if name in weights:
            raise ValueError(f"{name} has two weights, {weights[name]:g} and {float(number):g}: give it one")
        weights[name] = float(number)
    return weights


def weights_by_tap(available: Iterable[str], weights: Mapping[str, float]) -> dict[str, float]:
    """The weight of each tap that a pattern names, in the order of execution; see `select_taps` for patterns.

    Raises:
        UnknownTapError: a pattern matches none of them.
        ValueError: a tap is named twice.
    """
    names, found = list(available), {}
    for pattern, weight in weights.items():
        for name in select_taps(names, pattern):
            if name in found:
                raise ValueError(f"{name} has two weights, {found[name]:g} and {weight:g}: name it once")
            found[name] = weight
    return {name: found[name] for name in sorted(found, key=execution_order)}
