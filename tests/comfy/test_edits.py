"""Motions that are stretched, retimed, masked, combined and drawn over the steps, on a real model."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from test_bad_input import message
from test_gradient import ALONE, SIGMA, SIGMA_NEXT, relative_error

from comfy_server import Node, Result
from scenes import SCALE, Scene, Studio, only


def edit(scene: Scene, kind: str, **inputs: Any) -> Node:
    return scene.graph.add(f"MotionClone{kind}", **inputs)


def keyframes(scene: Scene, *points: tuple[float, float, str]) -> Node:
    curve: dict[str, Any] = {}
    for at, strength, interpolation in points:
        point = {"at": at, "strength": strength, "interpolation": interpolation}
        curve = {"curve": edit(scene, "StrengthKeyframe", **point, **curve)}
    return curve["curve"]


def masked(scene: Scene, rep: Any, side: str, *, invert: bool = False) -> Node:
    return edit(scene, "MaskMotion", motion_rep=rep, mask=scene.half_mask(side), invert=invert, feather=0.0)


def energies(result: Result) -> tuple[float, float]:
    """Of the first and the last guided step, as the log tells them."""
    (found,) = re.findall(r"motion guidance: guided steps: \d+, energy: (\S+) -> (\S+),", result.log)
    return float(found[0]), float(found[1])


def test_a_motion_guides_another_size(studio: Studio) -> None:
    small = studio.scene(fresh=True)
    save = small.graph.add(
        "MotionCloneSaveMotionRep", motion_rep=small.extracted(), filename_prefix="small", folder="output"
    )
    name = only(studio.run(small), save, "text").split(":")[0]
    scene = studio.scene(fresh=True, width=128)
    loaded = scene.graph.add("MotionCloneLoadMotionRep", file=name)
    sigmas = scene.falling(14.0, 11.0, 8.0)
    guided = scene.save("guided", scene.custom(scene.guided(loaded, guided_steps=2), sigmas, **ALONE))
    result = studio.run(scene)
    assert "a motion read at 8 x 8 latent cells guides 16 x 8" in result.log
    before, after = energies(result)
    assert after < 0.9 * before
    assert studio.saved(result, guided)[0].shape == (4, 4, 8, 16)


@pytest.mark.more
def test_a_mask_and_its_inverse_guide_a_half_each(studio: Studio) -> None:
    scene = studio.scene()
    rep, sigmas = scene.extracted(), scene.falling(SIGMA, SIGMA_NEXT)
    motions = {side: masked(scene, rep, "left", invert=side == "right") for side in ("left", "right")}
    runs = {"free": scene.custom(scene.model, sigmas, **ALONE)}
    runs |= {n: scene.custom(scene.guided(m, weight=2000.0), sigmas, **ALONE) for n, m in motions.items()}
    saves = [scene.save(name, run) for name, run in runs.items()]
    literal = [scene.gradient(f"gradient {side}", rep, SIGMA, half=side) for side in motions]
    free, left, right, *gradients = studio.saved(studio.run(scene), *saves, *literal)
    assert relative_error(gradients[0], gradients[1]) > 0.1
    for guided, gradient in zip((left, right), gradients, strict=True):
        assert relative_error((guided - free) * SCALE, -SIGMA_NEXT * 2000.0 * SIGMA * gradient) < 1e-3


def test_several_motions_push_as_each_does_alone(studio: Studio) -> None:
    scene = studio.scene()
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    one, other = scene.extracted(), scene.extracted(t_alpha=200, k=2)
    strengths = {"strength_1": 0.5, "strength_2": 2.0}
    mixed = edit(scene, "CombineMotions", motion_1=one, motion_2=other, **strengths)
    alone = edit(scene, "CombineMotions", motion_1=one, motion_2=other, strength_1=1.0, strength_2=0.0)
    guided = {"one": (one, 1000.0), "other": (other, 4000.0), "mixed": (mixed, 2000.0), "alone": (alone, 1000.0)}
    runs = {n: scene.custom(scene.guided(m, weight=w), sigmas, **ALONE) for n, (m, w) in guided.items()}
    free, first, second, both, still = studio.latents(
        scene, free=scene.custom(scene.model, sigmas, **ALONE), **runs
    )
    wanted = (first - free) + (second - free)
    assert np.linalg.norm(both - free - wanted) / np.linalg.norm(wanted) < 1e-3
    assert np.array_equal(still, first)


@pytest.mark.more
def test_a_retimed_motion_guides_more_frames_whole_and_in_windows(studio: Studio) -> None:
    scene = studio.scene(fresh=True, frames=6)
    four = scene.graph.add("MotionCloneProbeClip", width=64, height=64, frames=4, seed=1)
    latent = scene.graph.add("VAEEncode", pixels=four, vae=scene.checkpoint[2])
    rep = scene.extracted(latent=latent)
    settings = {"speed": 1.0, "offset": 0.0, "reverse": False, "repeat": "ping-pong"}
    longer = edit(scene, "RetimeMotion", motion_rep=rep, frames=6, **settings)
    sigmas = scene.falling(14.0, 11.0, 8.0)
    sliding = scene.sliding(4, 2, kind="StandardUniform", context_stride=1)
    models = {"whole": scene.model, "windows": sliding}
    runs = {
        n: scene.custom(scene.guided(longer, model=m, weight=2000.0, guided_steps=2), sigmas, **ALONE)
        for n, m in models.items()
    }
    runs |= {f"{n}_free": scene.custom(m, sigmas, **ALONE) for n, m in models.items()}
    whole, windows, whole_free, windows_free = studio.latents(scene, **runs)
    for guided, free in ((whole, whole_free), (windows, windows_free)):
        assert (np.abs(guided - free).max(axis=(1, 2, 3)) > 1e-2).all()


def test_an_edited_motion_is_saved_and_loaded(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    settings = {"speed": 0.5, "offset": 1.0, "reverse": True, "repeat": "loop"}
    slow = edit(scene, "RetimeMotion", motion_rep=scene.extracted(), frames=4, **settings)
    moved = edit(scene, "PlaceMotion", motion_rep=masked(scene, slow, "left"), x=0.25, y=0.0, scale=1.0)
    save = scene.graph.add(
        "MotionCloneSaveMotionRep", motion_rep=moved, filename_prefix="edited", folder="output"
    )
    kept = scene.save("made", scene.ksampler(scene.guided(moved)))
    result = studio.run(scene)
    (made,) = studio.saved(result, kept)
    scene = studio.scene()
    loaded = scene.graph.add("MotionCloneLoadMotionRep", file=only(result, save, "text").split(":")[0])
    again, free = studio.latents(scene, again=scene.ksampler(scene.guided(loaded)), free=scene.ksampler(scene.model))
    assert np.array_equal(made, again) and not np.array_equal(made, free)


@pytest.mark.parametrize("node", [pytest.param("apply", marks=pytest.mark.more), "ksampler"])
def test_a_curve_guides_the_steps_that_it_is_above_0_at(studio: Studio, node: str) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    # Of three steps, which lie at 0, 1/2 and 1 of the run, the last two.
    late = keyframes(scene, (0.0, 0.0, "hold"), (0.5, 1.0, "linear"))
    by_window = scene.ksampler(scene.guided(rep, start_step=1, guided_steps=2), steps=3)
    if node == "apply":
        by_curve = scene.ksampler(scene.guided(rep, curve=late), steps=3)
    else:
        by_curve = scene.guided_ksampler(rep, curve=late, scheduler="simple", steps=3)[0]
    one, other, free = studio.latents(
        scene, one=by_curve, other=by_window, free=scene.ksampler(scene.model, steps=3)
    )
    assert np.array_equal(one, other) and not np.array_equal(one, free)


# --- bad input ------------------------------------------------------------------------------------------


def test_a_mask_of_other_frames(studio: Studio) -> None:
    scene = studio.scene()
    three = scene.graph.add("SolidMask", value=1.0, width=64, height=64)
    three = scene.graph.add("MotionCloneProbeMasks", mask=three, frames=3)
    motion = edit(scene, "MaskMotion", motion_rep=scene.extracted(), mask=three, invert=False, feather=0.0)
    scene.save("never", scene.ksampler(scene.guided(motion)))
    assert "the mask has 3 frames, the motion 4" in message(studio, scene)


def test_an_empty_mask(studio: Studio) -> None:
    scene = studio.scene()
    empty = scene.graph.add("SolidMask", value=0.0, width=64, height=64)
    motion = edit(scene, "MaskMotion", motion_rep=scene.extracted(), mask=empty, invert=False, feather=0.1)
    scene.save("never", scene.ksampler(scene.guided(motion)))
    assert "leaves nothing of the motion" in message(studio, scene)


def test_motions_that_do_not_go_together(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    settings = {"speed": 1.0, "offset": 0.0, "reverse": False, "repeat": "loop"}
    longer = edit(scene, "RetimeMotion", motion_rep=rep, frames=6, **settings)
    both = edit(scene, "CombineMotions", motion_1=rep, motion_2=longer, strength_1=1.0, strength_2=1.0)
    scene.save("never", scene.ksampler(scene.guided(both)))
    assert "motion 1 has 4 frames and motion 2 has 6" in message(studio, scene)


def test_combined_motions_are_not_saved_as_one(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    both = edit(scene, "CombineMotions", motion_1=rep, motion_2=rep, strength_1=1.0, strength_2=1.0)
    scene.graph.add("MotionCloneSaveMotionRep", motion_rep=both, filename_prefix="both", folder="output")
    assert "2 combined motions are not one" in message(studio, scene)
