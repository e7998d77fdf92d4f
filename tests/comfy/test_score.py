"""Results scored and chosen from in ComfyUI: numbers, pictures, CLIP, lists of seeds."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_bad_input import message

from comfy_server import Node, Result
from random_models import CLIP_L, model_file
from scenes import FRAMES, Scene, Studio, only

NUMBERS = ("motion_fidelity", "trajectory_distance", "motion_magnitude", "temporal_consistency")
OUTPUTS = (*NUMBERS, "textual_alignment", "clip_consistency", "report", "tracks")


def clip_of(scene: Scene, *, seed: int = 1, frames: int = FRAMES, side: int = 64) -> Node:
    return scene.graph.add("MotionCloneProbeClip", width=side, height=side, frames=frames, seed=seed)


def scored(scene: Scene, reference: Any, video: Any, **inputs: Any) -> Node:
    return scene.graph.add("MotionCloneScore", reference=reference, video=video, **inputs)


def told(scene: Scene, score: Node, output: str) -> Node:
    return scene.graph.add("PreviewAny", source=score[OUTPUTS.index(output)])


def number(result: Result, node: Node) -> float:
    return float(only(result, node, "text"))


def clip_models(scene: Scene) -> dict[str, Node]:
    name = model_file(CLIP_L).name
    return {
        "clip": scene.graph.add("CLIPLoader", clip_name=name, type="stable_diffusion"),
        "clip_vision": scene.graph.add("CLIPVisionLoader", clip_name=name),
    }


# --- the score ------------------------------------------------------------------------------------------


def test_a_video_against_itself_and_against_another(studio: Studio) -> None:
    scene = studio.scene()
    video = clip_of(scene, frames=8)  # in 4 frames the square goes too far for its corners to be followed
    same = scored(scene, video, video)
    frozen = scene.graph.add("RepeatImageBatch", image=clip_of(scene, frames=1), amount=8)
    other = scored(scene, video, frozen)
    nodes = {(i, name): told(scene, score, name) for i, score in enumerate((same, other)) for name in NUMBERS}
    result = studio.run(scene)
    of_same, of_other = ({name: number(result, nodes[i, name]) for name in NUMBERS} for i in (0, 1))
    assert of_same["motion_fidelity"] == pytest.approx(1, abs=1e-6)
    assert of_same["trajectory_distance"] == 0 and of_same["motion_magnitude"] > 5e-3
    assert of_other["motion_fidelity"] < 0.2 and of_other["motion_magnitude"] < 1e-3
    assert of_other["temporal_consistency"] > of_same["temporal_consistency"]
    report = only(result, other, "text")
    assert "hardly moves" in report and f"{of_same['motion_magnitude']:.4f}" in report


def test_the_node_shows_an_animation_of_the_tracks(studio: Studio) -> None:
    scene = studio.scene()
    score = scored(scene, clip_of(scene, seed=3), clip_of(scene, seed=4))
    kept = scene.graph.add("MotionCloneProbeSave", name="tracks", image=score[OUTPUTS.index("tracks")])
    result = studio.run(scene)
    (tracks,) = studio.saved(result, kept)
    assert tracks.shape[0] == FRAMES and tracks.shape[2] > 2 * 384 and tracks.min() >= 0 and tracks.max() <= 1
    (file,) = result.output(score)["images"]
    assert file["type"] == "temp"
    with Image.open(io.BytesIO(studio.server.view(file))) as animation:
        assert animation.n_frames == FRAMES and animation.size == tracks.shape[2:0:-1]
        shown = np.asarray(animation.convert("RGB"), float) / 255
    assert np.abs(shown - tracks[0]).mean() < 0.03


def test_without_clip_what_needs_it_does_not_run(studio: Studio) -> None:
    scene = studio.scene()
    score = scored(scene, clip_of(scene, seed=5), clip_of(scene, seed=6))
    nodes = {name: told(scene, score, name) for name in ("motion_fidelity", "textual_alignment", "clip_consistency")}
    result = studio.server.run(scene.graph, timeout=400)
    reported = {name for name, node in nodes.items() if node.id in result.outputs}
    assert reported == {"motion_fidelity"}


def test_clip_says_how_well_the_frames_show_the_prompt(studio: Studio) -> None:
    scene = studio.scene()
    models = clip_models(scene)
    video = clip_of(scene, seed=7)
    first = scene.graph.add("ImageFromBatch", image=video, batch_index=0, length=1)
    frozen = scene.graph.add("RepeatImageBatch", image=first, amount=FRAMES)
    score, still = (scored(scene, video, given, prompt="a boat on the sea", **models) for given in (video, frozen))
    asked = ("textual_alignment", "clip_consistency")
    nodes = [told(scene, one, name) for one in (score, still) for name in asked]
    result = studio.run(scene)
    alignment, consistency, of_frozen, one = (number(result, node) for node in nodes)
    assert -1 < alignment < 1 and -1 < of_frozen < 1
    assert consistency < 1 - 1e-4 and one == pytest.approx(1, abs=1e-4)
    assert f"{alignment:.4f}" in only(result, score, "text")


def test_the_checkpoints_clip_is_refused(studio: Studio) -> None:
    scene = studio.scene()
    models = {**clip_models(scene), "clip": scene.checkpoint[1]}
    scored(scene, scene.clip, scene.clip, prompt="a boat on the sea", **models)
    text = message(studio, scene)
    assert "without their text projection" in text and "openai/clip-vit-large-patch14" in text


def test_bad_videos(studio: Studio) -> None:
    scene = studio.scene()
    scored(scene, clip_of(scene), clip_of(scene, frames=6))
    assert f"the reference has {FRAMES} frames and the video 6" in message(studio, scene)
    scene = studio.scene()
    scored(scene, clip_of(scene, frames=1), clip_of(scene, frames=1))
    assert "the reference has 1 frame and motion needs at least 2" in message(studio, scene)


# --- the best of several --------------------------------------------------------------------------------


def test_seeds_run_the_sampler_once_for_each_and_the_best_is_handed_on(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    seeds = scene.graph.add("MotionCloneSeeds", seed=11, count=3)
    rep = scene.extracted()
    sampled = scene.guided_ksampler(rep, seed=seeds)
    videos = scene.graph.add("VAEDecode", samples=sampled[0], vae=scene.checkpoint[2])
    best = scene.graph.add("MotionCloneBest", reference=scene.clip, videos=videos, by="motion fidelity", seeds=seeds)
    kept = scene.graph.add("MotionCloneProbeSave", name="best", image=best[0])
    index, seed = (scene.graph.add("PreviewAny", source=best[i]) for i in (1, 2))
    result = studio.run(scene)
    (chosen,) = studio.saved(result, kept)
    table = only(result, best, "text").splitlines()
    rows = {int(row[0]): float(row[1]) for row in (re.findall(r"-?[\d.]+", line) for line in table[1:4])}
    assert list(rows) == [11, 12, 13]
    won = int(number(result, seed))
    assert int(number(result, index)) == won - 11
    # The table rounds: several may look alike.
    assert rows[won] == max(rows.values())
    scene = studio.scene()
    alone = scene.guided_ksampler(scene.extracted(), seed=won)
    video = scene.graph.add("VAEDecode", samples=alone[0], vae=scene.checkpoint[2])
    kept = scene.graph.add("MotionCloneProbeSave", name="alone", image=video)
    assert np.array_equal(studio.saved(studio.run(scene), kept)[0], chosen)


def test_seeds_of_other_runs(studio: Studio) -> None:
    scene = studio.scene()
    seeds = scene.graph.add("MotionCloneSeeds", seed=1, count=3)
    inputs = {"reference": scene.clip, "videos": scene.clip, "by": "both", "seeds": seeds}
    scene.graph.add("MotionCloneBest", **inputs)
    assert "3 seeds for 1 videos" in message(studio, scene)
