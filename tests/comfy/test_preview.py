"""A motion as pictures: what the node shows and hands on, and what it refuses."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from test_bad_input import message
from test_edits import edit, masked

from comfy_server import Node
from scenes import FRAMES, SIDE, Scene, Studio, only

DURATION = 1000 // 5  # milliseconds


def previewed(scene: Scene, rep: Any, **changes: Any) -> Node:
    settings = {"taps": "*", "arrows": False, "opacity": 0.85, "fps": 5.0}
    return edit(scene, "PreviewMotion", motion_rep=rep, **{**settings, **changes})


def kept(scene: Scene, name: str, preview: Node) -> tuple[Node, Node]:
    """Nodes that save a preview's pictures and its intensity."""
    grey = scene.graph.add("MaskToImage", mask=preview[1])
    images = (("images", preview[0]), ("intensity", grey))
    first, second = (scene.graph.add("MotionCloneProbeSave", name=f"{name} {kind}", image=im) for kind, im in images)
    return first, second


def test_the_node_runs_by_itself_and_plays_the_motion(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    shown = previewed(scene, scene.extracted(seed=11), images=scene.clip, arrows=True)
    result = studio.run(scene)
    file = only(result, shown, "images")
    assert file["type"] == "temp" and file["filename"].endswith(".webp")
    assert only(result, shown, "animated") is True
    with Image.open(io.BytesIO(studio.server.view(file))) as animation:
        # The pace of a WebP frame is known once it is read.
        read = [(np.array(frame).shape[:2], frame.info["duration"]) for frame in ImageSequence.Iterator(animation)]
    assert read == [((SIDE, SIDE), DURATION)] * FRAMES


def test_pictures_and_intensity_have_the_size_of_the_images(studio: Studio) -> None:
    scene = studio.scene()
    large = scene.graph.add("MotionCloneProbeClip", width=120, height=72, frames=FRAMES, seed=1)
    saves = kept(scene, "large", previewed(scene, scene.extracted(), images=large, opacity=0.0))
    clip = scene.graph.add("MotionCloneProbeSave", name="clip", image=large)
    pictures, intensity, images = studio.saved(studio.run(scene), *saves, clip)
    assert pictures.shape == intensity.shape == (FRAMES, 72, 120, 3)
    assert intensity.min() == 0 and intensity.max() == 1
    # Without colour it is the images in grey, darkened.
    grey = images @ (0.299, 0.587, 0.114)
    assert np.ptp(pictures, axis=-1).max() == 0
    np.testing.assert_allclose(pictures[..., 0] * 255, 36 + 110 * grey, atol=2)


def test_a_masked_motion_is_dark_where_nothing_is_guided(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    whole = kept(scene, "whole", previewed(scene, rep))
    half = kept(scene, "half", previewed(scene, masked(scene, rep, "left")))
    everything, left = studio.saved(studio.run(scene), whole[1], half[1])
    assert everything.shape == left.shape == (FRAMES, SIDE, SIDE, 3)  # the latent's size without images
    # Heat is enlarged smoothly, from 2 x 2 cells.
    assert left[:, :, -8:].max() < 0.05 < everything[:, :, -8:].max()
    assert left[:, :, :8].max() > 0


def test_a_retimed_motion_is_shown_over_the_frames_that_it_follows(studio: Studio) -> None:
    scene = studio.scene()
    settings = {"frames": 6, "speed": 1.0, "offset": 0.0, "reverse": True, "repeat": "hold"}
    longer = edit(scene, "RetimeMotion", motion_rep=scene.extracted(), **settings)
    one = kept(scene, "retimed", previewed(scene, longer, images=scene.clip, opacity=0.0))
    other = kept(scene, "plain", previewed(scene, scene.extracted(), images=scene.clip, opacity=0.0))
    retimed, plain = studio.saved(studio.run(scene), one[0], other[0])
    assert len(retimed) == 6
    assert np.array_equal(retimed, plain[[3, 2, 1, 0, 0, 0]])


def test_the_stronger_of_two_motions_is_shown_brighter(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    sides = {"motion_1": masked(scene, rep, "left"), "motion_2": masked(scene, rep, "right")}
    both = edit(scene, "CombineMotions", **sides, strength_1=1.0, strength_2=0.5)
    saves = [kept(scene, n, previewed(scene, m))[1] for n, m in {"both": both, **sides}.items()]
    mixed, left, right = studio.saved(studio.run(scene), *saves)
    np.testing.assert_allclose(mixed, np.maximum(left, 0.5 * right), atol=1e-5)


def test_one_layer_alone_is_shown(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    patterns = {"all": "*", "block": "up_blocks.1", "one": "up_blocks.1.motion.0.attention.1"}
    saves = [kept(scene, name, previewed(scene, rep, taps=taps))[1] for name, taps in patterns.items()]
    everything, block, one = studio.saved(studio.run(scene), *saves)
    assert np.array_equal(everything, block) and not np.array_equal(everything, one)


# --- bad input ----------------------------------------------------------------------------------------


def test_layers_that_the_motion_does_not_hold(studio: Studio) -> None:
    scene = studio.scene()
    previewed(scene, scene.extracted(), taps="down_blocks.2")
    said = message(studio, scene)
    assert "'down_blocks.2'" in said and "up_blocks.1" in said


def test_images_of_other_frames(studio: Studio) -> None:
    scene = studio.scene()
    previewed(scene, scene.extracted(), images=scene.pictures(3))
    assert "the reference has 3 frames, the motion 4" in message(studio, scene)


def test_motions_of_different_timing_over_the_images_of_one(studio: Studio) -> None:
    scene = studio.scene()
    settings = {"frames": 6, "speed": 1.0, "offset": 0.0, "repeat": "hold"}
    ways = {f"motion_{n}": edit(scene, "RetimeMotion", motion_rep=scene.extracted(), reverse=n == 2, **settings)
            for n in (1, 2)}
    both = edit(scene, "CombineMotions", **ways, strength_1=1.0, strength_2=1.0)
    previewed(scene, both, images=scene.clip)
    assert "motions of different timing: connect 1 image as a ground, or none" in message(studio, scene)
