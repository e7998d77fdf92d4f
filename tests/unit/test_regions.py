"""The picture of a reference's foreground: where it is in colour, outlined, and with a dot in its middle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_correspondence import FRAMES, motion

from motionclone_core.grids import RepresentationMismatchError
from motionclone_core.semantics import Semantics, Words
from motionclone_core.visualisation.canvas import PATH_COLOUR
from motionclone_core.visualisation.regions import regions_preview

AS_PUBLISHED = Semantics(Words(), {})
COLOUR = (200, 40, 40)


def worded(value=1.0):
    """A motion whose words lie in rows 2 to 4, columns 1 to 3 of its cells."""
    rep = motion()
    grid = next(iter(rep.taps.values())).grid
    found = torch.zeros(FRAMES, *grid, dtype=torch.float16)
    found[:, 2:5, 1:4] = value
    return replace(rep, foreground=found), grid


def test_the_foreground_keeps_its_colour_and_the_rest_is_grey_and_dark():
    rep, grid = worded()
    side = 16
    ground = np.full((FRAMES, side * grid[0], side * grid[1], 3), COLOUR, np.uint8)
    shown = regions_preview(rep, AS_PUBLISHED, ground)
    assert (np.ptp(shown.video[:, : side - 4].astype(int), axis=-1) == 0).all()
    assert shown.video[:, : side - 4].max() < 60
    inside = shown.video[0, 2 * side + 8, side + 8].astype(int)
    assert inside[0] > 180 and inside[0] - inside[2] > 90


def test_the_outline_and_the_dot_are_where_the_words_are():
    rep, grid = worded()
    ground = np.full((1, 16 * grid[0], 16 * grid[1], 3), COLOUR, np.uint8)
    shown = regions_preview(rep, AS_PUBLISHED, ground).video[0]
    drawn = (np.abs(shown.astype(int) - PATH_COLOUR).sum(-1) < 40)
    rows, columns = np.nonzero(drawn)
    assert (rows.min(), columns.min()) == (pytest.approx(32, abs=3), pytest.approx(16, abs=3))
    assert (rows.max(), columns.max()) == (pytest.approx(79, abs=3), pytest.approx(63, abs=3))
    assert drawn[55:57, 39:41].all(), "the middle of 3 x 3 cells"


def test_what_counts_falls_off_from_the_middle_as_the_gaussian_does():
    rep, _ = worded()
    shown = regions_preview(rep, replace(AS_PUBLISHED, sigma=1.0)).foreground[0]
    side = shown.shape[0] // next(iter(rep.taps.values())).grid[0]
    at = shown[side // 2 :: side, side // 2 :: side]
    assert at[3, 2] == pytest.approx(1.0)
    assert at[2, 2] == pytest.approx(np.exp(-0.5))
    assert at[2, 1] == pytest.approx(np.exp(-1.0))
    assert at[1, 2] == 0.0


def test_a_threshold_and_a_mask_are_those_of_semantic_guidance():
    rep, grid = worded(0.5)
    assert not regions_preview(rep, replace(AS_PUBLISHED, reference_threshold=0.6)).foreground.any()
    mask = torch.zeros(1, *grid)
    mask[:, 0, 0] = 1.0
    masked = Semantics(Words("a cat", ("cat",), (2,)), {}, reference_mask=mask)
    shown = regions_preview(motion(), masked).foreground[0]
    assert shown[0, 0] == 1.0
    assert shown[-1, -1] == 0.0


def test_a_motion_without_words_has_none_to_show():
    with pytest.raises(RepresentationMismatchError, match="extracted without words"):
        regions_preview(motion(), AS_PUBLISHED)
