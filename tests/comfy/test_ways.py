"""Every way in which ComfyUI keeps weights and computes: a guided step moves by the literal gradient.

Servers of their own, which take a minute each: these tests are run by `make test-ways`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import PROBE_PACK
from test_cost import assert_alike
from test_gradient import SIGMA, SIGMA_NEXT, relative_error
from test_usable import WIDE, Setting, assert_works_beside

from comfy_server import ComfyServer, Node
from find_comfyui import ComfyUI
from random_models import ModelFiles
from scenes import LORA, MOTION_LORA, SCALE, Scene, Studio, write_loras

pytestmark = pytest.mark.ways
# Half-precision attention is too slow on a CPU to be one of them.
WAYS = {
    "fp32": ["--force-fp32"],
    "fp16 weights": ["--fp16-unet"],
    "fp8 weights": ["--fp8_e4m3fn-unet"],
    "channels last": ["--force-channels-last"],
    "split attention": ["--use-split-cross-attention"],
    "sub-quadratic attention": ["--use-quad-cross-attention"],
    "PyTorch's attention": ["--use-pytorch-cross-attention"],
}
WEIGHT = 2000.0


@contextmanager
def started(comfyui: ComfyUI, models: ModelFiles, *arguments: str, loras: Path | None = None) -> Iterator[Studio]:
    """A studio on a server of its own."""
    linked = {"checkpoints": [models.checkpoint], "animatediff_models": [models.motion_module]}
    linked |= write_loras(loras) if loras else {}
    extra = ["--cache-classic", *arguments]
    with ComfyServer(comfyui, models=linked, packs=[PROBE_PACK], extra_args=extra) as server:
        yield Studio(server, models)


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, comfyui: ComfyUI, models: ModelFiles) -> Iterator[Studio]:
    with started(comfyui, models, *WAYS[request.param]) as studio:
        yield studio


@pytest.fixture(scope="module")
def usual(comfyui: ComfyUI, models: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with started(comfyui, models, loras=tmp_path_factory.mktemp("loras")) as studio:
        yield studio


def literal_push(gradient: np.ndarray) -> np.ndarray:
    """What one guided step from SIGMA to SIGMA_NEXT adds, of a gradient by x."""
    return -SIGMA_NEXT * WEIGHT * SIGMA * gradient


def test_a_guided_step_moves_by_the_literal_gradient(way: Studio) -> None:
    scene = way.scene()
    rep, sigmas = scene.extracted(), scene.falling(SIGMA, SIGMA_NEXT)
    plain = scene.custom(scene.model, sigmas)
    tight = scene.graph.add("MotionCloneProbeMemory", model=scene.model, kind="short", layer=1)
    guided = {
        memory: scene.custom(scene.guided(rep, model=model, weight=WEIGHT, memory=memory), sigmas)
        for memory, model in (("speed", scene.model), ("memory", tight))
    }
    literal = scene.gradient("gradient", rep, SIGMA)
    saves = [scene.save(name, node) for name, node in {"plain": plain, **guided}.items()]
    before, speed, memory, gradient = way.saved(way.run(scene), *saves, literal)
    assert np.array_equal(speed, memory)
    assert relative_error((speed - before) * SCALE, literal_push(gradient)) < 1e-3


def with_loras(scene: Scene) -> Node:
    """The model under a LoRA and a motion LoRA."""
    strength = {"strength_model": 1.0, "lora_name": LORA}
    network = scene.graph.add("LoraLoaderModelOnly", model=scene.checkpoint, **strength)
    lora = scene.graph.add("ADE_AnimateDiffLoRALoader", name=MOTION_LORA, strength=1.0)
    motion = scene.graph.add("ADE_ApplyAnimateDiffModelSimple", motion_model=scene.module, motion_lora=lora)
    return scene.animated(network, m_models=motion)


def test_loras_guide_alike_whether_they_are_merged_or_added_as_weights_are_used(usual: Studio) -> None:
    scene = usual.scene()
    merged, sigmas = with_loras(scene), scene.falling(SIGMA, SIGMA_NEXT)
    rep = scene.extracted(model=merged)
    apart = scene.graph.add("MotionCloneProbeOffload", model=merged)
    runs = {"plain": scene.custom(merged, sigmas)}
    for name, model in (("merged", merged), ("apart", apart)):
        for memory in ("speed", "memory"):
            guided = scene.guided(rep, model=model, weight=WEIGHT, memory=memory)
            runs[f"{name}_{memory}"] = scene.custom(guided, sigmas)
    literal = scene.gradient("gradient", rep, SIGMA, model=merged)
    saves = [scene.save(name, node) for name, node in runs.items()]
    result = usual.run(scene)
    plain, *guided, gradient = usual.saved(result, *saves, literal)
    kept_apart = {int(count) for count in re.findall(r"probe keeps LoRAs of (\d+) layers apart", result.log)}
    assert kept_apart == {3 + 3 * 2 * 4}
    for latent in guided:
        assert relative_error((latent - plain) * SCALE, literal_push(gradient)) < 1e-3


def test_a_compiled_model_is_guided_as_it_was_written(usual: Studio) -> None:
    scene = usual.scene()
    sigmas = scene.falling(SIGMA, SIGMA_NEXT, 1.0)
    compiled = scene.graph.add("MotionCloneProbeCompile", model=scene.model)
    rep = scene.extracted(model=compiled)
    runs = {"as_written": scene.guided(scene.extracted(), weight=WEIGHT)}
    runs |= {m: scene.guided(rep, model=compiled, weight=WEIGHT, memory=m) for m in ("speed", "memory")}
    saves = [scene.save(name, scene.custom(model, sigmas)) for name, model in runs.items()]
    result = usual.run(scene)
    as_written, speed, memory = usual.saved(result, *saves)
    assert "probe compiled" in result.log
    assert relative_error(speed, as_written) < 1e-5 and np.array_equal(speed, memory)


def test_quantised_weights_are_multiplied_by_in_full_precision_where_gradients_are_taken(usual: Studio) -> None:
    scene = usual.scene()
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    exact, quantised = (scene.graph.add("MotionCloneProbeQuantised", model=scene.model, full=f) for f in (True, False))
    rep = scene.extracted(model=exact)
    models = {"free_exact": exact, "free": quantised, "exact": scene.guided(rep, model=exact, weight=WEIGHT)}
    models |= {m: scene.guided(rep, model=quantised, weight=WEIGHT, memory=m) for m in ("speed", "memory")}
    runs = {name: scene.custom(model, sigmas, cfg=1.0) for name, model in models.items()}
    free_exact, free, exact_, speed, memory = usual.latents(scene, **runs)
    assert not np.array_equal(free, free_exact), "the weights must be multiplied by as they are without guidance"
    assert np.array_equal(speed, exact_) and np.array_equal(memory, exact_)
    assert not np.array_equal(speed, free)


@pytest.mark.parametrize("setting", WIDE, ids=lambda setting: setting.__name__.strip("_"))
def test_guidance_works_beside_in_a_wider_picture(usual: Studio, setting: Callable[[Scene], Setting]) -> None:
    assert_works_beside(usual, setting)


@pytest.mark.parametrize("name", ["control", "lora", "free_u", "hyper_tile"])
def test_saving_memory_changes_nothing_beside_other_nodes(usual: Studio, name: str) -> None:
    assert_alike(usual, name, width=64 if name == "lora" else 128)


def test_half_precision_guides_as_float32_does(comfyui: ComfyUI, models: ModelFiles) -> None:
    latents = []
    for precision in ("--force-fp32", "--force-fp16"):
        with started(comfyui, models, precision) as studio:
            scene = studio.scene(frames=8)
            sigmas = scene.falling(14.0, 9.0, 6.0, 4.0)
            guided = scene.guided(scene.extracted(), weight=WEIGHT, guided_steps=2)
            runs = {name: scene.custom(model, sigmas) for name, model in (("free", scene.model), ("guided", guided))}
            latents.append(studio.latents(scene, **runs))
    (free, guided), (half_free, half_guided) = latents
    assert relative_error(half_guided, guided) < 0.02
    assert relative_error(half_guided - half_free, guided - free) < 0.05
    assert relative_error(guided, free) > 0.1
