"""Masks, key means and the semantic energy, against formulas written out here in float64, cell by cell."""

from __future__ import annotations

import math

import pytest
import torch

from motionclone_core.semantics import (
    Semantics,
    Words,
    appearance_regions,
    everywhere,
    gaussian,
    key_means,
    mask_on_grid,
    normalised,
    on_grid,
    pooled,
    reference_regions,
    semantic_energy,
    word_attention,
)

FRAMES, GRID, CHANNELS = 3, (4, 6), 5


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_mask(seed=1):
    return (random(FRAMES, *GRID, seed=seed) > 0.4).double()


def mean_by_hand(keys, region):
    """The mean key of each frame, one cell after the other."""
    means = torch.zeros(FRAMES, keys.shape[-1], dtype=torch.float64)
    for f in range(FRAMES):
        weight = 0.0
        for y in range(GRID[0]):
            for x in range(GRID[1]):
                means[f] += region[f, y, x] * keys[y * GRID[1] + x, f]
                weight += region[f, y, x]
        means[f] /= weight + 1e-5
    return means


# --- where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [(2,), (1, 4)])
def test_attention_to_words_is_the_mean_over_heads_and_tokens(tokens):
    heads, d, text = 2, 3, 6
    q, k = random(FRAMES, 8, heads * d), random(FRAMES, text, heads * d, seed=1)
    expected = torch.zeros(FRAMES, 8, dtype=torch.float64)
    for f in range(FRAMES):
        for p in range(8):
            for n in range(heads):
                part = slice(n * d, (n + 1) * d)
                scores = [math.exp(float(q[f, p, part] @ k[f, t, part]) / math.sqrt(d)) for t in range(text)]
                expected[f, p] += sum(scores[t] for t in tokens) / sum(scores) / heads / len(tokens)
    torch.testing.assert_close(word_attention(q, k, heads, tokens), expected)


def test_a_token_that_the_conditioning_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"token 6 of its prompt, but the conditioning has 6 tokens"):
        word_attention(random(1, 4, 4), random(1, 6, 4), 2, (6,))


def test_attention_is_stretched_in_every_frame():
    attention = random(FRAMES, *GRID).exp()
    got = normalised(attention)
    for f in range(FRAMES):
        low, high = float(attention[f].min()), float(attention[f].max())
        torch.testing.assert_close(got[f], (attention[f] - low) / (high - low + 1e-5))
    assert not normalised(torch.ones(1, 2, 2)).any()


def test_the_gaussian_stands_around_the_centroid():
    mask = some_mask()
    got = gaussian(mask, 2.0)
    for f in range(FRAMES):
        cells = [(y, x) for y in range(GRID[0]) for x in range(GRID[1]) if mask[f, y, x]]
        cy, cx = (sum(cell[axis] for cell in cells) / len(cells) for axis in (0, 1))
        for y in range(GRID[0]):
            for x in range(GRID[1]):
                expected = math.exp(-((y - cy) ** 2) / 8.0) * math.exp(-((x - cx) ** 2) / 8.0)
                assert float(got[f, y, x]) == pytest.approx(expected, rel=1e-12)


def test_a_frame_without_foreground_is_all_background():
    mask = some_mask()
    mask[1] = 0.0
    foreground, background = reference_regions(mask, 5.0)
    assert not foreground[1].any()
    assert (background[1] == 1.0).all()


def test_regions_of_the_reference_fade_and_those_of_the_appearance_do_not():
    mask = some_mask()
    around = gaussian(mask, 5.0)
    foreground, background = reference_regions(mask, 5.0)
    torch.testing.assert_close(foreground, around * mask)
    torch.testing.assert_close(background, (1 - around) * (1 - mask))
    assert [region.tolist() for region in appearance_regions(mask)] == [mask.tolist(), (1 - mask).tolist()]


def test_a_larger_grid_takes_the_nearest_cell():
    mask = some_mask()
    (large, _) = on_grid(appearance_regions(mask), (8, 12))
    torch.testing.assert_close(large, mask.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2))


@pytest.mark.parametrize("size", [(8, 12), (4, 6), (2, 3)])
def test_a_mask_of_any_size_counts_by_what_it_covers(size):
    mask = torch.zeros(1, *size)
    mask[:, :, : size[1] // 3] = 1.0
    on_cells = mask_on_grid(mask, FRAMES, (2, 3))
    assert on_cells.tolist() == [[[1.0, 0.0, 0.0]] * 2] * FRAMES


def test_a_mask_of_other_frames_is_named_with_both():
    with pytest.raises(ValueError, match="2 frames, the video 3"):
        mask_on_grid(torch.ones(2, 4, 4), 3, (2, 2))


# --- how far apart --------------------------------------------------------------------------------


def test_pooled_keys_are_the_weighted_mean_cell_by_cell():
    keys = random(GRID[0] * GRID[1], FRAMES, CHANNELS)
    foreground, _ = reference_regions(some_mask(), 5.0)
    torch.testing.assert_close(pooled(keys, foreground), mean_by_hand(keys, foreground))


def test_the_energy_is_that_of_foreground_and_background_written_out():
    guided, unguided = (random(GRID[0] * GRID[1], FRAMES, CHANNELS, seed=seed) for seed in (2, 3))
    own, other = reference_regions(some_mask(4), 5.0), appearance_regions(some_mask(5))
    expected = sum(
        float(((mean_by_hand(guided, a) - mean_by_hand(unguided, b)) ** 2).sum()) / (FRAMES * CHANNELS)
        for a, b in zip(own, other, strict=True)
    )
    got = semantic_energy(guided, own, key_means(unguided, other))
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_without_words_frames_are_held_against_the_mean_over_all_frames():
    guided, unguided = (random(GRID[0] * GRID[1], FRAMES, CHANNELS, seed=seed) for seed in (2, 3))
    whole = everywhere(FRAMES, GRID)
    expected = ((unguided.mean(dim=(0, 1)) - guided.mean(dim=0)) ** 2).mean()
    got = semantic_energy(guided, whole, key_means(unguided, whole))
    assert float(got) == pytest.approx(float(expected), rel=1e-12)


def test_keys_have_no_energy_against_themselves_in_the_same_regions():
    keys, regions = random(24, FRAMES, CHANNELS), appearance_regions(some_mask())
    assert float(semantic_energy(keys, regions, key_means(keys, regions))) == 0.0


@pytest.mark.parametrize("empty", ["reference", "appearance"])
def test_an_empty_foreground_pulls_nothing(empty):
    keys = random(24, FRAMES, CHANNELS)
    bare = torch.zeros(FRAMES, *GRID, dtype=torch.float64)
    masks = {"reference": some_mask(4), "appearance": some_mask(5), empty: bare}
    own, other = reference_regions(masks["reference"], 5.0), appearance_regions(masks["appearance"])
    got = semantic_energy(keys, own, key_means(random(24, FRAMES, CHANNELS, seed=9), other))
    background = (mean_by_hand(keys, own[1]) - mean_by_hand(random(24, FRAMES, CHANNELS, seed=9), other[1])) ** 2
    assert float(got) == pytest.approx(float(background.mean()), rel=1e-12)


def test_the_energy_s_gradient_is_its_slope():
    own, other = reference_regions(some_mask(4), 5.0), appearance_regions(some_mask(5))
    means = key_means(random(24, FRAMES, CHANNELS, seed=3), other)
    keys = random(24, FRAMES, CHANNELS, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda k: semantic_energy(k, own, means), (keys,))


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alone": 1.5}, "alone is 1.5"),
        ({"reference_threshold": -0.1}, "reference_threshold is -0.1"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"reference_mask": torch.ones(4, 4)}, r"reference_mask has shape \[4, 4\]"),
        ({"appearance_mask": torch.zeros(1, 4, 4)}, "appearance_mask is empty"),
        ({"reference_mask": torch.ones(1, 4, 4)}, "nothing where the new one is"),
    ],
)
def test_bad_settings_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        Semantics(Words("a cat"), {"up_blocks.1": 200.0}, **changes)
