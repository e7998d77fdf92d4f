"""Timesteps, window and ramps, against the authors' formula and lists made by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motionclone_core.schedule import (
    PRESETS,
    GuidanceWindow,
    Keyframe,
    StrengthCurve,
    alphas_cumprod,
    beside_a_seam,
    equal_push,
    uneven_timesteps,
)

# Steps N, guided steps G, ratio r of the four published settings.
PUBLISHED = {
    "camera": (100, 50, 0.3),
    "object": (300, 180, 0.4),
    "image to video": (100, 40, 0.3),
    "sketch": (200, 120, 0.4),
}


def published_formula(N, G, r):
    boundary = int((1 - r) * 1000)
    guided = np.round(np.linspace(boundary, 999, G))[::-1]
    rest = np.round(np.linspace(0, boundary - 1, N - G))[::-1]
    return np.concatenate([guided, rest]).astype(int).tolist()


def test_presets_are_the_published_settings():
    published = {name: preset for name, preset in PRESETS.items() if name not in ("fast", "first version")}
    assert {name: (p.steps, p.guided_steps, p.ratio) for name, p in published.items()} == PUBLISHED
    for preset in published.values():
        # The paper's guidance scale s is cfg - 1.
        assert (preset.weight, preset.warm_up, preset.cool_down, preset.cfg - 1) == (2000.0, 10, 10, 7.5)


def test_the_first_version_weighs_its_blocks_and_spreads_its_steps_evenly():
    first = PRESETS["first version"]
    # Published: 20000 and 10000, averaged over the twelve layers of both blocks.
    weights = {block: 12 * first.weight * factor for block, factor in first.block_weights}
    assert weights == pytest.approx({"up_blocks.1": 20000, "up_blocks.2": 10000})
    assert (first.steps, first.guided_steps, first.warm_up, first.cool_down, first.cfg) == (200, 120, 10, 0, 8.5)
    evenly = np.round(np.linspace(0, 999, 200))[::-1].astype(int).tolist()
    assert uneven_timesteps(first.steps, first.guided_steps, first.ratio) == evenly


@pytest.mark.parametrize("setting", PUBLISHED.values(), ids=PUBLISHED)
def test_timesteps_of_the_published_settings(setting):
    assert uneven_timesteps(*setting) == published_formula(*setting)


def test_timesteps_of_a_short_run_worked_out_by_hand():
    # 4 from 700 to 999: spaced by 99 2/3; 2 from 0 to 699.
    assert uneven_timesteps(6, 4, 0.3) == [999, 899, 800, 700, 699, 0]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ((3, 1, 0.3), [999, 699, 0]),
        ((1, 1, 0.3), [999]),
        ((2, 1, 0.5), [999, 0]),
        ((3, 3, 0.25), [999, 874, 750]),
        ((4, 0, 0.3), [999, 666, 333, 0]),
        ((1, 0, 0.3), [999]),
        ((1000, 300, 0.3), list(range(999, -1, -1))),
    ],
)
def test_edges_worked_out_by_hand(setting, expected):
    assert uneven_timesteps(*setting) == expected


@st.composite
def settings_that_fit(draw):
    ratio = draw(st.floats(0.002, 0.998))
    boundary = int((1 - ratio) * 1000)
    guided = draw(st.integers(0, 1000 - boundary))
    rest = draw(st.integers(0 if guided else 1, boundary if guided else 1000))
    return guided + rest, guided, ratio


@given(settings_that_fit())
def test_timesteps_fall_strictly_from_999(setting):
    timesteps = uneven_timesteps(*setting)
    assert len(timesteps) == setting[0]
    assert timesteps[0] == 999
    assert all(later < earlier for earlier, later in itertools.pairwise(timesteps))
    assert timesteps[-1] >= 0
    assert all(type(timestep) is int for timestep in timesteps)


@given(settings_that_fit())
def test_guided_timesteps_lie_in_the_noisy_part_and_the_others_below(setting):
    _, guided, ratio = setting
    if guided:
        boundary = int((1 - ratio) * 1000)
        timesteps = uneven_timesteps(*setting)
        assert all(timestep >= boundary for timestep in timesteps[:guided])
        assert all(timestep < boundary for timestep in timesteps[guided:])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ((0, 0, 0.3), ["steps is 0", "at least 1"]),
        ((-3, 0, 0.3), ["steps is -3"]),
        ((10, 11, 0.3), ["11 of 10 steps", "from 0 to 10"]),
        ((10, -1, 0.3), ["-1 of 10 steps"]),
        ((10, 5, 0.0), ["ratio is 0.0"]),
        ((10, 5, 1.0), ["ratio is 1.0"]),
        ((10, 5, float("nan")), ["ratio is nan"]),
        ((10, 5, -0.2), ["ratio is -0.2"]),
        ((400, 301, 0.3), ["301 guided steps", "300 timesteps"]),
        ((800, 99, 0.3), ["701 unguided steps", "700 timesteps"]),
        ((1001, 0, 0.3), ["1001 unguided steps", "1000 timesteps"]),
    ],
)
def test_bad_settings_are_named_with_both_numbers(setting, words):
    with pytest.raises(ValueError) as error:
        uneven_timesteps(*setting)
    assert all(word in str(error.value) for word in words), str(error.value)


def ramp(window, total):
    return [window.ramp(step, total) for step in range(total)]


UP = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.mark.parametrize(
    ("window", "total", "expected"),
    [
        # Shorter than either ramp: 1/10 * 4/10, 2/10 * 3/10 and back.
        (GuidanceWindow(0, 4, 10, 10), 6, [0.04, 0.06, 0.06, 0.04, 0, 0]),
        (GuidanceWindow(0, 4, 10, 0), 6, [0.1, 0.2, 0.3, 0.4, 0, 0]),
        # i > G - cool: the full weight holds up to i = 40, the last step is 1 / cool.
        (GuidanceWindow(0, 50, 10, 10), 100, UP + [1.0] * 31 + UP[-2::-1] + [0.0] * 50),
        (GuidanceWindow(0, 3, 1, 1), 4, [1, 1, 1, 0]),
        (GuidanceWindow(0, 3, 0, 0), 4, [1, 1, 1, 0]),
        (GuidanceWindow(0, 6, 2, 4), 6, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        # Where both ramps claim a step they multiply.
        (GuidanceWindow(0, 4, 3, 4), 4, [1 / 3, 2 / 3 * 3 / 4, 2 / 4, 1 / 4]),
        (GuidanceWindow(0, 5, 0, 5), 5, [1, 0.8, 0.6, 0.4, 0.2]),
        # Counted from the first guided step.
        (GuidanceWindow(3, 4, 2, 2), 9, [0, 0, 0, 0.5, 1, 1, 0.5, 0, 0]),
        # Past the end of the run: G is what there is, so that it cools down all the same.
        (GuidanceWindow(0, 50, 2, 2), 5, [0.5, 1, 1, 1, 0.5]),
        (GuidanceWindow(2, 50, 2, 2), 5, [0, 0, 0.5, 1, 0.5]),
        (GuidanceWindow(5, 50, 2, 2), 5, [0, 0, 0, 0, 0]),
        (GuidanceWindow(7, 50, 2, 2), 5, [0, 0, 0, 0, 0]),
        (GuidanceWindow(0, 0, 2, 2), 3, [0, 0, 0]),
    ],
)
def test_ramps_made_by_hand(window, total, expected):
    assert ramp(window, total) == pytest.approx(expected, rel=1e-15, abs=0)


@pytest.mark.parametrize(("N", "G", "r"), PUBLISHED.values(), ids=PUBLISHED)
def test_ramps_of_the_published_settings(N, G, r):
    expected = [min(1, (i + 1) / 10, (G - i) / 10) if i < G else 0.0 for i in range(N)]
    assert ramp(GuidanceWindow(0, G, 10, 10), N) == pytest.approx(expected, rel=1e-15, abs=0)


def test_outside_the_run_nothing_is_guided():
    window = GuidanceWindow(0, 50, 1, 1)
    assert [window.ramp(step, 10) for step in (-1, 10, 11)] == [0.0, 0.0, 0.0]


@given(
    st.integers(0, 20), st.integers(0, 60), st.integers(0, 30), st.integers(0, 30), st.integers(1, 60)
)
def test_a_ramp_stays_between_0_and_1_and_is_positive_just_inside_the_window(start, G, warm, cool, total):
    weights = ramp(GuidanceWindow(start, G, warm, cool), total)
    inside = range(start, min(start + G, total))
    assert [step for step, weight in enumerate(weights) if weight > 0] == list(inside)
    assert max(weights) <= 1


@pytest.mark.parametrize("name", ["start_step", "guided_steps", "warm_up", "cool_down"])
def test_negative_steps_are_named(name):
    with pytest.raises(ValueError, match=rf"{name} is -2: it cannot be negative"):
        GuidanceWindow(**{name: -2})


def test_fewer_timesteps_lay_the_same_plan_over_the_start_of_the_schedule():
    """500 timesteps at ratio 0.3: five points from 499 to 350, five from 349 to 0, rounded half to even."""
    expected = [499, 462, 424, 387, 350, 349, 262, 174, 87, 0]
    assert uneven_timesteps(10, 5, 0.3, timesteps=500) == expected


def test_steps_that_outnumber_the_timesteps_left_are_named():
    with pytest.raises(ValueError, match=r"50 guided steps do not fit.*30 timesteps"):
        uneven_timesteps(60, 50, 0.3, timesteps=100)


def test_the_fast_preset_is_normalised_and_takes_a_third_of_the_steps():
    fast = PRESETS["fast"]
    assert (fast.steps, fast.guided_steps, fast.ratio, fast.cfg) == (30, 20, 0.4, 8.5)
    assert (fast.update_rule, fast.weight, fast.limit) == ("normalised", 2000.0, None)


def sigmas_at(timesteps):
    abar = alphas_cumprod()
    return [float(((1 - abar[t]) / abar[t]) ** 0.5) for t in timesteps] + [0.0]


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.ratio is not None])
def test_every_uneven_preset_has_one_seam_where_its_guided_steps_end(name):
    preset = PRESETS[name]
    sigmas = sigmas_at(uneven_timesteps(preset.steps, preset.guided_steps, preset.ratio))
    guided = range(preset.guided_steps)
    assert [i for i in guided if beside_a_seam(sigmas, i)] == [preset.guided_steps - 1]


def test_evenly_spread_steps_have_no_seam_but_near_the_end():
    sigmas = sigmas_at(uneven_timesteps(30, 0, 0.3))
    assert not any(beside_a_seam(sigmas, i) for i in range(25))


@pytest.mark.parametrize("length", [0.26, 0.24])
def test_a_seam_is_a_step_of_less_than_a_quarter_of_the_next(length):
    sigmas = [math.exp(1.0 + length), math.exp(1.0), 1.0, math.exp(-1.0), 0.0]
    assert [beside_a_seam(sigmas, i) for i in range(4)] == [length < 0.25, length < 0.25, False, False]


def test_equal_push():
    assert equal_push(2000.0, GuidanceWindow(0, 50, 10, 10), GuidanceWindow(7, 50, 10, 10)) == pytest.approx(2000.0)
    assert equal_push(2000.0, GuidanceWindow(0, 50, 0, 0), GuidanceWindow(0, 10, 0, 0)) == pytest.approx(10000.0)
    with pytest.raises(ValueError, match="without guided steps"):
        equal_push(2000.0, GuidanceWindow(), GuidanceWindow(guided_steps=0))


def test_the_noise_schedule_is_animatediffs():
    """abar_999 by the logarithms of the betas, one by one."""
    betas = [0.00085 + (0.012 - 0.00085) * i / 999 for i in range(1000)]
    abar = alphas_cumprod()
    assert abar.shape == (1000,)
    assert abar[0] == pytest.approx(1 - 0.00085, rel=1e-12)
    assert abar[999] == pytest.approx(math.exp(sum(math.log1p(-beta) for beta in betas)), rel=1e-9)


# --- strength curves ----------------------------------------------------------------------------------


def curve(*points):
    return StrengthCurve(tuple(Keyframe(*point) for point in points))


def over(points, steps):
    return [curve(*points).ramp(step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.0, 1.0)], [1, 1, 1, 1, 1]),
        ([(0.0, 0.0), (1.0, 2.0)], [0, 0.5, 1, 1.5, 2]),
        ([(0.25, 1.0), (0.75, 0.0)], [1, 1, 0.5, 0, 0]),
        ([(0.0, 0.0, "hold"), (0.75, 1.0)], [0, 0, 0, 1, 1]),
        ([(0.5, 0.0, "hold"), (0.75, 1.0, "hold"), (1.0, 0.25)], [0, 0, 0, 1, 0.25]),
        # 3 u^2 - 2 u^3 at 1/4, 1/2, 3/4.
        ([(0.0, 0.0, "ease"), (1.0, 1.0)], [0, 0.15625, 0.5, 0.84375, 1]),
        ([(0.0, 1.0, "ease"), (1.0, 0.0)], [1, 0.84375, 0.5, 0.15625, 0]),
    ],
)
def test_a_curve_goes_through_its_keyframes(points, expected):
    assert over(points, 5) == pytest.approx(expected, abs=1e-12)


def test_a_curve_over_one_step_is_its_beginning():
    assert curve((0.0, 0.25), (1.0, 1.0)).ramp(0, 1) == 0.25


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 10)), min_size=1, unique_by=lambda p: p[0]), st.integers(1, 50))
def test_a_curve_stays_between_its_keyframes(points, steps):
    strengths = [strength for _, strength in points]
    found = over(sorted(points), steps)
    assert min(strengths) - 1e-9 <= min(found) and max(found) <= max(strengths) + 1e-9


def test_a_keyframe_takes_its_place_or_that_of_another():
    drawn = curve((0.5, 1.0)).with_keyframe(Keyframe(0.25, 0.0)).with_keyframe(Keyframe(0.5, 2.0, "hold"))
    assert drawn == curve((0.25, 0.0), (0.5, 2.0, "hold"))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "at least 1"),
        ([(0.5, 1.0), (0.5, 2.0)], "keyframes at 0.5 and 0.5"),
        ([(0.5, 1.0), (0.25, 2.0)], "keyframes at 0.5 and 0.25"),
        ([(1.5, 1.0)], "a keyframe at 1.5"),
        ([(math.nan, 1.0)], "a keyframe at nan"),
        ([(0.5, -1.0)], "strength is -1.0"),
        ([(0.5, math.inf)], "strength is inf"),
        ([(0.5, 1.0, "bounce")], "interpolation 'bounce' is unknown: choose one of linear, ease, hold"),
    ],
)
def test_curves_that_are_none_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        curve(*points)
