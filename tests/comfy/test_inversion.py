"""References inverted and read on a real model; sampled back by ComfyUI's own nodes, step by step and as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_bad_input import message
from test_gradient import ALONE, relative_error

from comfy_server import Node
from scenes import LORA, SCALE, Array, Scene, Studio, only, sigma_of

STEPS = 3
LEVELS = (0, 500, 999)  # round(linspace(0, 999, 3)): 499.5 goes to the even neighbour
UNIT = {"add_noise": False, **ALONE}


def inversion(scene: Scene, **changes: Any) -> Node:
    inputs = {"model": scene.model, "conditioning": scene.positive, "steps": STEPS, "latent": scene.encoded}
    return scene.graph.add("MotionCloneInvert", **{**inputs, **changes})


def inverted(scene: Scene, found: Any, timestep: int, factor: float = 1.0) -> Node:
    return scene.graph.add("MotionCloneProbeInverted", inversion=found, timestep=timestep, factor=factor)


def reading(scene: Scene, motion: Any, timestep: int) -> Node:
    return scene.graph.add("MotionCloneProbeReading", motion_rep=motion, timestep=timestep)


def checksum(scene: Scene, motion: Any) -> Node:
    return scene.graph.add("MotionCloneProbeRep", motion_rep=motion)


def other_clip(scene: Scene, **changes: Any) -> Node:
    size = {"width": scene.width, "height": scene.height, "frames": scene.frames}
    pixels = scene.graph.add("MotionCloneProbeClip", **{**size, "seed": 9, **changes})
    return scene.graph.add("VAEEncode", pixels=pixels, vae=scene.checkpoint[2])


def published_step(z: Array, noise: Array, before: float, after: float) -> Array:
    """z_t as the first version's program has it, from the sigmas of both levels."""
    abar_s, abar_t = (1 / (1 + sigma**2) for sigma in (before, after))
    z_0 = (z - np.sqrt(1 - abar_s) * noise) / np.sqrt(abar_s)
    return np.sqrt(abar_t) * z_0 + np.sqrt(1 - abar_t) * noise


def test_every_level_is_a_step_from_the_one_before(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    found = inversion(scene)
    sigmas = [sigma_of(level) for level in LEVELS]
    kept, steps = [scene.save("clean", inverted(scene, found, -1))], []
    for level, before, sigma in zip(LEVELS, (-1, *LEVELS), sigmas, strict=False):
        kept.append(scene.save(f"level {level}", inverted(scene, found, level)))
        # The network is told the next level, and sees the latent of the one before.
        seen = inverted(scene, found, before, (1 + sigma**2) ** 0.5)
        there = scene.custom(scene.model, scene.falling(sigma, sigma / 2), latent_image=seen, **UNIT)
        steps.append((scene.save(f"seen {level}", seen), scene.save(f"stepped {level}", there)))
    result = studio.run(scene)
    latents = [SCALE * z.astype(np.float64) for z in studio.saved(result, *kept)]
    below = [0.0, *sigmas]
    for step, (nodes, sigma) in enumerate(zip(steps, sigmas, strict=True)):
        seen, there = studio.saved(result, *nodes)
        noise = SCALE * (there.astype(np.float64) - seen) / (sigma / 2 - sigma)
        wanted = published_step(latents[step], noise, below[step], sigma)
        assert relative_error(latents[step + 1], wanted) < 1e-4
        assert relative_error(latents[step + 1], latents[step]) > 1e-3


@pytest.mark.more
def test_a_clip_comes_back(studio: Studio) -> None:
    """From a level of little noise: random weights do not take away what they find, so that far up all is lost."""
    scene = studio.scene()
    errors = []
    for steps in (20, 40):
        levels = [level for level in (round(float(t)) for t in np.linspace(0, 999, steps)) if level < 270]
        sigmas = [sigma_of(level) for level in levels[::-1]]
        found = inversion(scene, steps=steps, sigmas=scene.falling(sigmas[0], 0.0))
        top = inverted(scene, found, levels[-1], (1 + sigmas[0] ** 2) ** 0.5)
        back = scene.custom(scene.model, scene.falling(*sigmas, 0.0), latent_image=top, **UNIT)
        clean, again, far = studio.latents(scene, clean=inverted(scene, found, -1), back=back, top=top)
        errors.append(relative_error(again, clean) / relative_error(far, clean))
    # Of the way there. Euler's method is of the first order, as on the toy whose every noise level is known: what does
    # not come back goes to nothing with the length of the steps.
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.05)
    assert errors[1] < 0.15


def test_a_motion_is_read_off_the_inverted_latent(studio: Studio) -> None:
    scene = studio.scene()
    found, given = inversion(scene), {"conditioning": scene.positive}
    read = scene.extracted(inversion=found, t_alpha=480, **given)
    noised = scene.extracted(t_alpha=500, **given)
    sigma = sigma_of(500)
    there = inverted(scene, found, 500, (1 + sigma**2) ** 0.5)
    own, other = (scene.energy(motion, there, sigma, **given) for motion in (read, noised))
    told = checksum(scene, read)
    result = studio.run(scene)
    assert only(result, own, "energy") < 6 * 2.0**-24
    assert only(result, other, "energy") > 1e-4
    assert only(result, told, "rep")["provenance"]["t_alpha"] == 500
    assert "the inversion has no latent at timestep 480: the motion is read at 500" in result.log


def test_every_step_follows_the_reading_nearest_to_it(studio: Studio) -> None:
    scene = studio.scene()
    found, given = inversion(scene), {"conditioning": scene.positive}
    series = scene.extracted(inversion=found, every_level=True, **given)
    runs = {}
    for level in (500, 999):
        sigma = sigma_of(level) * 0.95
        for name, motion in (("series", series), ("reading", reading(scene, series, level))):
            sigmas = scene.falling(sigma, sigma / 2)
            runs[f"{name} {level}"] = scene.custom(scene.guided(motion, weight=2000.0), sigmas, **ALONE)
    other = scene.guided(reading(scene, series, 999), weight=2000.0)
    runs["other"] = scene.custom(other, scene.falling(sigma_of(500) * 0.95, sigma_of(500) * 0.475), **ALONE)
    early, one, late, last, unlike = studio.latents(scene, **runs)
    assert np.array_equal(early, one) and np.array_equal(late, last)
    assert not np.array_equal(early, unlike)


@pytest.mark.more
def test_windows_are_inverted_and_read_as_themselves(studio: Studio) -> None:
    scene = studio.scene(frames=6)
    sliding = {"model": scene.sliding(4, 2, kind="StandardUniform", context_stride=1), "conditioning": scene.positive}
    found = inversion(scene, **sliding)
    read = scene.extracted(inversion=found, t_alpha=500, **sliding)
    noised, whole = scene.extracted(t_alpha=500, **sliding), inversion(scene)
    told = [checksum(scene, motion) for motion in (read, noised)]
    saves = [scene.save(name, inverted(scene, one, 999)) for name, one in (("windows", found), ("whole", whole))]
    result = studio.run(scene)
    own, other = (only(result, node, "rep") for node in told)
    assert own["windows"] == other["windows"] and len(own["windows"]) > 1
    assert own["checksum"] != other["checksum"]
    assert relative_error(*studio.saved(result, *saves)) > 1e-3


def test_a_series_is_edited_saved_loaded_and_shown(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    given = {"conditioning": scene.positive, "every_level": True}
    series = scene.extracted(inversion=inversion(scene), **given)
    settings = {"speed": 1.0, "offset": 0.0, "reverse": True, "repeat": "hold"}
    turned = scene.graph.add("MotionCloneRetimeMotion", motion_rep=series, frames=4, **settings)
    save = scene.graph.add("MotionCloneSaveMotionRep", motion_rep=turned, filename_prefix="all", folder="output")
    shown = {"taps": "*", "arrows": True, "opacity": 0.85, "fps": 8.0}
    pictures = scene.graph.add("MotionClonePreviewMotion", motion_rep=turned, timestep=999, **shown)
    scene.graph.add("PreviewImage", images=pictures)
    before = [checksum(scene, reading(scene, turned, level)) for level in LEVELS]
    result = studio.run(scene)
    scene = studio.scene(fresh=True)
    loaded = scene.graph.add("MotionCloneLoadMotionRep", file=only(result, save, "text").split(":")[0])
    after = [checksum(scene, reading(scene, loaded, level)) for level in LEVELS]
    again = studio.run(scene)
    told = [[only(run, node, "rep") for node in nodes] for run, nodes in ((result, before), (again, after))]
    assert told[0] == told[1]
    assert len({one["checksum"] for one in told[0]}) == 3
    assert [one["provenance"]["t_alpha"] for one in told[1]] == list(LEVELS)


def test_an_inversion_is_kept_on_disk(studio: Studio) -> None:
    folder = studio.server.output_dir / "motion_inversions"
    scene = studio.scene(fresh=True)
    two = {"sigmas": scene.falling(sigma_of(999), sigma_of(510), 0.0), "name": "kept/clip"}
    found = inversion(scene, **two)
    saves = [scene.save(f"first {level}", inverted(scene, found, level)) for level in (500, 999)]
    result = studio.run(scene)
    assert "the inversion clip.safetensors is kept: 2 levels" in result.log
    assert (folder / "kept" / "clip.safetensors").is_file()
    made = studio.saved(result, *saves)
    scene = studio.scene(fresh=True)
    # A clip by another node, so that ComfyUI's cache has no part in it.
    again = inversion(scene, latent=scene.again(scene.encoded), **{**two, "sigmas": scene.falling(sigma_of(999), 0.0)})
    kept = scene.save("again", inverted(scene, again, 999))
    result = studio.run(scene)
    assert "the inversion clip.safetensors is read from disk" in result.log
    assert np.array_equal(studio.saved(result, kept)[0], made[1])


def test_patched_weights_are_the_same_model_wherever_they_lie(studio: Studio) -> None:
    """A LoRA is part of the fingerprint; whether ComfyUI has loaded and patched the weights is not."""
    for again in (False, True):
        scene = studio.scene(fresh=True)
        settings = {"lora_name": LORA, "strength_model": 1.0, "strength_clip": 0.0}
        patched = scene.graph.add("LoraLoader", model=scene.checkpoint, clip=scene.checkpoint[1], **settings)
        model = scene.animated(patched)
        clip = scene.again(scene.encoded)
        scene.save("kept", inverted(scene, inversion(scene, model=model, latent=clip, name="lora"), 999))
        log = studio.run(scene).log
        assert f"lora.safetensors is {'read from disk' if again else 'kept'}" in log
        # Another MODEL of the same weights, without the LoRA, takes it off them.
        bare = studio.scene(fresh=True)
        bare.save("bare", inverted(bare, inversion(bare, latent=bare.again(bare.encoded), name="bare"), 999))
        assert f"bare.safetensors is {'read from disk' if again else 'kept'}" in studio.run(bare).log
    taken = studio.scene(fresh=True)
    taken.save("never", inverted(taken, inversion(taken, name="lora"), 999))
    assert "lora.safetensors is of another model (" in message(studio, taken)


@pytest.mark.parametrize("what", ["clip", "prompt", "number of steps", "model"])
def test_a_name_that_is_taken(studio: Studio, what: str) -> None:
    scene = studio.scene()
    scene.save("taken", inverted(scene, inversion(scene, name="taken"), 999))
    studio.run(scene)
    scene = studio.scene(fresh=True)
    half = scene.animated(scene.checkpoint, beta_schedule="linear (AnimateDiff-SDXL)")
    changes = {
        "clip": {"latent": other_clip(scene)},
        "prompt": {"conditioning": scene.text("another boat")},
        "number of steps": {"steps": STEPS + 1},
        "model": {"model": half},
    }[what]
    scene.save("never", inverted(scene, inversion(scene, name="taken", **changes), 999))
    said = message(studio, scene)
    assert f"taken.safetensors is of another {what} (" in said and "choose another name" in said


def changed(scene: Scene, what: str) -> Node:
    """The scene's model with something else put into it than weights."""
    add = scene.graph.add
    if what == "token merging":
        return add("TomePatchModel", model=scene.model, ratio=0.3)
    effect = add("ADE_MultivalDynamic", float_val=0.2)
    if what == "keyframe":
        applied = {"ad_keyframes": add("ADE_AnimateDiffKeyframe", start_percent=0.5, effect_multival=effect)}
    else:
        applied = {"per_block": add("ADE_PerBlock_SD15_MidLevel", up_1=add("ADE_ADBlockCombo", effect=effect))}
    return scene.animated(scene.checkpoint, m_models=scene.applied(**applied))


@pytest.mark.parametrize(
    "what",
    [
        "Per Block",
        pytest.param("token merging", marks=pytest.mark.more),
        pytest.param("keyframe", marks=pytest.mark.more),
    ],
)
def test_what_other_nodes_put_into_a_model_makes_it_another(studio: Studio, what: str) -> None:
    scene = studio.scene()
    scene.save("plain", inverted(scene, inversion(scene, name="plain"), 999))
    studio.run(scene)
    scene = studio.scene(fresh=True)
    scene.save("never", inverted(scene, inversion(scene, name="plain", model=changed(scene, what)), 999))
    assert "plain.safetensors is of another model (" in message(studio, scene)
    for again in (False, True):
        scene = studio.scene(fresh=True)
        model, clip = changed(scene, what), scene.again(scene.encoded)
        found = inversion(scene, name=f"changed by {what}", model=model, latent=clip)
        scene.save("changed", inverted(scene, found, 999))
        assert f"changed by {what}.safetensors is {'read from disk' if again else 'kept'}" in studio.run(scene).log


def test_an_inversion_of_another_reference(studio: Studio) -> None:
    scene = studio.scene()
    found = inversion(scene)
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(inversion=found, latent=other_clip(scene)))
    assert "the inversion is of another clip (" in message(studio, scene)
    scene = studio.scene()
    wide = other_clip(scene, width=128)
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(inversion=inversion(scene), latent=wide))
    said = message(studio, scene)
    assert "a clip of 4 frames of 8 x 8 latent cells, the reference has 4 frames of 16 x 8" in said
    scene = studio.scene()
    other = scene.animated(scene.checkpoint, beta_schedule="linear (AnimateDiff-SDXL)")
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(inversion=inversion(scene, model=other)))
    assert "the inversion was made with another model (" in message(studio, scene)


def test_every_level_of_no_inversion(studio: Studio) -> None:
    scene = studio.scene()
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(every_level=True))
    assert "every_level needs an inversion" in message(studio, scene)


def test_latents_of_another_model(studio: Studio) -> None:
    scene = studio.scene()
    foreign = scene.graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=4)
    scene.save("never", inverted(scene, inversion(scene, latent=foreign), 999))
    said = message(studio, scene)
    assert "latents have 16 channels" in said and "model's have 4" in said


def test_a_name_that_is_a_folder(studio: Studio) -> None:
    (studio.server.output_dir / "motion_inversions" / "taken by a folder.safetensors").mkdir(parents=True)
    scene = studio.scene()
    scene.save("never", inverted(scene, inversion(scene, name="taken by a folder"), 999))
    assert "is a folder" in message(studio, scene)


def test_a_name_outside_the_folder(studio: Studio) -> None:
    scene = studio.scene()
    scene.save("never", inverted(scene, inversion(scene, name="../outside"), 999))
    assert "leads out of" in message(studio, scene)
