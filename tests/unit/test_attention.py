"""Attention over frames and the choice of its strongest entries, against loops in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from motionclone_core.attention import strongest, temporal_attention


def random_qk(rows, frames, channels, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, frames, channels, generator=generator, dtype=torch.float64).to(dtype)


def attention_in_loops(q, k, heads):
    rows, frames, channels = q.shape
    d = channels // heads
    q, k = q.double().tolist(), k.double().tolist()
    result = torch.empty(rows, heads, frames, frames, dtype=torch.float64)
    for r in range(rows):
        for n in range(heads):
            for i in range(frames):
                scores = [
                    sum(q[r][i][c] * k[r][j][c] for c in range(n * d, (n + 1) * d)) / math.sqrt(d)
                    for j in range(frames)
                ]
                total = sum(math.exp(score) for score in scores)
                for j in range(frames):
                    result[r, n, i, j] = math.exp(scores[j]) / total
    return result


@pytest.mark.parametrize(("heads", "channels"), [(1, 5), (2, 6), (4, 4)])
def test_attention_is_the_softmax_of_each_head_over_frames(heads, channels):
    q, k = random_qk(3, 4, channels)
    torch.testing.assert_close(
        temporal_attention(q, k, heads), attention_in_loops(q, k, heads), rtol=1e-12, atol=0
    )


def test_uniform_where_keys_do_not_differ():
    q, _ = random_qk(2, 5, 4)
    attention = temporal_attention(q, torch.ones_like(q), 2)
    torch.testing.assert_close(attention, torch.full((2, 2, 5, 5), 0.2, dtype=torch.float64))


def test_two_frames_give_the_logistic_function():
    # One channel, q = 1, keys 0 and x: the second probability is 1 / (1 + exp(-x)).
    x = 1.75
    attention = temporal_attention(torch.ones(1, 2, 1), torch.tensor([[[0.0], [x]]]), 1)
    assert attention[0, 0, 0, 1].item() == pytest.approx(1 / (1 + math.exp(-x)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    q, k = random_qk(4, 6, 8, dtype=dtype)
    attention = temporal_attention(q, k, 2)
    assert attention.dtype == torch.float32
    # Rounded to half precision anywhere on the way, this would be off by 1e-3 and more.
    torch.testing.assert_close(attention.double(), attention_in_loops(q, k, 2), rtol=2e-6, atol=0)


def test_scores_beyond_the_range_of_float16_do_not_overflow():
    q = torch.full((1, 3, 4), 300.0, dtype=torch.float16)
    k = torch.stack([torch.full((4,), v, dtype=torch.float16) for v in (-300.0, 0.0, 300.0)])[None]
    expected = torch.zeros(1, 1, 3, 3)
    expected[..., 2] = 1.0
    assert torch.equal(temporal_attention(q, k, 1), expected)


@pytest.mark.parametrize(
    ("q_shape", "k_shape", "heads", "words"),
    [
        ((2, 4, 6), (2, 5, 6), 2, ["(2, 4, 6)", "(2, 5, 6)"]),
        ((4, 6), (4, 6), 2, ["(4, 6)", "[rows, frames, channels]"]),
        ((2, 4, 6), (2, 4, 6), 4, ["6 channels", "4 heads"]),
    ],
)
def test_shapes_that_do_not_fit_are_named(q_shape, k_shape, heads, words):
    with pytest.raises(ValueError) as error:
        temporal_attention(torch.zeros(q_shape), torch.zeros(k_shape), heads)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_strongest_are_the_first_of_the_sorted_row(k):
    q, keys = random_qk(3, 5, 4, seed=k)
    attention = attention_in_loops(q, keys, 2)
    values, indices = strongest(attention, k)
    for position in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(5)).tolist():
        row = attention[tuple(position)].tolist()
        order = sorted(range(5), key=lambda j, row=row: -row[j])[:k]
        assert indices[tuple(position)].tolist() == order
        assert values[tuple(position)].tolist() == [row[j] for j in order]


@pytest.mark.parametrize("k", [0, -1, 6])
def test_strongest_names_k_and_the_number_of_frames(k):
    with pytest.raises(ValueError, match=rf"k is {k},.*5 frames.*from 1 to 5"):
        strongest(torch.rand(1, 1, 5, 5), k)
