"""The sparse energy: by hand, against the dense form of Eq. 6, and its gradient."""

from __future__ import annotations

import pytest
import torch

from motionclone_core.attention import temporal_attention
from motionclone_core.energy import sparse_energy
from toy_host import written_out_attention, written_out_energy


def test_a_value_worked_out_by_hand():
    # One position, one head, two frames, k = 1: ((0.75 - 0.5)^2 + (0.25 - 1)^2) / 2
    attention = torch.tensor([[[[0.75, 0.25], [0.75, 0.25]]]])
    values, indices = torch.tensor([[[[0.5], [1.0]]]]), torch.tensor([[[[0], [1]]]])
    assert sparse_energy(attention, values, indices).item() == (0.0625 + 0.5625) / 2


def random_tap(seed, *, p=6, n=3, f=5, k=2):
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(p, n, f, f, generator=generator, dtype=torch.float64)
    values = torch.rand(p, n, f, k, generator=generator, dtype=torch.float64)
    indices = torch.rand(p, n, f, f, generator=generator).argsort(-1)[..., :k]
    return attention, values, indices


@pytest.mark.parametrize("k", [1, 2, 5])
def test_it_is_the_mean_over_the_kept_entries_of_the_dense_maps(k):
    attention, values, indices = random_tap(k, k=k)
    torch.testing.assert_close(
        sparse_energy(attention, values, indices),
        written_out_energy(attention, values, indices),
        rtol=1e-13,
        atol=0,
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_the_type_of_the_indices_does_not_matter(dtype):
    attention, values, indices = random_tap(0)
    expected = written_out_energy(attention, values, indices)
    torch.testing.assert_close(
        sparse_energy(attention, values, indices.to(dtype)), expected, rtol=1e-13, atol=0
    )


def test_indices_beyond_127_are_not_taken_for_negative_ones():
    attention = torch.zeros(1, 1, 200, 200)
    attention[..., 199] = 1.0
    indices = torch.full((1, 1, 200, 1), 199, dtype=torch.uint8)
    assert sparse_energy(attention, torch.ones(1, 1, 200, 1), indices).item() == 0.0


def test_the_gradient_is_twice_the_distance_over_the_count_and_0_elsewhere():
    attention, values, indices = random_tap(4, k=2)
    leaf = attention.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sparse_energy(leaf, values, indices), leaf)
    expected = torch.zeros_like(attention)
    distance = attention.gather(-1, indices) - values
    expected.scatter_(-1, indices, 2 * distance / values.numel())
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=0)


def test_float16_values_are_compared_in_the_precision_of_the_attention():
    value = 0.1  # not a float16
    attention = torch.full((1, 1, 1, 1), value, dtype=torch.float64)
    stored = torch.full((1, 1, 1, 1), value, dtype=torch.float16)
    energy = sparse_energy(attention, stored, torch.zeros(1, 1, 1, 1, dtype=torch.uint8))
    assert energy.item() == (value - float(torch.tensor(value, dtype=torch.float16))) ** 2 > 0


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_energy_of_queries_and_keys(heads):
    q, k = torch.randn(2, 6, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, values, indices = random_tap(2, n=heads)
    expected = written_out_energy(written_out_attention(q, k, heads), values, indices)
    attention = temporal_attention(q, k, heads)
    torch.testing.assert_close(sparse_energy(attention, values, indices), expected, rtol=1e-12, atol=0)


def test_gradcheck_by_queries_and_keys():
    q, k = torch.randn(2, 2, 4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, values, indices = random_tap(5, p=2, n=3, f=4)
    inputs = (q.requires_grad_(), k.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, k: sparse_energy(temporal_attention(q, k, 3), values, indices), inputs)


@pytest.mark.parametrize(
    ("values", "indices"),
    [((6, 3, 4, 2), (6, 3, 4, 2)), ((5, 3, 5, 2), (5, 3, 5, 2)), ((6, 3, 5, 2), (6, 3, 5, 1))],
)
def test_shapes_that_do_not_fit_are_named(values, indices):
    with pytest.raises(ValueError) as error:
        sparse_energy(torch.zeros(6, 3, 5, 5), torch.zeros(values), torch.zeros(indices, dtype=torch.uint8))
    assert all(str(shape) in str(error.value) for shape in ((6, 3, 5, 5), values, indices))
