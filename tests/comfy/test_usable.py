"""Guidance leaves everything else of ComfyUI usable."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comfy_server import Node
from listener import Heard, Listener
from scenes import LORA, SCALE, STEPS, Array, Scene, Studio, only

# --- any sampler node -------------------------------------------------------------------------------


def _advanced(scene: Scene, guider: Node, sigmas: Node) -> Node:
    noise = scene.graph.add("RandomNoise", noise_seed=5)
    sampler = scene.graph.add("KSamplerSelect", sampler_name="euler")
    inputs = {"guider": guider, "sigmas": sigmas, "latent_image": scene.latent}
    return scene.graph.add("SamplerCustomAdvanced", noise=noise, sampler=sampler, **inputs)


def _all_equal(latents: list[Array]) -> bool:
    return all(np.array_equal(latent, latents[0]) for latent in latents[1:])


@pytest.mark.more
def test_every_sampler_node_guides_alike(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    model, sigmas = scene.guided(rep), scene.sigmas()
    conditions = {"positive": scene.positive, "negative": scene.negative}
    guider = scene.graph.add("CFGGuider", model=model, cfg=7.0, **conditions)
    latents = studio.latents(
        scene,
        ksampler=scene.ksampler(model),
        custom=scene.custom(model, sigmas),
        advanced=_advanced(scene, guider, sigmas),
        guided_ksampler=scene.guided_ksampler(rep, scheduler="simple"),
        unguided=scene.ksampler(scene.model),
    )
    assert _all_equal(latents[:4])
    assert not np.array_equal(latents[0], latents[4])


@pytest.mark.more
def test_every_sampler_node_guides_alike_without_cfg(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    model, sigmas = scene.guided(rep), scene.sigmas()
    guider = scene.graph.add("BasicGuider", model=model, conditioning=scene.positive)
    latents = studio.latents(
        scene,
        ksampler=scene.ksampler(model, cfg=1.0),
        basic=_advanced(scene, guider, sigmas),
        guided_ksampler=scene.guided_ksampler(rep, scheduler="simple", cfg=1.0),
    )
    assert _all_equal(latents)


def test_the_guided_ksampler_is_guidance_and_scheduler_and_sampler(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    layout = {"steps": 3, "guided_steps": 2, "ratio": 0.4}
    sigmas = scene.graph.add("MotionCloneScheduler", model=scene.model, **layout)
    one, parts = studio.latents(
        scene,
        one=scene.guided_ksampler(rep, **layout),
        parts=scene.custom(scene.guided(rep, guided_steps=2), sigmas),
    )
    assert np.array_equal(one, parts)


def test_an_encoded_clip_is_sampled_from_under_a_noise_mask(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    mask = scene.half_mask("right")
    latent = scene.graph.add("SetLatentNoiseMask", samples=scene.again(scene.encoded), mask=mask)
    inputs = {"latent_image": latent, "denoise": 0.6}
    clip, ksampler, guided_ksampler, unguided = studio.latents(
        scene,
        clip=scene.encoded,
        ksampler=scene.ksampler(scene.guided(rep), **inputs),
        guided_ksampler=scene.guided_ksampler(rep, scheduler="simple", **inputs),
        unguided=scene.ksampler(scene.model, **inputs),
    )
    assert np.array_equal(guided_ksampler, ksampler)
    assert np.allclose(ksampler[..., :4], clip[..., :4], atol=1e-4)
    moved = np.abs(ksampler - unguided)[..., 4:].max() * SCALE
    assert moved > 0.01


# --- conditions and patches -------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What a run is made with: the model that guidance is applied to, and inputs of the sampler."""

    model: Any
    sampling: dict[str, Any]


def _areas(scene: Scene) -> Setting:
    house = scene.text("a red house in the snow")
    left = {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}
    areas = [
        scene.graph.add("ConditioningSetArea", conditioning=scene.positive, **left),
        scene.graph.add("ConditioningSetArea", conditioning=house, **{**left, "x": 56, "width": 72}),
    ]
    return Setting(scene.model, {"positive": scene.both(*areas)})


def _masks_and_whole(scene: Scene) -> Setting:
    house = scene.masked(scene.text("a red house in the snow"), "left")
    return Setting(scene.model, {"positive": scene.both(scene.positive, house)})


def _ranges(scene: Scene) -> Setting:
    def between(text: Any, start: float, end: float) -> Node:
        part = {"start": start, "end": end}
        return scene.graph.add("ConditioningSetTimestepRange", conditioning=text, **part)

    house = scene.text("a red house in the snow")
    # 12 % into the schedule sigma is 12.7, between the two steps, at 14 and 11.
    return Setting(
        scene.model, {"positive": scene.both(between(scene.positive, 0, 0.12), between(house, 0.12, 1))}
    )


def _prompts_per_frame(scene: Scene) -> Setting:
    prompts = '"0": "a boat on the sea",\n"3": "a red house in the snow"'
    settings = {
        "prompts": prompts,
        "max_length": scene.frames,
        "print_schedule": False,
        "tensor_interp": "lerp",
    }
    schedule = scene.graph.add("ADE_PromptScheduling", clip=scene.checkpoint[1], **settings)
    return Setting(scene.model, {"positive": schedule})


def _control(scene: Scene) -> Setting:
    control = scene.graph.add("MotionCloneProbeControl", conditioning=scene.positive)
    return Setting(scene.model, {"positive": control})


def _lora(scene: Scene) -> Setting:
    strengths = {"strength_model": 1.0, "strength_clip": 1.0}
    inputs = {"model": scene.checkpoint, "clip": scene.checkpoint[1], "lora_name": LORA}
    lora = scene.graph.add("LoraLoader", **inputs, **strengths)
    text = scene.graph.add("CLIPTextEncode", clip=lora[1], text="a boat on the sea")
    return Setting(scene.animated(lora), {"positive": text})


def _free_u(scene: Scene) -> Setting:
    return Setting(scene.graph.add("FreeU_V2", model=scene.model, b1=1.3, b2=1.4, s1=0.9, s2=0.2), {})


def _perturbed_attention(scene: Scene) -> Setting:
    return Setting(scene.graph.add("PerturbedAttentionGuidance", model=scene.model, scale=3.0), {})


def _rescaled_cfg(scene: Scene) -> Setting:
    return Setting(scene.graph.add("RescaleCFG", model=scene.model, multiplier=0.7), {})


def bare(scene: Scene) -> Setting:
    return Setting(scene.model, {})


SETTINGS = (_lora, _ranges, _control, _masks_and_whole, _prompts_per_frame, _rescaled_cfg)
# ComfyUI's smallest area is 64 pixels wide. Of 64 pixels the UNet's lowest level sees a single cell: attention over it
# cannot be perturbed, and FreeU V2 divides by the range of its values, which is 0.
WIDE = (_areas, _free_u, _perturbed_attention)


@dataclass(frozen=True)
class Ends:
    """Latents where the guided steps end, with guidance and without, and their energies."""

    guided: Array
    unguided: Array
    energy: float
    unguided_energy: float


@functools.cache
@functools.cache
def _ends(studio: Studio, setting: Callable[[Scene], Setting], width: int) -> Ends:
    scene = studio.scene(width=width)
    rep, made = scene.extracted(), setting(scene)
    ends = [
        scene.custom(model, scene.falling(14.0, 11.0, 8.0), **made.sampling)
        for model in (scene.guided(rep, model=made.model, guided_steps=2), made.model)
    ]
    energies = [scene.energy(rep, end, 8.0, model=made.model) for end in ends]
    saves = [scene.save(name, end) for name, end in zip(("guided", "unguided"), ends, strict=True)]
    result = studio.run(scene)
    return Ends(*studio.saved(result, *saves), *(only(result, energy, "energy") for energy in energies))


def assert_works_beside(studio: Studio, setting: Callable[[Scene], Setting]) -> None:
    """The energy falls, and what guidance stands beside has its effect as without it."""
    width = 128 if setting in WIDE else 64
    ends, plain = _ends(studio, setting, width), _ends(studio, bare, width)
    assert ends.energy < 0.9 * ends.unguided_energy
    assert not np.array_equal(ends.unguided, plain.unguided)
    assert not np.array_equal(ends.guided, plain.guided)


@pytest.mark.more
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.__name__.strip("_"))
def test_guidance_works_beside(studio: Studio, setting: Callable[[Scene], Setting]) -> None:
    assert_works_beside(studio, setting)


@pytest.mark.more
def test_a_step_without_any_active_condition_is_left_alone(studio: Studio) -> None:
    scene = studio.scene()
    part = {"start": 0.12, "end": 1.0}  # sigma 12.7, between the two steps
    late = scene.graph.add("ConditioningSetTimestepRange", conditioning=scene.positive, **part)
    rep, sigmas = scene.extracted(), scene.falling(14.0, 11.0, 8.0)
    first_only = scene.guided(rep, guided_steps=1)
    guided, unguided, both_steps = studio.latents(
        scene,
        guided=scene.custom(first_only, sigmas, positive=late),
        unguided=scene.custom(scene.model, sigmas, positive=late),
        both_steps=scene.custom(scene.guided(rep, guided_steps=2), sigmas, positive=late),
    )
    assert np.array_equal(guided, unguided)
    assert not np.array_equal(both_steps, unguided)


# --- files ------------------------------------------------------------------------------------------


def _save(studio: Studio, prefix: str, **extraction: Any) -> str:
    scene = studio.scene(fresh=True)
    settings = {"filename_prefix": f"{prefix}{scene.nonce}", "folder": "output"}
    save = scene.graph.add("MotionCloneSaveMotionRep", motion_rep=scene.extracted(**extraction), **settings)
    return only(studio.run(scene), save, "text").split(":")[0]


@pytest.mark.more
def test_a_loaded_motion_guides_as_the_saved_one_did(studio: Studio) -> None:
    name = _save(studio, "pan/left")
    scene = studio.scene()
    loaded = scene.graph.add("MotionCloneLoadMotionRep", file=name)
    made, read = studio.latents(
        scene,
        made=scene.ksampler(scene.guided(scene.extracted())),
        read=scene.ksampler(scene.guided(loaded)),
    )
    assert np.array_equal(read, made)


def test_a_motion_file_that_changes_is_loaded_again(studio: Studio) -> None:
    name, other = _save(studio, "one"), _save(studio, "other", seed=4)
    folder = studio.server.output_dir / "motion_reps"
    file, replacement = (folder / n.removesuffix(" [output]") for n in (name, other))

    def load() -> tuple[str, bool]:
        scene = studio.scene()
        loader = scene.graph.add("MotionCloneLoadMotionRep", file=name)
        probe = scene.graph.add("MotionCloneProbeRep", motion_rep=loader)
        result = studio.run(scene)
        return only(result, probe, "rep")["checksum"], loader.id in result.cached

    first, _ = load()
    assert load() == (first, True)
    os.replace(replacement, file)
    second, cached = load()
    assert second != first
    assert not cached


# --- what the browser shows -------------------------------------------------------------------------


def _shown(studio: Studio, *, guided: bool) -> Heard:
    scene = studio.scene(fresh=True)
    sampled = scene.ksampler(scene.guided(scene.extracted()) if guided else scene.model)
    scene.save("shown", sampled)
    client_id = f"probe{scene.nonce}"
    with Listener(studio.server.port, client_id) as listener:
        return listener.hear(studio.server.queue(scene.graph, client_id=client_id), sampled.id)


def test_progress_and_previews_are_shown_as_without_guidance(studio: Studio) -> None:
    guided, unguided = _shown(studio, guided=True), _shown(studio, guided=False)
    assert guided.progress == unguided.progress
    assert guided.progress[-1] == (STEPS, STEPS)
    assert len(guided.previews) == len(unguided.previews) == STEPS
    pictures = [np.asarray(Image.open(io.BytesIO(preview))) for preview in guided.previews]
    assert all(picture.std() > 0 for picture in pictures)
