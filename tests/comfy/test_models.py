"""Motion models other than AnimateDiff v3, and what AnimateDiff-Evolved's nodes do to one.

Each model is of random weights of its own shapes. They take a while to make and to load, so most of these tests are
run by `make test-models`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from test_gradient import SIGMA, SIGMA_NEXT, relative_error
from test_leftovers import assert_clean

from comfy_server import ComfyServer, Node
from find_comfyui import ComfyUI
from random_models import SDXL_UNET, ModelFiles, ensure_other, model_file
from scenes import BETAS_ADXL, BETAS_SD, SCALE, Array, Scene, Studio, only, sigma_of

WEIGHT = 2000.0
SCALE_XL = 0.13025  # of SDXL's latents

WHOLE = {"start_percent": 0.0, "end_percent": 1.0}

Furnish = Callable[..., Studio]


@pytest.fixture(scope="module")
def furnish(comfyui: ComfyUI, server: ComfyServer, models: ModelFiles) -> Furnish:
    """Gives a studio with another motion module, and an image model if it needs another."""

    def furnish(module: str, *, network: str | None = None) -> Studio:
        path = ensure_other(comfyui, module)
        server.link("animatediff_models", path)
        if network is not None:
            server.link("diffusion_models", ensure_other(comfyui, network))
        return Studio(server, replace(models, motion_module=path))

    return furnish


def lcm_sigma(timestep: int) -> float:
    """Of a schedule that knows every twentieth noise level, from 19 on: in between, by its logarithm."""
    below = (timestep - 19) // 20 * 20 + 19
    ends = np.log([sigma_of(t, BETAS_SD) for t in (below, below + 20)])
    return float(np.exp(np.interp(timestep, [below, below + 20], ends)))


def assert_reads_and_guides(studio: Studio, scene: Scene, sigma: float = sigma_of(400), scale: float = SCALE) -> None:
    """The reference has no energy against itself, a step moves by the literal gradient, and nothing is left."""
    rep, sigmas = scene.extracted(k=2, seed=3), scene.falling(SIGMA, SIGMA_NEXT)
    own, other = (
        scene.energy(rep, scene.encoded, sigma, noise_seed=s, conditioning=scene.negative) for s in (3, 4)
    )
    runs = {"plain": scene.custom(scene.model, sigmas)}
    runs |= {m: scene.custom(scene.guided(rep, weight=WEIGHT, memory=m), sigmas) for m in ("speed", "memory")}
    saves = [scene.save(name, node) for name, node in runs.items()]
    literal, state = scene.gradient("gradient", rep, SIGMA), scene.state(runs["memory"])
    result = studio.run(scene)
    before, speed, memory, gradient = studio.saved(result, *saves, literal)
    assert only(result, own, "energy") < 6 * 2.0**-24 < 1e-5 < only(result, other, "energy")
    assert np.abs(gradient).max() > 0
    assert np.array_equal(speed, memory)
    assert relative_error((speed - before) * scale, -SIGMA_NEXT * WEIGHT * SIGMA * gradient) < 1e-3
    assert_clean(only(result, state, "state"))


@dataclass(frozen=True)
class Kind:
    """A motion module for SD 1.5, the schedule it is run under, and that schedule's noise level at 400."""

    module: str
    beta_schedule: str = "sqrt_linear (AnimateDiff)"
    sigma: float = sigma_of(400)


KINDS = {
    "v1": Kind("v1_sd15_mm"),
    "v2": Kind("v2_sd15_mm"),
    "AnimateLCM": Kind("lcm_sd15_mm", "lcm", lcm_sigma(400)),
}


@pytest.mark.models
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_motion_module_for_sd15_is_read_and_guided(furnish: Furnish, kind: Kind) -> None:
    studio = furnish(kind.module)
    scene = studio.scene()
    scene.moved_by(scene.applied(), beta_schedule=kind.beta_schedule)
    assert_reads_and_guides(studio, scene, kind.sigma)


@pytest.mark.models
@pytest.mark.parametrize(
    ("module", "beta_schedule", "betas"),
    [
        ("sdxl_mm", "linear (AnimateDiff-SDXL)", BETAS_ADXL),
        ("hotshotxl_mm", "linear (HotshotXL/default)", BETAS_SD),
    ],
    ids=["AnimateDiff-SDXL", "HotshotXL"],
)
def test_a_motion_module_for_sdxl_is_read_and_guided(
    furnish: Furnish, module: str, beta_schedule: str, betas: Array
) -> None:
    studio = furnish(module, network=SDXL_UNET)
    scene = studio.scene()
    add = scene.graph.add
    scene.checkpoint = add("UNETLoader", unet_name=model_file(SDXL_UNET).name, weight_dtype="default")
    scene.positive, scene.negative = (add("MotionCloneProbeText", seed=s) for s in (1, 2))
    scene.encoded = add("MotionCloneProbeLatent", frames=scene.frames, width=scene.width, height=scene.height)
    scene.moved_by(scene.applied(), beta_schedule=beta_schedule)
    assert_reads_and_guides(studio, scene, sigma_of(400, betas), SCALE_XL)


@pytest.mark.models
def test_pia_is_read_and_guided_beside_its_picture(furnish: Furnish) -> None:
    studio = furnish("pia_sd15_mm")
    scene = studio.scene()
    add = scene.graph.add
    picture = add("ImageFromBatch", image=scene.clip, batch_index=0, length=1)
    strength = add("ADE_InputPIA_Multival", multival=multival(scene, 0.8))
    inputs = {"motion_model": scene.module, "image": picture, "vae": scene.checkpoint[2], "pia_input": strength}
    scene.moved_by(add("ADE_ApplyAnimateDiffModelWithPIA", **inputs, **WHOLE))
    assert_reads_and_guides(studio, scene)


@pytest.mark.models
def test_animatelcm_i2v_is_read_and_guided_beside_its_picture(furnish: Furnish) -> None:
    studio = furnish("lcm_i2v_sd15_mm")
    scene = studio.scene()
    add = scene.graph.add
    loaded = add("ADE_LoadAnimateLCMI2VModel", model_name=scene.models.motion_module.name)
    inputs = {"motion_model": loaded, "ref_latent": scene.encoded, "ref_drift": 0.2, "apply_ref_when_disabled": False}
    scene.moved_by(add("ADE_ApplyAnimateLCMI2VModel", **inputs, **WHOLE), beta_schedule="lcm")
    assert_reads_and_guides(studio, scene, lcm_sigma(400))


@pytest.mark.models
def test_fancyvideo_is_refused_by_name(furnish: Furnish) -> None:
    studio = furnish("fancyvideo_sd15_mm")
    scene = studio.scene()
    scene.save("guided", scene.ksampler(scene.guided(scene.extracted())))
    result = studio.server.run(scene.graph, timeout=400)
    assert not result.ok and "is loaded with FancyVideo" in result.exception_message


@pytest.mark.models
@pytest.mark.parametrize("beta_schedule", ["lcm", "lcm[100_ots]"])
def test_animatelcm_is_guided_in_a_few_steps_of_lcm(furnish: Furnish, beta_schedule: str) -> None:
    studio = furnish("lcm_sd15_mm")
    scene = studio.scene()
    scene.moved_by(scene.applied(), beta_schedule=beta_schedule)
    rep, sigmas = scene.extracted(), scene.falling(SIGMA, SIGMA_NEXT)
    sampler = scene.graph.add("KSamplerSelect", sampler_name="lcm")
    plain = scene.custom(scene.model, sigmas, sampler=sampler, cfg=1.0)
    guided = scene.custom(scene.guided(rep, weight=WEIGHT), sigmas, sampler=sampler, cfg=1.0)
    few = {"steps": 6, "guided_steps": 4, "sampler_name": "lcm", "cfg": 1.5}
    run = scene.guided_ksampler(rep, **few)
    nodes = scene.save("plain", plain), scene.save("guided", guided), scene.save("few", run)
    literal = scene.gradient("gradient", rep, SIGMA)
    result = studio.run(scene)
    before, after, finite, gradient = studio.saved(result, *nodes, literal)
    # LCM starts its next step from `denoised` and noise, so all that moves `denoised` is in the latent.
    push = -WEIGHT * SIGMA * gradient * SIGMA * SIGMA_NEXT / (SIGMA - SIGMA_NEXT)
    assert relative_error((after - before) * SCALE, push) < 1e-3
    # The last guided step stands before a seam.
    assert np.isfinite(finite).all() and "guided steps: 3" in result.log


@pytest.mark.models
def test_more_steps_than_a_distilled_schedule_tells_apart_are_refused(furnish: Furnish) -> None:
    studio = furnish("lcm_sd15_mm")
    scene = studio.scene()
    scene.moved_by(scene.applied(), beta_schedule="lcm")
    scene.save("many", scene.guided_ksampler(scene.extracted(), steps=100, guided_steps=50))
    result = studio.server.run(scene.graph, timeout=400)
    assert not result.ok and "tells 50 levels apart, too few for 100 steps" in result.exception_message


# --- AnimateDiff-Evolved's nodes, on v3 --------------------------------------------------------------


def multival(scene: Scene, value: float, mask: Any = None) -> Node:
    given = {} if mask is None else {"mask_optional": mask}
    return scene.graph.add("ADE_MultivalDynamic", float_val=value, **given)


def clip_mask(scene: Scene) -> Node:
    """A mask of which every frame and position has its own value."""
    return scene.graph.add("ImageToMask", image=scene.clip, channel="red")


def _scales(scene: Scene) -> dict[str, Any]:
    return {"scale_multival": multival(scene, 1.7), "effect_multival": multival(scene, 0.6)}


def _masks(scene: Scene) -> dict[str, Any]:
    mask = clip_mask(scene)
    return {"scale_multival": multival(scene, 2.0, mask), "effect_multival": multival(scene, 1.0, mask)}


def _blocks(scene: Scene) -> dict[str, Any]:
    block = scene.graph.add("ADE_ADBlockCombo", effect=multival(scene, 0.5), scale=multival(scene, 1.8))
    return {"per_block": scene.graph.add("ADE_PerBlock_SD15_MidLevel", down_1=block, up_1=block)}


def _keyframes(scene: Scene, first: float = 1.6, then: float = 0.6) -> dict[str, Any]:
    """Another scale from the half of the schedule on, where the motion is read."""
    settings = {"inherit_missing": True, "guarantee_steps": 1}
    late = {"start_percent": 0.5, "scale_multival": multival(scene, then), **settings}
    early = {**late, "start_percent": 0.0, "scale_multival": multival(scene, first)}
    keyframes = scene.graph.add("ADE_AnimateDiffKeyframe", **early)
    return {"ad_keyframes": scene.graph.add("ADE_AnimateDiffKeyframe", prev_ad_keyframes=keyframes, **late)}


@pytest.mark.models
@pytest.mark.parametrize("apply", [_masks, _scales, _blocks, _keyframes], ids=lambda apply: apply.__name__.strip("_"))
def test_what_a_node_does_to_the_motion_module_is_read_and_guided(
    studio: Studio, apply: Callable[[Scene], dict[str, Any]]
) -> None:
    scene = studio.scene()
    scene.moved_by(scene.applied(**apply(scene)))
    assert_reads_and_guides(studio, scene)


@pytest.mark.parametrize("by", ["multival", "keyframe"])
def test_a_scale_sharpens_the_attention_that_is_read(studio: Studio, by: str) -> None:
    scene = studio.scene()
    unscaled, scale = scene.model, 1.7
    at_t_alpha = _keyframes(scene, 0.5, scale) if by == "keyframe" else {"scale_multival": multival(scene, scale)}
    scene.moved_by(scene.applied(**at_t_alpha))
    # What reaches the first layer depends on no scale: there q k^T is multiplied by it, and nothing else changes.
    first = {"k": scene.frames, "blocks": "down_blocks.0.motion.0.attention.0"}
    reps = scene.extracted(model=unscaled, **first), scene.extracted(**first)
    kept = [scene.graph.add("MotionCloneProbeAttention", name=f"rep {i}", motion_rep=r) for i, r in enumerate(reps)]
    plain, scaled = studio.saved(studio.run(scene), *kept)
    wanted = plain.astype(np.float64) ** scale
    wanted /= wanted.sum(-1, keepdims=True)
    assert np.allclose(scaled, wanted, atol=2e-3) and not np.allclose(plain, wanted, atol=2e-2)


@pytest.mark.models
def test_the_gen1_loader_is_guided_as_gen2_is(studio: Studio) -> None:
    scene = studio.scene()
    gen1 = scene.graph.add(
        "ADE_AnimateDiffLoaderGen1", model=scene.checkpoint, model_name=scene.models.motion_module.name,
        beta_schedule="autoselect",
    )  # fmt: skip
    models = {"gen1": gen1, "gen2": scene.model}
    runs = {n: scene.ksampler(scene.guided(scene.extracted(model=m), model=m)) for n, m in models.items()}
    free, one, two = studio.latents(scene, free=scene.ksampler(scene.model), **runs)
    assert np.array_equal(one, two) and not np.array_equal(free, one)


@pytest.mark.models
def test_sample_settings_are_guided(studio: Studio) -> None:
    """Noise of another kind, and a CFG of its own that the sampler's does not reach."""
    scene = studio.scene()
    cfg = scene.graph.add("ADE_CustomCFGSimple", cfg=5.0)
    settings = scene.graph.add(
        "ADE_AnimateDiffSamplingSettings", batch_offset=0, noise_type="FreeNoise", seed_gen="comfy", seed_offset=0,
        custom_cfg=cfg, adapt_denoise_steps=False,
    )  # fmt: skip
    scene.model = scene.animated(scene.checkpoint, sample_settings=settings)
    rep, sigmas = scene.extracted(), scene.falling(SIGMA, SIGMA_NEXT)
    guided = {f"guided {cfg}": scene.custom(scene.guided(rep, weight=WEIGHT), sigmas, cfg=cfg) for cfg in (1.0, 7.0)}
    plain = scene.custom(scene.model, sigmas)
    before, after, other = studio.latents(scene, plain=plain, **guided)
    assert np.array_equal(after, other) and np.abs(after - before).max() > 1e-3


# --- a motion module that is off ---------------------------------------------------------------------


def test_a_step_goes_unguided_where_the_motion_module_is_off(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    # The noise level of 70 % is 5.6: the first step alone is above it.
    scene.moved_by(scene.applied(end_percent=0.3))
    sigmas = scene.falling(SIGMA, 3.0, 1.5)
    # A gradient that steps share is not used there either.
    models = {n: scene.guided(rep, guided_steps=n, reuse=n) for n in (1, 2)}
    runs = {f"{n} steps": scene.custom(model, sigmas, cfg=1.0) for n, model in models.items()}
    saves = [scene.save(name, run) for name, run in runs.items()]
    result = studio.run(scene)
    one, two = studio.saved(result, *saves)
    assert np.array_equal(two, one)
    assert "guided steps: 1, left unguided, as the motion module was off: 1" in result.log
    assert "step 1 goes unguided: the motion module" in result.log


@pytest.mark.models
def test_guidance_begins_where_the_motion_module_does(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    scene.moved_by(scene.applied(start_percent=0.3))
    sigmas, second = scene.falling(SIGMA, 3.0, 1.5), {"start_step": 1, "guided_steps": 1}
    runs = {"all": scene.guided(rep, guided_steps=2), "second": scene.guided(rep, **second), "free": scene.model}
    every, two, free = studio.latents(scene, **{n: scene.custom(m, sigmas, cfg=1.0) for n, m in runs.items()})
    assert np.array_equal(every, two) and not np.array_equal(two, free)


@pytest.mark.models
@pytest.mark.parametrize("block", ["all", "up_1__0"])
def test_nothing_is_read_from_a_motion_module_that_is_off(studio: Studio, block: str) -> None:
    scene = studio.scene()
    off = multival(scene, 0.0)
    applied = {"effect_multival": off}
    if block != "all":
        part = scene.graph.add("ADE_ADBlockCombo", effect=off)
        applied = {"per_block": scene.graph.add("ADE_PerBlock_SD15_LowLevel", **{block: part})}
    rep, unedited = scene.extracted(), scene.model
    scene.moved_by(scene.applied(**applied))
    free, guided = studio.latents(
        scene, free=scene.ksampler(scene.model), guided=scene.ksampler(scene.guided(rep, model=scene.model))
    )
    assert np.array_equal(free, guided)
    scene.save("read", scene.ksampler(scene.guided(scene.extracted(), model=unedited)))
    result = studio.server.run(scene.graph, timeout=400)
    assert not result.ok
    where = "" if block == "all" else " in up_blocks.1.motion.0.attention.0, up_blocks.1.motion.0.attention.1"
    assert f"is off{where} at t_alpha" in result.exception_message
