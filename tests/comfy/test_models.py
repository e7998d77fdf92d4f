"""Motion models other than AnimateDiff v3, and what AnimateDiff-Evolved's nodes do to one, against the literal gradient.

Each model is of random weights of its own shapes. They take a while to make and to load: these tests are run by
`make test-models`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from test_gradient import SIGMA, SIGMA_NEXT, relative_error
from test_leftovers import assert_clean

from comfy_server import ComfyServer
from find_comfyui import ComfyUI
from random_models import SDXL_UNET, ModelFiles, ensure_other, model_file
from scenes import BETAS_ADXL, BETAS_SD, SCALE, Array, Scene, Studio, only, sigma_of

WEIGHT = 2000.0
SCALE_XL = 0.13025  # of SDXL's latents

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
    inputs = {"motion_model": scene.module, "image": picture, "vae": scene.checkpoint[2]}
    range_ = {"start_percent": 0.0, "end_percent": 1.0}
    scene.moved_by(add("ADE_ApplyAnimateDiffModelWithPIA", **inputs, **range_))
    assert_reads_and_guides(studio, scene)
