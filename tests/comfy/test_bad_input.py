"""Bad input: a message that says what was wrong and what to do, and nothing half-written."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfy_server import Result
from scenes import FRAMES, Scene, Studio, only

OURS = {
    "MotionCloneApplyGuidance", "MotionCloneExtract", "MotionCloneGuidedKSampler", "MotionCloneLoadMotionRep",
    "MotionCloneLoadReferenceVideo", "MotionCloneSaveMotionRep",
}  # fmt: skip


def refused(studio: Studio, scene: Scene) -> Result:
    """Runs a scene that must fail with an error of ours, a ``ValueError`` by one of its names."""
    result = studio.server.run(scene.graph)
    assert result.status == "error", result.status
    kind = result.exception_type.rpartition(".")[2]
    assert kind in {
        "ValueError", "UnsupportedModelError", "RepresentationMismatchError", "GuidanceError", "MotionFileError",
        "UnknownTapError", "VideoError", "InversionMismatchError",
    }, result.log  # fmt: skip
    return result


def message(studio: Studio, scene: Scene) -> str:
    return refused(studio, scene).exception_message


# --- the model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["extract", "apply", "ksampler"])
def test_a_model_without_animatediff(studio: Studio, node: str) -> None:
    scene = studio.scene()
    bare = scene.checkpoint
    if node == "extract":
        scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(model=bare))
    elif node == "apply":
        scene.save("never", scene.ksampler(scene.guided(scene.extracted(), model=bare)))
    else:
        scene.save("never", scene.guided_ksampler(scene.extracted(), model=bare))
    result = refused(studio, scene)
    assert result.node_type in OURS
    assert "no AnimateDiff motion module" in result.exception_message
    assert "loader" in result.exception_message


@pytest.mark.parametrize("sampler", ["dpm_2", "dpm_2_ancestral", "dpm_fast", "dpm_adaptive"])
def test_a_sampler_that_guidance_does_not_fit(studio: Studio, sampler: str) -> None:
    scene = studio.scene()
    scene.save("never", scene.ksampler(scene.guided(scene.extracted()), sampler_name=sampler))
    text = message(studio, scene)
    assert f"does not fit the sampler {sampler}:" in text
    assert "choose euler or ddim" in text
    assert "dpmpp_2m" in text


def test_noise_levels_that_rise(studio: Studio) -> None:
    scene = studio.scene()
    flipped = scene.graph.add("FlipSigmas", sigmas=scene.sigmas())
    sampler = scene.graph.add("KSamplerSelect", sampler_name="euler")
    inputs = {"positive": scene.positive, "negative": scene.negative, "latent_image": scene.latent}
    sampled = scene.graph.add(
        "SamplerCustom", **inputs, model=scene.guided(scene.extracted()), add_noise=True, noise_seed=1, cfg=8.5,
        sampler=sampler, sigmas=flipped,
    )  # fmt: skip
    scene.save("never", sampled)
    text = message(studio, scene)
    assert "sigma 0 is 0" in text
    assert "falls" in text or "fall at every step" in text


def test_a_model_that_is_guided_already(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    scene.save("never", scene.ksampler(scene.guided(rep, model=scene.guided(rep))))
    assert "guided by a motion representation already" in message(studio, scene)


# --- the representation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("architecture", ["animatediff/SDXL", "animatediff/SD1.5", "extract it again"]),
        (
            "block",
            ["mid_block.motion.0.attention.0", "does not have", "up_blocks.1.motion.0", "extract it again"],
        ),
        ("heads", ["4 heads", "8", "up_blocks.1.motion.0.attention.0", "extract it again"]),
    ],
)
def test_a_representation_of_another_model(studio: Studio, other: str, words: list[str]) -> None:
    scene = studio.scene()
    foreign = scene.graph.add("MotionCloneProbeForeignRep", motion_rep=scene.extracted(), other=other)
    scene.save("never", scene.ksampler(scene.guided(foreign)))
    said = message(studio, scene)
    assert all(word in said for word in words), said


def _empty(scene: Scene, frames: int, width: int, height: int) -> Any:
    return scene.graph.add("EmptyLatentImage", width=width, height=height, batch_size=frames)


@pytest.mark.parametrize("node", ["apply", "ksampler"])
def test_a_latent_of_other_frames_than_the_representation(studio: Studio, node: str) -> None:
    scene = studio.scene()
    rep, latent = scene.extracted(), _empty(scene, 5, 64, 64)
    if node == "apply":
        scene.save("never", scene.ksampler(scene.guided(rep), latent_image=latent))
    else:
        scene.save("never", scene.guided_ksampler(rep, latent_image=latent))
    said = message(studio, scene)
    assert all(word in said for word in ["has 4 frames", "to sample has 5", "Retime Motion"]), said


# --- the extraction ---------------------------------------------------------------------------------


def _extraction(studio: Studio, **changes: Any) -> Scene:
    scene = studio.scene()
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(**changes))
    return scene


def test_more_frames_than_the_motion_module_takes(studio: Studio) -> None:
    scene = studio.scene()
    latent = _empty(scene, 33, 64, 64)
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(latent=latent))
    said = message(studio, scene)
    assert "33" in said and "32" in said, said


def test_a_motion_that_was_read_in_other_windows(studio: Studio) -> None:
    scene = studio.scene()
    scene.save("never", scene.ksampler(scene.guided(scene.extracted(), model=scene.sliding(2, 1))))
    said = message(studio, scene)
    assert "frames 1 to 2 at once" in said and "read in frames 1 to 4" in said and "Context Options" in said


def test_context_options_that_take_turns(studio: Studio) -> None:
    scene = studio.scene()
    first = scene.graph.add("ADE_StandardStaticContextOptions", context_length=2, context_overlap=1)
    model = scene.sliding(3, 1, prev_context=first, start_percent=0.5)
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(model=model))
    assert "2 Context Options take turns in this MODEL" in message(studio, scene)


@pytest.mark.parametrize(("kind", "said"), [("NaiveReuse", "NaiveReuse hands"), ("ContextRef", "ContextRef")])
def test_windows_that_share_what_they_saw(studio: Studio, kind: str, said: str) -> None:
    scene = studio.scene(frames=6)
    static = scene.graph.add("ADE_StandardStaticContextOptions", context_length=4, context_overlap=2)
    extras = scene.graph.add(f"ADE_ContextExtras_{kind}", end_percent=1.0)
    context = scene.graph.add("ADE_ContextExtras_Set", context_opts=static, context_extras=extras)
    model = scene.animated(scene.checkpoint, context_options=context)
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(model=model))
    assert said in message(studio, scene)


def test_a_reference_under_two_conditionings(studio: Studio) -> None:
    scene = studio.scene()
    both = scene.both(scene.positive, scene.negative)
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(conditioning=both))
    said = message(studio, scene)
    assert "given 2 conditionings at once" in said and "read it under one conditioning" in said


def test_windows_that_hold_a_frame_twice(studio: Studio) -> None:
    scene = studio.scene(frames=6)
    model = scene.sliding(4, 1, kind="LoopedUniform", context_stride=2, closed_loop=False)
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(model=model))
    said = message(studio, scene)
    assert "a window of 4 frames holds a frame twice" in said and "lower context_stride" in said


@pytest.mark.parametrize("kind", ["context", "view"])
def test_a_window_longer_than_the_motion_module_takes(studio: Studio, kind: str) -> None:
    scene = studio.scene(frames=40)
    model = scene.sliding(36, 4) if kind == "context" else scene.viewed(scene.views(36, 4))
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(model=model, latent=scene.latent))
    said = message(studio, scene)
    assert "36 frames at once are more than the 32" in said and f"at most 32 as {kind}_length" in said


def test_k_above_a_window(studio: Studio) -> None:
    scene = studio.scene()
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(k=3, model=scene.sliding(2, 1)))
    said = message(studio, scene)
    assert "k is 3" in said and "2 frames at once" in said


@pytest.mark.parametrize("blocks", ["up_blocks.7", "up_blocks.1, mid_block", "up_blocks.1.motion.3"])
def test_a_block_that_matches_nothing(studio: Studio, blocks: str) -> None:
    said = message(studio, _extraction(studio, blocks=blocks))
    assert repr(blocks.split(", ")[-1]) in said
    existing = [f"{stage}_blocks.{index}" for stage in ("down", "up") for index in range(4)]
    assert all(name in said for name in existing), said


def test_k_of_zero_is_refused_before_anything_runs(studio: Studio) -> None:
    scene = _extraction(studio, k=0)
    result = studio.server.run(scene.graph)
    assert result.status == "invalid"
    (errors,) = (entry["errors"] for entry in result.node_errors.values())
    assert [(error["type"], error["extra_info"]["input_name"]) for error in errors] == [
        ("value_smaller_than_min", "k")
    ]


def test_k_above_the_frames(studio: Studio) -> None:
    said = message(studio, _extraction(studio, k=FRAMES + 1))
    assert f"k is {FRAMES + 1}" in said and f"{FRAMES} frames" in said


def test_a_reference_that_is_given_twice_or_not_at_all(studio: Studio) -> None:
    scene = studio.scene()
    twice = scene.extracted(latent=scene.encoded, images=scene.clip, vae=scene.checkpoint[2])
    scene.graph.add("MotionCloneProbeRep", motion_rep=twice)
    assert "both are connected" in message(studio, scene)


def test_a_broken_video(studio: Studio, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video" * 100)
    scene = studio.scene()
    part = {"start": 0.0, "length": 0.0, "frames": 4, "width": 64, "height": 64}
    video = studio.server.add_input(broken)
    images = scene.graph.add("MotionCloneLoadReferenceVideo", video=video, **part)
    scene.graph.add("MotionCloneProbeSave", name="never", image=images)
    assert "broken.mp4" in message(studio, scene)


# --- motion files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def motion_file(studio: Studio) -> bytes:
    """A sound motion file."""
    scene = studio.scene()
    save = {"motion_rep": scene.extracted(), "filename_prefix": "sound", "folder": "output"}
    scene.graph.add("MotionCloneSaveMotionRep", **save)
    studio.run(scene)
    (path,) = (studio.server.output_dir / "motion_reps").glob("sound_*.safetensors")
    return path.read_bytes()


def test_a_reference_controlnet(studio: Studio) -> None:
    if "ACN_ReferenceControlNet" not in studio.server.object_info():
        pytest.skip("needs ComfyUI-Advanced-ControlNet")
    scene = studio.scene()
    settings = {"reference_type": "reference_attn", "style_fidelity": 0.5, "ref_weight": 1.0}
    control = scene.graph.add("ACN_ReferenceControlNet", **settings)
    picture = scene.graph.add("EmptyImage", width=scene.width, height=scene.height, batch_size=1, color=0x808080)
    hint = scene.graph.add(
        "ACN_ReferencePreprocessor", image=picture, vae=scene.checkpoint[2], latent_size=scene.latent
    )
    applied = scene.graph.add(
        "ACN_AdvancedControlNetApply_v2", positive=scene.positive, negative=scene.negative, control_net=control,
        image=hint, strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    sampled = scene.ksampler(scene.guided(scene.extracted()), positive=applied[0], negative=applied[1])
    scene.save("never", sampled)
    assert "beside Advanced-ControlNet's reference ControlNets" in message(studio, scene)


def _newer(content: bytes) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    description = json.loads(header["__metadata__"]["motionclone"])
    description["format_version"] = 5
    header["__metadata__"]["motionclone"] = json.dumps(description)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: content[: len(content) // 2], ["truncated", "save the motion again"]),
        (
            lambda content: b"PK\x03\x04 a pickle, say" * 40,
            ["not a safetensors file", "save the motion again"],
        ),
        (_newer, ["format version 5", "reads up to 4", "update the pack"]),
    ],
    ids=["truncated", "not safetensors", "newer"],
)
def test_a_bad_motion_file(
    studio: Studio, motion_file: bytes, spoil: Callable[[bytes], bytes], words: list[str]
) -> None:
    bad = studio.server.output_dir / "motion_reps" / "bad.safetensors"
    bad.write_bytes(spoil(motion_file))
    scene = studio.scene()
    rep = scene.graph.add("MotionCloneLoadMotionRep", file="bad.safetensors [output]")
    scene.graph.add("MotionCloneProbeRep", motion_rep=rep)
    try:
        said = message(studio, scene)
    finally:
        bad.unlink()
    assert all(word in said for word in ["bad.safetensors", *words]), said


@pytest.mark.parametrize(
    "file", ["../../secret.safetensors", "../secret.safetensors [output]", "/secret.safetensors"]
)
def test_a_motion_file_outside_the_folders_is_never_opened(studio: Studio, file: str) -> None:
    # It exists, so that only its place can be the reason.
    for folder in (studio.server.base, studio.server.output_dir):
        (folder / "secret.safetensors").write_bytes(b"")
    scene = studio.scene()
    rep = scene.graph.add("MotionCloneLoadMotionRep", file=file)
    scene.graph.add("MotionCloneProbeRep", motion_rep=rep)
    result = studio.server.run(scene.graph)
    assert result.status == "invalid"
    assert list(result.node_errors) == [rep.id]
    assert "only files in" in json.dumps(result.node_errors[rep.id]["errors"])


@pytest.mark.parametrize("prefix", ["../../escaped", "/tmp/escaped"])
def test_a_motion_is_never_saved_outside_the_folders(studio: Studio, prefix: str) -> None:
    before = sorted(studio.server.base.rglob("*.safetensors"))
    scene = studio.scene()
    settings = {"filename_prefix": prefix, "folder": "output"}
    scene.graph.add("MotionCloneSaveMotionRep", motion_rep=scene.extracted(), **settings)
    assert "only files in" in message(studio, scene)
    assert sorted(studio.server.base.rglob("*.safetensors")) == before


def test_a_saved_motion_is_named_as_the_loader_lists_it(studio: Studio, motion_file: bytes) -> None:
    loader = studio.server.object_info("MotionCloneLoadMotionRep")["MotionCloneLoadMotionRep"]
    choices = loader["input"]["required"]["file"][1]["options"]
    (listed,) = (name for name in choices if name.startswith("sound_"))
    scene = studio.scene()
    rep = scene.graph.add("MotionCloneLoadMotionRep", file=listed)
    loaded, made = (scene.graph.add("MotionCloneProbeRep", motion_rep=r) for r in (rep, scene.extracted()))
    result = studio.run(scene)
    assert only(result, loaded, "rep") == only(result, made, "rep")


def test_a_run_of_which_nothing_is_guided_says_so(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    scene.save("free", scene.ksampler(scene.guided(scene.extracted(), start_step=9)))
    assert "none of the 2 steps of this run is guided" in studio.run(scene).log
