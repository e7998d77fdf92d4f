"""The pack's energy and gradient against a route of their own (see probe_pack/guidance.py)."""

from __future__ import annotations

import numpy as np
import pytest

from scenes import SCALE, Array, Studio, only, sigma_of

SIGMA, SIGMA_NEXT = 12.0, 8.0
# Without an unconditional pass: the push does not depend on it, as the first test that steps shows.
ALONE = {"cfg": 1.0}


def relative_error(got: Array, wanted: Array) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def test_a_reference_has_no_energy_against_itself(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted(seed=3)
    conditioning = {"conditioning": scene.negative}
    own, other = (
        scene.energy(rep, scene.encoded, sigma_of(400), noise_seed=s, **conditioning) for s in (3, 4)
    )
    result = studio.run(scene)
    # What is kept is float16: a rounding error of 2^-12 at most, in each of six layers.
    assert only(result, own, "energy") < 6 * 2.0**-24
    assert only(result, other, "energy") > 1e-4


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        # METHOD: the next latent moves by -sigma_next * weight * w * sigma * gradient,
        # or by -(sigma - sigma_next) * weight * sigma * gradient by the paper's rule.
        ({"warm_up": 2, "weight": 4000.0}, -SIGMA_NEXT * 4000.0 * 0.5 * SIGMA),
        ({"update_rule": "paper", "weight": 2000.0}, -(SIGMA - SIGMA_NEXT) * 2000.0 * SIGMA),
    ],
    ids=["published", "paper"],
)
def test_a_guided_step_moves_by_the_literal_gradient(studio: Studio, changes: dict, factor: float) -> None:
    scene = studio.scene()
    rep = scene.extracted(k=2)
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    plain = scene.custom(scene.model, sigmas)
    guided = scene.custom(scene.guided(rep, **changes), sigmas)
    literal = scene.gradient("gradient", rep, SIGMA)
    nodes = scene.save("plain", plain), scene.save("guided", guided), literal
    before, after, gradient = studio.saved(studio.run(scene), *nodes)
    assert np.abs(gradient).max() > 0
    assert relative_error((after - before) * SCALE, factor * gradient) < 1e-3


@pytest.mark.more
def test_a_limit_shortens_the_push_to_its_size(studio: Studio) -> None:
    scene = studio.scene()
    rep, limit = scene.extracted(), 0.1
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    plain = scene.custom(scene.model, sigmas, **ALONE)
    guided = scene.custom(scene.guided(rep, weight=2e5, limit=limit), sigmas, **ALONE)
    literal = scene.gradient("gradient", rep, SIGMA)
    nodes = scene.save("plain", plain), scene.save("guided", guided), literal
    before, after, gradient = studio.saved(studio.run(scene), *nodes)
    size = np.sqrt(np.square(gradient.astype(np.float64)).mean())
    assert 2e5 * SIGMA * size > 2 * limit, "the push must be beyond the limit for this test to say anything"
    assert relative_error((after - before) * SCALE, -SIGMA_NEXT * limit / size * gradient) < 1e-3


def test_a_normalised_step_pushes_by_its_weight_alone(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    plain = scene.custom(scene.model, sigmas, **ALONE)
    guided = scene.custom(scene.guided(rep, weight=4000.0, warm_up=2, update_rule="normalised"), sigmas, **ALONE)
    literal = scene.gradient("gradient", rep, SIGMA)
    nodes = scene.save("plain", plain), scene.save("guided", guided), literal
    before, after, gradient = studio.saved(studio.run(scene), *nodes)
    direction = gradient / np.sqrt(np.square(gradient.astype(np.float64)).mean())
    assert relative_error((after - before) * SCALE, -SIGMA_NEXT * 0.07 * direction) < 1e-3


@pytest.mark.more
def test_multistep_samplers_are_not_guided_beside_a_seam_and_euler_is(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    sigmas = scene.falling(SIGMA, SIGMA_NEXT, 0.999 * SIGMA_NEXT, 5.0)
    drawn = {}
    for name in ("euler", "dpmpp_2m"):
        sampler = scene.graph.add("KSamplerSelect", sampler_name=name)
        for steps in (0, 1, 2):
            model = scene.guided(rep, weight=2000.0, guided_steps=steps)
            drawn[f"{name} {steps}"] = scene.custom(model, sigmas, sampler=sampler, **ALONE)
    none, euler, euler_too, none_either, multistep, multistep_too = studio.latents(scene, **drawn)
    for free, guided in ((none, euler), (euler, euler_too), (none_either, multistep)):
        assert np.abs(free - guided).max() > 1e-3 * np.abs(free).max()
    assert np.array_equal(multistep, multistep_too)


@pytest.mark.more
def test_conditions_under_masks_share_the_gradient_as_they_share_the_picture(studio: Studio) -> None:
    scene = studio.scene()
    texts = [scene.text("a boat on the sea"), scene.text("a red house in the snow")]
    halves = [scene.masked(text, side) for text, side in zip(texts, ("left", "right"), strict=True)]
    rep = scene.extracted()
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    positive = scene.both(*halves)
    plain = scene.custom(scene.model, sigmas, positive=positive, **ALONE)
    guided = scene.custom(scene.guided(rep, weight=2000.0), sigmas, positive=positive, **ALONE)
    literal = [scene.gradient(f"gradient {i}", rep, SIGMA, conditioning=c) for i, c in enumerate(texts)]
    nodes = scene.save("plain", plain), scene.save("guided", guided), *literal
    before, after, left, right = studio.saved(studio.run(scene), *nodes)
    wanted = np.concatenate([left[..., :4], right[..., 4:]], axis=-1)
    assert relative_error(left, right) > 0.01, "the two texts must differ for this test to say anything"
    assert relative_error((after - before) * SCALE, -SIGMA_NEXT * 2000.0 * SIGMA * wanted) < 1e-3
