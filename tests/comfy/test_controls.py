"""SparseCtrl and ControlNet beside motion: in the extraction, in guided steps, and what they remember in between."""

from __future__ import annotations

from typing import Any

import pytest
from test_bad_input import message
from test_gradient import ALONE, SIGMA, SIGMA_NEXT, relative_error

from comfy_server import Node
from scenes import SCALE, Scene, Studio, only, sigma_of

KINDS = ["picture and sketches", pytest.param("two depths", marks=pytest.mark.more)]


def conditioned(scene: Scene, kind: str, conditioning: Any, **changes: Any) -> Node:
    """A conditioning with what is mixed in: frames in the middle, several ControlNets, keyframes."""
    picture, sketches = scene.hints(scene.pictures(1)), scene.pictures(2, seed=5)
    if kind == "picture and sketches":
        first = scene.controlled(conditioning, scene.sparse(2, **changes), picture, strength=0.7)
        return scene.controlled(first, scene.sparse(1, 3, sketches=True), sketches)
    load = scene.graph.add("ControlNetLoader", control_net_name=scene.models.controlnet.name)
    frames = scene.graph.add("LatentKeyframeGroup", index_strengths="0=1.0,\n2=0.5")
    first = scene.controlled(conditioning, load, scene.pictures(scene.frames), latent_kf_override=frames)
    return scene.controlled(first, load, scene.pictures(scene.frames, seed=5), strength=0.5, end_percent=0.9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_is_read_beside_its_own_frames(studio: Studio, kind: str) -> None:
    scene = studio.scene()
    controlled = conditioned(scene, kind, scene.negative)
    rep = scene.extracted(conditioning=controlled)
    noised = {"sigma": sigma_of(400), "noise_seed": 3}
    beside = scene.energy(rep, scene.encoded, conditioning=controlled, **noised)
    alone = scene.energy(rep, scene.encoded, conditioning=scene.negative, **noised)
    result = studio.run(scene)
    # What is kept is float16: a rounding error of 2^-12 at most, in each of six layers.
    assert only(result, beside, "energy") < 6 * 2.0**-24
    assert only(result, alone, "energy") > 1e-4


@pytest.mark.more
@pytest.mark.parametrize("kind", KINDS)
def test_residuals_have_no_gradient(studio: Studio, kind: str) -> None:
    scene = studio.scene()
    rep, positive = scene.extracted(k=2), conditioned(scene, kind, scene.positive)
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    plain = scene.custom(scene.model, sigmas, positive=positive, **ALONE)
    guided = scene.custom(scene.guided(rep, weight=2000.0), sigmas, positive=positive, **ALONE)
    bare = scene.gradient("bare", rep, SIGMA)
    literal = scene.gradient("gradient", rep, SIGMA, conditioning=positive)
    nodes = scene.save("plain", plain), scene.save("guided", guided), literal, bare
    before, after, gradient, other = studio.saved(studio.run(scene), *nodes)
    assert relative_error(gradient, other) > 0.01, "the control must matter for this test to say anything"
    assert relative_error((after - before) * SCALE, -SIGMA_NEXT * 2000.0 * SIGMA * gradient) < 1e-3


@pytest.mark.more
@pytest.mark.parametrize("kind", KINDS)
def test_controls_do_in_guided_steps_what_they_do_without(studio: Studio, kind: str) -> None:
    """Guided too weakly to matter, early or late, a run is what it is unguided: conditions come apart and together."""
    scene = studio.scene()
    changes = {"sparse_hint_mult": 0.8, "sparse_nonhint_mult": 0.5} if "picture" in kind else {}
    texts = {name: conditioned(scene, kind, getattr(scene, name), **changes) for name in ("positive", "negative")}
    rep = scene.extracted()
    runs = {"free": scene.model}
    runs |= {f"step_{s}": scene.guided(rep, weight=1e-6, start_step=s) for s in (0, 1)}
    free, early, late = studio.latents(scene, **{n: scene.ksampler(model, **texts) for n, model in runs.items()})
    assert relative_error(early, free) < 1e-5
    assert relative_error(late, free) < 1e-5


@pytest.mark.more
def test_a_window_is_read_and_guided_beside_the_pictures_in_it(studio: Studio) -> None:
    scene = studio.scene(frames=6)
    model = scene.sliding(4, 2)
    control, hint = scene.sparse(1, 5), scene.hints(scene.pictures(2))
    null, positive = (scene.controlled(text, control, hint) for text in (scene.negative, scene.positive))
    rep = scene.extracted(model=model, conditioning=null)
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    plain = scene.custom(model, sigmas, positive=positive, **ALONE)
    guided = scene.custom(scene.guided(rep, model=model, weight=2000.0), sigmas, positive=positive, **ALONE)
    literal = [
        scene.gradient(f"gradient {i}", rep, SIGMA, model=model, window=i, conditioning=positive) for i in range(2)
    ]
    nodes = scene.save("plain", plain), scene.save("guided", guided), *literal
    before, after, first, last = studio.saved(studio.run(scene), *nodes)
    moved = (after - before) * SCALE / (-SIGMA_NEXT * 2000.0 * SIGMA)
    # Two frames belong to one window each, whatever fuses the others.
    assert relative_error(moved[:2], first[:2]) < 1e-3
    assert relative_error(moved[4:], last[4:]) < 1e-3


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["extract", "sample"])
@pytest.mark.parametrize(
    ("frames", "said"),
    [(range(5), "given 5 condition frames for a video of 4"), ([4], "a condition at frame 4 of a video of 4")],
    ids=["more conditions than frames", "a frame that is not there"],
)
def test_conditions_that_do_not_fit(studio: Studio, node: str, frames: Any, said: str) -> None:
    scene = studio.scene()
    hint = scene.hints(scene.pictures(len(frames)))
    control = scene.sparse(*frames)
    if node == "extract":
        rep = scene.extracted(conditioning=scene.controlled(scene.negative, control, hint))
        scene.graph.add("MotionCloneProbeRep", motion_rep=rep)
    else:
        positive = scene.controlled(scene.positive, control, hint)
        scene.save("never", scene.ksampler(scene.guided(scene.extracted()), positive=positive))
    assert said in message(studio, scene)


def test_a_controlnet_with_more_pictures_than_frames_says_which_it_takes(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    load = scene.graph.add("ControlNetLoader", control_net_name=scene.models.controlnet.name)
    positive = scene.controlled(scene.positive, load, scene.pictures(6))
    scene.save("made", scene.ksampler(scene.guided(scene.extracted()), positive=positive))
    assert "given 6 pictures for 4 frames: it takes the first ones" in studio.run(scene).log
