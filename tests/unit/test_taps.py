"""Tap names: their order and how people choose among them."""

from __future__ import annotations

import random

import pytest

from motionclone_core.taps import (
    UnknownTapError,
    block_of,
    execution_order,
    select_taps,
    tap_name,
    transformer_tap_name,
    weights_by_tap,
    weights_of,
)

# SD 1.5 with AnimateDiff v3, in the order in which its UNet runs: two motion modules in each block on
# the way down, one in the middle, three in each block on the way up, two attention layers in each.
SD15 = [
    *(f"down_blocks.{b}.motion.{m}.attention.{n}" for b in range(4) for m in range(2) for n in range(2)),
    *(f"mid_block.motion.0.attention.{n}" for n in range(2)),
    *(f"up_blocks.{b}.motion.{m}.attention.{n}" for b in range(4) for m in range(3) for n in range(2)),
]


def test_names_sort_into_the_order_of_execution():
    shuffled = random.Random(0).sample(SD15, len(SD15))
    assert sorted(shuffled, key=execution_order) == SD15


def test_numbers_sort_as_numbers():
    late, early = tap_name("up_blocks.10", 0, 0), tap_name("up_blocks.9", 11, 10)
    assert sorted([late, early], key=execution_order) == [early, late]
    assert execution_order(tap_name("up_blocks.1", 2, 10)) > execution_order(tap_name("up_blocks.1", 2, 9))


def test_a_name_and_its_block():
    assert tap_name("up_blocks.1", 0, 1) == "up_blocks.1.motion.0.attention.1"
    assert tap_name("mid_block", 0, 0) == "mid_block.motion.0.attention.0"
    assert [block_of(name) for name in (SD15[0], SD15[16], SD15[-1])] == [
        "down_blocks.0",
        "mid_block",
        "up_blocks.3",
    ]


@pytest.mark.parametrize(
    "name",
    ["", "to_q", "up_blocks.1", "x.mid_block.motion.0.attention.0", "mid_block.motion.0.attention.0.values"],
)
def test_what_is_no_tap_name_is_refused_by_name(name):
    with pytest.raises(ValueError) as error:
        execution_order(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("up_blocks.1", [name for name in SD15 if name.startswith("up_blocks.1.")]),
        ("up_blocks.1.motion.2", ["up_blocks.1.motion.2.attention.0", "up_blocks.1.motion.2.attention.1"]),
        ("up_blocks.1.motion.2.attention.1", ["up_blocks.1.motion.2.attention.1"]),
        ("mid_block", SD15[16:18]),
        ("down_blocks.*", SD15[:16]),
        ("down_blocks", SD15[:16]),
        ("*", SD15),
        ("*.attention.0", SD15[::2]),
        ("up_blocks.[02]", None),
        ("up_blocks.[02].*", [n for n in SD15 if n.startswith(("up_blocks.0.", "up_blocks.2."))]),
        # Order of execution whatever the order of the patterns, each once, spaces and empty parts ignored.
        (" mid_block ,, down_blocks.3 , mid_block.*,", SD15[12:18]),
    ],
)
def test_patterns_choose_in_the_order_of_execution(patterns, expected):
    shuffled = random.Random(1).sample(SD15, len(SD15))
    if expected is None:
        with pytest.raises(UnknownTapError):
            select_taps(shuffled, patterns)
    else:
        assert select_taps(shuffled, patterns) == tuple(expected)


def test_the_default_block_of_sd15_has_six():
    assert len(select_taps(SD15, "up_blocks.1")) == 6


def test_a_block_is_not_matched_by_the_beginning_of_its_number():
    names = [tap_name("up_blocks.1", 0, 0), tap_name("up_blocks.10", 0, 0)]
    assert select_taps(names, "up_blocks.1") == (names[0],)


def test_one_pattern_without_a_match_is_an_error_that_lists_the_blocks():
    with pytest.raises(UnknownTapError) as error:
        select_taps(SD15, "up_blocks.1, up_blocks.7")
    message = str(error.value)
    assert "'up_blocks.7'" in message
    assert "down_blocks.0, down_blocks.1, down_blocks.2, down_blocks.3, mid_block, up_blocks.0" in message
    assert message.count("up_blocks.3") == 1


@pytest.mark.parametrize("patterns", ["", " ", ",", " , ,"])
def test_no_pattern_is_an_error_that_lists_the_blocks(patterns):
    with pytest.raises(UnknownTapError, match=r"no block was named.*up_blocks\.3"):
        select_taps(SD15, patterns)


def test_a_model_without_taps_is_said_to_have_none():
    with pytest.raises(UnknownTapError, match="none"):
        select_taps([], "up_blocks.1")


# --- weights --------------------------------------------------------------------------------------


def test_weights_are_read_from_a_text():
    text = " up_blocks.1: 1, up_blocks.2 :0.5,, mid_block:2e3 "
    assert weights_of(text) == {"up_blocks.1": 1.0, "up_blocks.2": 0.5, "mid_block": 2000.0}
    assert weights_of("  ") == {}


@pytest.mark.parametrize("text", ["up_blocks.1", "up_blocks.1:", ": 1", "mid_block: -1", "mid_block: nan", "a: 1 b"])
def test_what_is_no_weight_is_named(text):
    with pytest.raises(ValueError, match="is no weight of a block"):
        weights_of(text)


def test_a_block_with_two_weights_is_named_with_both():
    with pytest.raises(ValueError, match=r"up_blocks\.1 has two weights, 1 and 2"):
        weights_of("up_blocks.1: 1, up_blocks.1: 2")
    with pytest.raises(ValueError, match=r"attention\.0 has two weights, 1 and 2"):
        weights_by_tap([tap_name("up_blocks.1", 0, 0)], {"up_blocks.1": 1.0, "up_*": 2.0})


def test_weights_go_to_the_taps_that_they_name_in_the_order_of_execution():
    taps = [tap_name(block, 0, layer) for block in ("up_blocks.2", "up_blocks.1", "mid_block") for layer in (0, 1)]
    found = weights_by_tap(taps, {"up_blocks.2": 0.5, "mid_block": 3.0})
    assert list(found.items()) == [
        (tap_name("mid_block", 0, 0), 3.0), (tap_name("mid_block", 0, 1), 3.0),
        (tap_name("up_blocks.2", 0, 0), 0.5), (tap_name("up_blocks.2", 0, 1), 0.5),
    ]  # fmt: skip
    with pytest.raises(UnknownTapError, match="down_blocks"):
        weights_by_tap(taps, {"down_blocks.0": 1.0})


# --- transformers ---------------------------------------------------------------------------------

OF_A_TRANSFORMER = [transformer_tap_name(i) for i in range(12)]


def test_blocks_of_a_transformer_are_chosen_and_sorted_by_number():
    shuffled = random.Random(2).sample(OF_A_TRANSFORMER, len(OF_A_TRANSFORMER))
    assert select_taps(shuffled, "blocks.10, blocks.2") == ("blocks.2.attention", "blocks.10.attention")
    assert select_taps(shuffled, "blocks.1") == ("blocks.1.attention",)
    assert select_taps(shuffled, "blocks.?.*") == tuple(OF_A_TRANSFORMER[:10])


@pytest.mark.parametrize("patterns", ["blocks.12", "up_blocks.1"])
def test_a_block_out_of_range_is_an_error_that_says_the_range(patterns):
    with pytest.raises(UnknownTapError, match=r"blocks\.0 to blocks\.11"):
        select_taps(OF_A_TRANSFORMER, patterns)


def test_the_block_of_a_transformer_s_tap():
    assert block_of("blocks.12.attention") == "blocks.12"


@pytest.mark.parametrize("patterns", ["auto", " auto ,blocks.2", "blocks.2, auto"])
def test_auto_stands_for_what_a_model_chooses_also_among_others(patterns):
    chosen = ("blocks.2.attention", "blocks.3.attention")
    assert select_taps(OF_A_TRANSFORMER, patterns, auto="blocks.2, blocks.3") == chosen


def test_auto_stands_for_nothing_where_nobody_chooses():
    with pytest.raises(UnknownTapError, match="'auto'"):
        select_taps(OF_A_TRANSFORMER, "auto")
