"""Words, and guidance by where they lie, against a route of their own (see probe_pack/semantics.py)."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from test_bad_input import message
from test_leftovers import assert_clean

from comfy_server import Node
from scenes import SAMPLING, SCALE, Array, Scene, Studio, only, sigma_of

SIGMAS = (12.0, 8.0, 5.0)
BLOCKS = "up_blocks.1, up_blocks.2"
# "boat" is the third token, after the first of all prompts and "a"; "sea" the sixth.
REFERENCE, PROMPT = "a boat on the sea", "a castle in the sea"


def relative_error(got: Array, wanted: Array) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def read_with_words(scene: Scene, words: str = "boat", **changes: Any) -> tuple[Node, Node]:
    worded = scene.worded(REFERENCE, words)
    given = {"conditioning": worded, "words": worded[1], "blocks": BLOCKS, **changes}
    return scene.extracted(**given), worded


def literal(
    scene: Scene, rep: Node, conditioning: Any, latent: Any, appearance: Any, *, name: str = "literal", **changes: Any
) -> Node:
    """The gradient at a latent, beside an unguided video that is at another."""
    given = {"motion_1": 0.0, "motion_2": 0.0, "semantic_1": 0.0, "semantic_2": 0.0, "noise_seed": -1, **changes}
    where = {"latent": latent, "appearance": appearance}
    named = {"name": name, "model": scene.model, "motion_rep": rep, "conditioning": conditioning}
    return scene.graph.add("MotionCloneProbeSemanticGradient", **named, **where, **given)


def test_words_lie_where_cross_attention_says(studio: Studio) -> None:
    scene = studio.scene()
    rep, worded = read_with_words(scene, "boat, sea", blocks="up_blocks.1")
    given = {"latent": scene.encoded, "sigma": sigma_of(400), "noise_seed": 3, "tokens": "2,5"}
    probe = scene.graph.add(
        "MotionCloneProbeWordMap", name="map", model=scene.model, motion_rep=rep, conditioning=worded, **given
    )
    result = studio.run(scene)
    saved = safetensors.numpy.load(studio.server.view(result.output(probe)["files"][0]))
    assert saved["value"].std() > 0.1, "a map that is the same everywhere says nothing"
    # Kept in float16; ComfyUI attends in float32.
    np.testing.assert_allclose(saved["kept"], saved["value"], atol=2e-3)


def test_words_of_another_prompt_are_told(studio: Studio) -> None:
    scene = studio.scene()
    scene.graph.add("MotionCloneProbeRep", motion_rep=read_with_words(scene)[0])
    assert "are of the prompt" not in studio.run(scene).log
    scene = studio.scene()
    other, _ = read_with_words(scene, conditioning=scene.negative)
    scene.graph.add("MotionCloneProbeRep", motion_rep=other)
    assert f"the words boat are of the prompt {REFERENCE!r}" in studio.run(scene).log


@pytest.mark.parametrize("words", ["castle", pytest.param("", marks=pytest.mark.more)])
def test_a_step_moves_by_the_literal_gradient_of_both_energies(studio: Studio, words: str) -> None:
    scene = studio.scene()
    rep, _ = read_with_words(scene)
    worded = scene.worded(PROMPT, words)
    sigmas = scene.falling(*SIGMAS[:2])
    # Heavier than the published weights, so that a fault would show beside the motion's part.
    semantics = scene.semantic(worded, weights="up_blocks.1: 2000, up_blocks.2: 1000")
    settings = {"weight": 500.0, "block_weights": "up_blocks.2: 0.5", "semantics": semantics}
    plain = scene.custom(scene.model, sigmas, positive=worded)
    guided = scene.custom(scene.guided(rep, **settings), sigmas, positive=worded)
    weights = {"motion_1": 500.0, "motion_2": 250.0, "semantic_1": 2000.0, "semantic_2": 1000.0}
    start = {"sigma": SIGMAS[0], "noise_seed": SAMPLING["seed"], "tokens": "2" if words else ""}
    where = (scene, rep, worded, scene.latent, scene.latent)
    probe = literal(*where, **start, **weights)
    motion = literal(*where, name="motion", **start, motion_1=500.0, motion_2=250.0)
    nodes = scene.save("plain", plain), scene.save("guided", guided), probe, motion
    before, after, gradient, of_motion = studio.saved(studio.run(scene), *nodes)
    assert relative_error(of_motion, gradient) > 0.05, "the semantic part must matter for this test to say anything"
    assert relative_error((after - before) * SCALE, -SIGMAS[1] * SIGMAS[0] * gradient) < 1e-3


@pytest.mark.more
def test_the_unguided_video_goes_its_own_way(studio: Studio) -> None:
    """In the second step it is where an unguided run is, not where the guided one is."""
    scene = studio.scene()
    rep, _ = read_with_words(scene)
    worded = scene.worded(PROMPT, "castle")
    semantics = scene.semantic(worded)
    first, all_of_them = scene.falling(*SIGMAS[:2]), scene.falling(*SIGMAS)
    models = [scene.guided(rep, weight=500.0, guided_steps=n, semantics=semantics) for n in (1, 2)]
    once, twice = (scene.custom(model, all_of_them, positive=worded) for model in models)
    unguided = scene.custom(scene.model, first, positive=worded)
    there = scene.custom(models[0], first, positive=worded)
    weights = {"motion_1": 500.0, "motion_2": 500.0, "semantic_1": 200.0, "semantic_2": 100.0}
    given = {"sigma": SIGMAS[1], "tokens": "2", **weights}
    probe = literal(scene, rep, worded, there, unguided, **given)
    nodes = scene.save("once", once), scene.save("twice", twice), probe
    before, after, gradient = studio.saved(studio.run(scene), *nodes)
    assert relative_error((after - before) * SCALE, -SIGMAS[2] * SIGMAS[1] * gradient) < 2e-3


def test_semantics_of_weight_0_change_no_bit_and_alone_they_guide(studio: Studio) -> None:
    scene = studio.scene()
    rep, _ = read_with_words(scene)
    worded = scene.worded(PROMPT, "castle")
    none, off = (
        scene.guided(rep, **given)
        for given in ({}, {"semantics": scene.semantic(worded, weights="up_blocks.1: 0, up_blocks.2: 0")})
    )
    alone = scene.guided(rep, weight=0.0, semantics=scene.semantic(worded))
    runs = {name: scene.ksampler(model, positive=worded) for name, model in (("none", none), ("off", off))}
    runs |= {"alone": scene.ksampler(alone, positive=worded), "bare": scene.ksampler(scene.model, positive=worded)}
    got = dict(zip(runs, studio.latents(scene, **runs), strict=True))
    assert np.array_equal(got["none"], got["off"])
    assert not np.array_equal(got["alone"], got["bare"])


@pytest.mark.more
@pytest.mark.parametrize("sampler", ["heun", "euler_ancestral"])
def test_any_sampler_has_an_unguided_video_beside_it(studio: Studio, sampler: str) -> None:
    scene = studio.scene()
    rep, _ = read_with_words(scene)
    worded = scene.worded(PROMPT, "castle")
    guided = scene.guided(rep, semantics=scene.semantic(worded), guided_steps=2)
    settings = {"positive": worded, "sampler_name": sampler, "steps": 3}
    with_words, without = studio.latents(
        scene, with_words=scene.ksampler(guided, **settings),
        without=scene.ksampler(scene.guided(rep, guided_steps=2), **settings),
    )  # fmt: skip
    assert np.isfinite(with_words).all()
    assert not np.array_equal(with_words, without)


def test_one_call_of_a_guided_step_records_a_graph(studio: Studio) -> None:
    """Of the unguided video's conditional and unconditional call, and the guided one's, the third does."""
    scene = studio.scene(fresh=True)
    rep, _ = read_with_words(scene)
    worded = scene.worded(PROMPT, "castle")
    model = scene.graph.add("MotionCloneProbeGraphs", model=scene.model)
    guided = scene.guided(rep, model=model, semantics=scene.semantic(worded))
    state = scene.state(scene.ksampler(guided, positive=worded, steps=2))
    result = studio.run(scene)
    graphs = re.findall(r"probe call of \d+ with graph: (\w+)", result.log)
    # The last step is not guided, and needs no unguided video.
    assert graphs[:4] == ["False", "False", "True", "False"]
    assert "True" not in graphs[4:]
    assert_clean(only(result, state, "state"))


def test_masks_are_shown_in_the_size_of_the_images(studio: Studio) -> None:
    scene = studio.scene()
    rep, _ = read_with_words(scene, blocks="up_blocks.1")
    settings = {"motion_rep": rep, "images": scene.clip, "fps": 8.0}
    shown = scene.graph.add("MotionClonePreviewMasks", **settings)
    mask = scene.graph.add("MaskToImage", mask=shown[1])
    images = {"pictures": shown, "foreground": mask}
    saves = [scene.graph.add("MotionCloneProbeSave", name=name, image=image) for name, image in images.items()]
    pictures, foreground = studio.saved(studio.run(scene), *saves)
    assert pictures.shape == foreground.shape == (scene.frames, scene.height, scene.width, 3)
    assert 0 < foreground.mean() < 1
    # What is not foreground has no colour left, outlines aside.
    outside = pictures[foreground[..., 0] == 0]
    assert np.median(np.ptp(outside, axis=-1)) < 0.02


# --- bad input --------------------------------------------------------------------------------------


def test_a_word_that_is_not_in_the_prompt(studio: Studio) -> None:
    scene = studio.scene()
    scene.save("never", scene.ksampler(scene.model, positive=scene.worded(PROMPT, "horse")))
    scene.graph.add("MotionCloneProbeRep", motion_rep=read_with_words(scene, "horse")[0])
    assert f"'horse' is not in the prompt '{REFERENCE}'" in message(studio, scene).replace(PROMPT, REFERENCE)


def test_a_prompt_of_two_chunks(studio: Studio) -> None:
    scene = studio.scene()
    long = ", ".join(["a boat"] * 30)  # of three tokens each, the last comma aside
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(words=scene.worded(long, "boat")[1]))
    assert "the prompt has 89 tokens, and words are found among the 75 of one chunk" in message(studio, scene)


@pytest.mark.parametrize(
    ("blocks", "said"),
    [("up_blocks.1", "no temporal attention matches 'up_blocks.2'; the motion holds: up_blocks.1"),
     ("down_blocks.1", "add up_blocks.1 to the blocks")],
)  # fmt: skip
def test_blocks_that_the_motion_does_not_hold(studio: Studio, blocks: str, said: str) -> None:
    scene = studio.scene()
    rep, _ = read_with_words(scene, blocks=blocks)
    semantics = scene.semantic(scene.worded(PROMPT, "castle"))
    scene.save("never", scene.ksampler(scene.guided(rep, semantics=semantics)))
    assert said in message(studio, scene)


def test_a_motion_without_words(studio: Studio) -> None:
    scene = studio.scene()
    semantics = scene.semantic(scene.worded(PROMPT, "castle"))
    scene.save("never", scene.ksampler(scene.guided(scene.extracted(blocks=BLOCKS), semantics=semantics)))
    assert "extracted without words" in message(studio, scene)


def test_conditions_side_by_side(studio: Studio) -> None:
    scene = studio.scene()
    rep, _ = read_with_words(scene)
    worded = scene.worded(PROMPT, "castle")
    guided = scene.guided(rep, semantics=scene.semantic(worded))
    scene.save("never", scene.ksampler(guided, positive=scene.both(worded, scene.positive)))
    assert "2 positive conditions side by side" in message(studio, scene)
