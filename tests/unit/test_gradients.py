"""The scale at which gradients are taken, and gradients that several steps share."""

import math

import pytest
import torch

from motionclone_core.hosts.base import Gradient
from motionclone_core.hosts.gradients import GradientScale, SharedGradient


def half_precision(slope, energy=1.0):
    """An attempt whose gradient passes through float16 on its way, and the scales that it was made at."""
    tried = []

    def attempt(scale):
        tried.append(scale)
        passed = torch.tensor([slope * scale, 0.5 * slope * scale], dtype=torch.float16)
        return "prediction", Gradient(passed.float() / scale, (energy,))

    return attempt, tried


@pytest.mark.parametrize(("slope", "attempts"), [(1e-9, 1), (3.0, 1), (500.0, 2), (6e4, 3), (1e6, 4)])
def test_a_gradient_is_neither_lost_nor_infinite(slope, attempts):
    attempt, tried = half_precision(slope)
    prediction, gradient = GradientScale().take(attempt)
    assert prediction == "prediction" and len(tried) == attempts
    assert gradient.value.tolist() == pytest.approx([slope, 0.5 * slope], rel=2e-2)
    assert all(math.log2(scale).is_integer() for scale in tried)


def test_the_scale_that_helped_is_kept_and_the_smaller_ones_too():
    scale = GradientScale()
    first, _ = half_precision(6e4)
    scale.take(first)
    second, tried = half_precision(1e6)
    scale.take(second)
    assert tried == [1.0, 2.0**-6]


def test_a_gradient_that_no_scale_mends_is_handed_on_and_tried_at_the_smallest_from_then_on():
    scale = GradientScale()
    hopeless, tried = half_precision(math.inf)
    _, gradient = scale.take(hopeless)
    assert not gradient.finite and len(tried) == 4
    scale.take(hopeless)
    assert tried[4:] == [2.0**-6]
    fine, tried = half_precision(1e-9)
    assert scale.take(fine)[1].finite and tried == [2.0**-6, 2.0**12]
    assert scale.take(fine)[1].finite and tried[2:] == [2.0**12]


@pytest.mark.parametrize("energy", [math.nan, math.inf])
def test_an_energy_that_is_no_number_is_not_tried_again(energy):
    attempt, tried = half_precision(math.nan, energy)
    assert not GradientScale().take(attempt)[1].finite and len(tried) == 1


def test_one_step_shares_with_none():
    shared = SharedGradient(1)
    shared.keep(torch.ones(2), 0, 3.0)
    assert shared.at(0, 3.0) is None and shared.at(1, 2.0) is None


@pytest.mark.parametrize("steps", [2, 3])
def test_the_gradient_by_z_serves_so_many_steps(steps):
    # d energy / d x = d energy / d z / sqrt(1 + sigma^2): at sigma 0 the two are equal.
    shared = SharedGradient(steps)
    assert shared.at(0, 3.0) is None
    shared.keep(torch.tensor([2.0], dtype=torch.float64), 4, math.sqrt(8.0))
    for step in range(4, 4 + steps):
        assert shared.at(step, 0.0).item() == pytest.approx(6.0)
        assert shared.at(step, math.sqrt(3.0)).item() == pytest.approx(3.0)
    assert shared.at(4 + steps, 0.0) is None
    assert shared.at(3, 0.0) is None  # the run has started over


def test_a_gradient_that_is_not_finite_is_not_shared():
    shared = SharedGradient(3)
    shared.keep(torch.tensor([1.0, math.inf]), 0, 3.0)
    assert shared.at(1, 2.0) is None


def test_under_flow_matching_z_is_what_latent_and_noise_make_together():
    # x = (1 - sigma) z_0 + sigma eps has the deviation sqrt((1 - sigma)^2 + sigma^2): 0.5 at 0.5 times sqrt 2, 1 at 1.
    shared = SharedGradient(2, flow=True)
    shared.keep(torch.tensor([3.0], dtype=torch.float64), 0, 1.0)
    assert shared.at(1, 0.5).item() == pytest.approx(3.0 * math.sqrt(2.0))
    assert shared.at(1, 0.0).item() == pytest.approx(3.0)
