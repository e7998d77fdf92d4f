"""CogVideoX and Wan, of small shapes: attention, energy and gradient against a route of their own, and what nodes do.

See probe_pack/transformers.py for that route.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from comfy_server import ComfyServer, Node, Result
from find_comfyui import ComfyUI
from random_models import CLIP_L, VACE, WAN, WAN_I2V, WAN_I2V_CLIP, ensure_other, has_cogvideox
from scenes import Array, only
from transformer_scenes import (
    FLOW,
    FRAMES,
    LATENT_FRAMES,
    ORDINARY,
    PICTURED,
    TWO_AT_ONCE,
    WIDE,
    Space,
    TransformerScene,
)

SPACES = [pytest.param(FLOW, id="wan"), pytest.param(ORDINARY, id="cogvideox")]
EVERY_SPACE = [
    *SPACES,
    pytest.param(TWO_AT_ONCE, id="cogvideox 1.5", marks=pytest.mark.more),
    pytest.param(PICTURED, id="cogvideox of pictures", marks=pytest.mark.more),
    pytest.param(WIDE, id="wan 5b", marks=pytest.mark.more),
]
PLACES, HEADS = 20, 2
LORA = "transformer_lora.safetensors"


def sigma_400(space: Space) -> float:
    """The noise level of timestep 400: a flow's in thousandths, CogVideoX's of betas without a signal at the end."""
    if space.mixing == "flow":
        return 0.4
    kept = np.sqrt(np.cumprod(1.0 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
    kept = (kept - kept[-1]) * kept[0] / (kept[0] - kept[-1])
    return float(np.sqrt(1 - kept[400] ** 2) / kept[400])


class Stage:
    """Runs scenes on a server and reads what they saved."""

    def __init__(self, server: ComfyServer, small: Mapping[str, Path], clip: Path) -> None:
        self.server, self._small, self._clip = server, small, clip
        self._nonce = 0

    def scene(self, space: Space = FLOW, *, fresh: bool = False, **changes: Any) -> TransformerScene:
        """A scene; a fresh one is sampled whether or not ComfyUI has it in its cache."""
        if space.file not in self._small:
            pytest.skip("this ComfyUI has no CogVideoX")
        self._nonce += fresh
        nonce = self._nonce if fresh else 0
        return TransformerScene(self._small, self._clip, space, nonce=nonce, **changes)

    def run(self, scene: TransformerScene) -> Result:
        """Runs a scene that must succeed."""
        result = self.server.run(scene.graph, timeout=120)
        assert result.ok, f"{result.node_type}: {result.exception_message} {result.node_errors}\n{result.log}"
        return result

    def saved(self, result: Result, *nodes: Node) -> list[Array]:
        files = (result.output(node)["files"][0] for node in nodes)
        return [safetensors.numpy.load(self.server.view(file))["value"] for file in files]

    def latents(self, scene: TransformerScene, **outputs: Any) -> list[Array]:
        """Runs a scene and returns latents in the order they are named."""
        nodes = [scene.save(name, latent) for name, latent in outputs.items()]
        return self.saved(self.run(scene), *nodes)

    def refused(self, scene: TransformerScene) -> str:
        """What a scene is refused with, by an error of ours."""
        result = self.server.run(scene.graph, timeout=120)
        assert result.status == "error", result.status
        kind = result.exception_type.rpartition(".")[2]
        assert kind in {"ValueError", "UnsupportedModelError", "RepresentationMismatchError", "UnknownTapError"}, (
            result.log
        )
        return result.exception_message


@pytest.fixture(scope="module")
def stage(
    server: ComfyServer, small: dict[str, Path], comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory
) -> Stage:
    server.link("loras", _written_lora(tmp_path_factory.mktemp("loras") / LORA))
    return Stage(server, small, ensure_other(comfyui, CLIP_L))


def _written_lora(path: Path) -> Path:
    """On queries and feed-forward layers of the small Wan, in the names of its own state dict."""
    generator = torch.Generator().manual_seed(31)
    tensors = {}
    for name in ("blocks.0.self_attn.q", "blocks.1.self_attn.k", "blocks.2.ffn.0"):
        for part, shape in (("lora_A", (4, 256)), ("lora_B", (256, 4))):
            weights = torch.randn(shape, generator=generator) * 0.1
            tensors[f"diffusion_model.{name}.{part}.weight"] = weights
    safetensors.torch.save_file(tensors, path)
    return path


def relative_error(got: Array, wanted: Array) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


# --- the method -------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", EVERY_SPACE)
@pytest.mark.parametrize("size", [(80, 64), pytest.param((72, 88), id="padded")])
def test_what_is_read_is_the_attention_over_frames(stage: Stage, space: Space, size: tuple[int, int]) -> None:
    scene = stage.scene(space, width=size[0], height=size[1])
    frames = LATENT_FRAMES // 2 if space == TWO_AT_ONCE else LATENT_FRAMES
    rep = scene.extracted(k=frames, blocks="blocks.2", t_alpha=400)
    shown = scene.graph.add("MotionCloneProbeAttention", name="read", motion_rep=rep)
    sigma = sigma_400(space)
    given = {"conditioning": scene.negative, "latent": scene.encoded, "noise_seed": 3, "sigma": sigma}
    own = scene.probe("Attention", name="own", tap="blocks.2.attention", **given)
    read, wanted = stage.saved(stage.run(scene), shown, own)
    places = -(-size[0] // 16) * -(-size[1] // 16)
    assert read.shape == (places, HEADS, frames, frames)
    assert np.abs(read - wanted).max() < 2e-3, np.abs(read - wanted).max()
    assert wanted.std() > 0.02, "attention that is the same everywhere would say nothing"


@pytest.mark.parametrize("space", SPACES)
def test_a_reference_has_no_energy_against_itself(stage: Stage, space: Space) -> None:
    scene = stage.scene(space)
    rep = scene.extracted(seed=3)
    sigma = sigma_400(space)
    given = {"motion_rep": rep, "conditioning": scene.negative, "latent": scene.encoded, "sigma": sigma}
    own, other = (scene.probe("Energy", noise_seed=seed, **given) for seed in (3, 4))
    result = stage.run(scene)
    # What is kept is float16: a rounding error of 2^-12 at most, in each of two layers.
    assert only(result, own, "energy") < 2 * 2.0**-24
    assert only(result, other, "energy") > 1e-4


@pytest.mark.parametrize("space", EVERY_SPACE)
@pytest.mark.parametrize("rule", ["published", "paper"])
def test_a_guided_step_moves_by_the_literal_gradient(stage: Stage, space: Space, rule: str) -> None:
    # Of two latent frames at once these are 3: the last is padded.
    scene = stage.scene(space, frames=17 if space == TWO_AT_ONCE else FRAMES)
    rep = scene.extracted()
    # METHOD: the next latent moves by -sigma_next * weight * w * sigma * gradient, by the paper's rule by
    # -(sigma - sigma_next) * weight * sigma * gradient; in either space, for both keep sigma_next / sigma of the noise.
    changes = {"warm_up": 2, "weight": 1000.0} if rule == "published" else {"weight": 500.0}
    span = space.sigma_next if rule == "published" else space.sigma - space.sigma_next
    plain = scene.one_step(scene.model)
    guided = scene.one_step(scene.guided(rep, update_rule=rule, **changes))
    literal = scene.probe("Gradient", name="gradient", motion_rep=rep)
    nodes = scene.save("plain", plain), scene.save("guided", guided), literal
    before, after, gradient = stage.saved(stage.run(scene), *nodes)
    # A flow that is left half way is divided by 1 - sigma when it is handed on.
    left = 1 - space.sigma_next if space.mixing == "flow" else 1.0
    assert np.abs(gradient).max() > 0
    assert relative_error((after - before) * left, -span * 500.0 * space.sigma * gradient) < 1e-3


def test_a_step_of_void_s_sampler_moves_by_the_literal_gradient(stage: Stage) -> None:
    scene = stage.scene(ORDINARY)
    rep = scene.extracted()
    sampler = scene.graph.add("VOIDSampler")
    plain = scene.one_step(scene.raw, sampler=sampler)
    guided = scene.one_step(scene.guided(rep, model=scene.raw), sampler=sampler)
    # That sampler begins with noise of variance 1, whatever the latent.
    literal = scene.probe("Gradient", name="gradient", motion_rep=rep, model=scene.raw, mixing="noise")
    nodes = scene.save("plain", plain), scene.save("guided", guided), literal
    before, after, gradient = stage.saved(stage.run(scene), *nodes)
    # Of z the step is sqrt(1 - abar') * weight * sqrt(1 - abar) * gradient by z.
    noise, noise_next = (s / np.sqrt(1 + s * s) for s in (ORDINARY.sigma, ORDINARY.sigma_next))
    assert relative_error(after - before, -noise_next * 500.0 * noise * gradient) < 1e-3


@pytest.mark.parametrize("space", SPACES)
def test_a_shared_gradient_is_that_of_the_step_that_took_it(stage: Stage, space: Space) -> None:
    scene = stage.scene(space)
    rep, begin, middle = scene.extracted(), space.sigma, space.sigma_next
    end = 0.5 * middle
    given = {"sigmas": scene.falling(begin, middle, end), "cfg": 1.0}
    one, two = (
        scene.one_step(scene.guided(rep, guided_steps=steps, reuse=2), **given) for steps in (1, 2)
    )
    literal = scene.probe("Gradient", name="gradient", motion_rep=rep)
    nodes = scene.save("one", one), scene.save("two", two), literal
    once, twice, gradient = stage.saved(stage.run(scene), *nodes)

    def deviation(sigma: float) -> float:
        """Of what the sampler holds, if latent and noise have 1: the gradient by what has 1 itself is shared."""
        return float(np.hypot(1 - sigma if space.mixing == "flow" else 1.0, sigma))

    left = 1 - end if space.mixing == "flow" else 1.0
    shared = gradient * deviation(begin) / deviation(middle)
    assert relative_error((twice - once) * left, -end * 500.0 * middle * shared) < 1e-3


# --- runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_weight_0_is_off_and_the_same_prompt_gives_the_same_again(stage: Stage, space: Space) -> None:
    drawn = []
    for _ in range(2):
        scene = stage.scene(space, fresh=True)
        rep = scene.extracted()
        models = {"none": scene.model, "off": scene.guided(rep, weight=0.0), "guided": scene.guided(rep)}
        drawn.append(stage.latents(scene, **{name: scene.ksampler(model) for name, model in models.items()}))
    (none, off, guided), again = drawn
    assert np.array_equal(none, off)
    assert relative_error(guided, none) > 1e-3
    assert all(np.array_equal(one, other) for one, other in zip(drawn[0], again, strict=True))


@pytest.mark.parametrize("space", SPACES)
def test_memory_is_speed(stage: Stage, space: Space) -> None:
    scene = stage.scene(space)
    rep = scene.extracted()
    settings = ("speed", "memory", "auto")
    drawn = {memory: scene.ksampler(scene.guided(rep, memory=memory, weight=2000.0)) for memory in settings}
    speed, memory, auto = stage.latents(scene, **drawn)
    assert np.array_equal(speed, memory)
    assert np.array_equal(speed, auto)


@pytest.mark.parametrize("space", SPACES)
def test_two_videos_are_guided_as_each_alone(stage: Stage, space: Space) -> None:
    scene = stage.scene(space)
    model = scene.guided(scene.extracted())
    ends = [scene.encode(scene.drawn(seed)) for seed in (7, 8)]
    both = scene.graph.add("LatentBatch", samples1=ends[0], samples2=ends[1])
    # No noise is added: that of a batch is drawn in one go.
    drawn = {
        name: scene.one_step(m, latent_image=latent, add_noise=False)
        for m, kind in ((model, "guided"), (scene.model, "plain"))
        for name, latent in ((f"{kind} a", ends[0]), (f"{kind} b", ends[1]), (f"{kind} both", both))
    }
    a, b, together, plain_a, plain_b, plain = stage.latents(scene, **drawn)
    pushes = [guided - free for guided, free in ((a, plain_a), (b, plain_b), (together, plain))]
    assert relative_error(pushes[0], pushes[1]) > 0.01, "the two must differ for this test to say anything"
    assert relative_error(pushes[2], np.concatenate(pushes[:2])) < 1e-3


@pytest.mark.parametrize("space", SPACES)
def test_nothing_is_left_of_a_guided_run(stage: Stage, space: Space) -> None:
    scene = stage.scene(space, fresh=True)
    before = scene.state(scene.ksampler(scene.model, steps=1))
    found = only(stage.run(scene), before, "state")
    scene = stage.scene(space, fresh=True)
    after = scene.state(scene.ksampler(scene.guided(scene.extracted(), memory="memory")), whole=True)
    left = only(stage.run(scene), after, "state")
    assert {key: left[key] for key in found} == found
    assert_clean(left)


@pytest.mark.parametrize("call", [2, pytest.param(9, marks=pytest.mark.more)])
def test_nothing_is_left_of_a_run_that_failed(stage: Stage, call: int) -> None:
    """In its first attention, before the taps; in the pass without a condition."""
    scene = stage.scene(fresh=True)
    settings = {"model": scene.model, "call": call, "nonce": scene.nonce}
    broken = scene.graph.add("MotionCloneProbeTransformerTrouble", **settings)
    scene.save("never", scene.ksampler(scene.guided(scene.extracted(), model=broken)))
    result = stage.server.run(scene.graph)
    assert (result.status, result.node_type) == ("error", "KSampler")
    assert "the probe's own trouble" in result.exception_message
    scene = stage.scene(fresh=True)
    after = scene.state(scene.ksampler(scene.model, steps=1), whole=True)
    assert_clean(only(stage.run(scene), after, "state"))


def assert_clean(state: dict[str, Any]) -> None:
    assert [key for key in state["wrapper_keys"] if "motionclone" in key.lower()] == []
    assert state["transformer_options"] == [] and state["hooked"] == 0 and state["function_modes"] == 0
    assert (state["tensors_with_graph"], state["tensors_requiring_grad"]) == (0, 0)
    assert not {"_Run", "_Step", "EnergyGradient", "WindowReader"}.intersection(state["objects_of_ours"])
    assert (state["inference_mode"], state["grad_mode"]) == (True, False)


def test_guided_ksampler_samples_cogvideox_as_ksampler_does_behind_model_sampling(stage: Stage) -> None:
    scene = stage.scene(ORDINARY)
    rep = scene.extracted()
    drawn = {"one": scene.guided_ksampler(scene.extracted(model=scene.raw)), "two": scene.ksampler(scene.guided(rep))}
    one, two = stage.latents(scene, **drawn)
    assert np.array_equal(one, two)


def test_a_model_that_was_read_can_be_unloaded_once_the_reading_is_collected(stage: Stage) -> None:
    scene = stage.scene(ORDINARY, fresh=True)
    rep = scene.extracted(model=scene.raw)
    scene.graph.add("MotionCloneProbeRep", motion_rep=rep)
    stage.run(scene)
    # The probe collects garbage.
    scene.state(scene.latent, whole=True)
    stage.run(scene)
    scene.save("guided", scene.guided_ksampler(rep))
    assert "memory leak" not in stage.run(scene).log


def test_levels_that_lie_close_together_are_steps_of_their_own(stage: Stage) -> None:
    scene = stage.scene(fresh=True)
    model = scene.graph.add("ModelSamplingSD3", model=scene.raw, shift=100.0)
    settings = {"steps": 30, "guided_steps": 20, "scheduler": "motionclone", "ratio": 0.3}
    scene.save("close", scene.guided_ksampler(scene.extracted(model=model), model=model, **settings))
    assert "guided steps: 20," in stage.run(scene).log


@pytest.mark.parametrize("space", SPACES)
def test_guided_ksampler_takes_the_motionclone_scheduler(stage: Stage, space: Space) -> None:
    scene = stage.scene(space)
    steps = {"steps": 4, "guided_steps": 3}
    rep = scene.extracted()
    one = scene.guided_ksampler(rep, scheduler="motionclone", **steps)
    sigmas = scene.graph.add("MotionCloneScheduler", model=scene.model, ratio=0.3, **steps)
    two = scene.one_step(scene.guided(rep, guided_steps=3), sigmas=sigmas)
    shown = scene.save("one", one), scene.save("two", two)
    result = stage.run(scene)
    assert np.array_equal(*stage.saved(result, *shown))
    assert result.log.count("motion guidance: guided steps: 3") == 2


@pytest.mark.parametrize("space", SPACES)
def test_a_guided_step_comes_nearer_to_the_motion(stage: Stage, space: Space) -> None:
    """By the energy that it descends, measured where the step ends, close to where it begins."""
    scene = stage.scene(space)
    rep, sigma = scene.extracted(), 0.999 * space.sigma
    model = scene.guided(rep, update_rule="normalised", weight=1000.0)
    short = {"sigmas": scene.falling(space.sigma, sigma), "cfg": 1.0}
    given = {"motion_rep": rep, "sigma": sigma, "noise_seed": -1}
    plain, guided = (
        scene.probe("Energy", latent=scene.one_step(either, **short), **given) for either in (scene.model, model)
    )
    result = stage.run(scene)
    assert only(result, guided, "energy") < 0.95 * only(result, plain, "energy")


def test_it_says_what_it_recognised(stage: Stage) -> None:
    scene = stage.scene(fresh=True)
    blocks = scene.extracted(blocks="auto", seed=100 + scene.nonce)
    rep = scene.graph.add("MotionCloneProbeRep", motion_rep=blocks)
    result = stage.run(scene)
    content = only(result, rep, "rep")
    assert "Wan 2.1 / 2.2, 4 blocks" in result.log
    assert content["taps"] == ["blocks.2.attention"]
    assert content["shape"] == [PLACES, HEADS, LATENT_FRAMES, 2]
    assert content["provenance"]["architecture"] == "wan/256"
    assert content["provenance"]["group"] == 4


# --- pictures to videos -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", [WAN_I2V, pytest.param(WAN_I2V_CLIP, marks=pytest.mark.more)])
def test_a_video_from_a_picture_is_guided(stage: Stage, file: str) -> None:
    scene = stage.scene(replace(FLOW, file=file))
    texts = {"positive": scene.positive, "negative": scene.negative}
    size = {"width": scene.width, "height": scene.height, "length": scene.frames, "batch_size": 1}
    picture = scene.graph.add("ImageFromBatch", image=scene.drawn(9), batch_index=0, length=1)
    first = scene.graph.add("ImageFromBatch", image=scene.clip, batch_index=0, length=1)
    read = scene.graph.add("WanImageToVideo", start_image=first, vae=scene.vae, **texts, **size)
    begun = scene.graph.add("WanImageToVideo", start_image=picture, vae=scene.vae, **texts, **size)
    rep = scene.extracted(conditioning=read[1])
    given = {"positive": begun[0], "negative": begun[1], "latent_image": begun[2]}
    plain, guided = scene.one_step(scene.model, **given), scene.one_step(scene.guided(rep), **given)
    literal = scene.probe("Gradient", name="gradient", motion_rep=rep, conditioning=begun[0])
    nodes = scene.save("plain", plain), scene.save("guided", guided), literal
    before, after, gradient = stage.saved(stage.run(scene), *nodes)
    push = -FLOW.sigma_next * 500.0 * FLOW.sigma * gradient / (1 - FLOW.sigma_next)
    assert relative_error(after - before, push) < 1e-3


# --- what else there is to do with a motion ---------------------------------------------------------


def _masks(scene: TransformerScene, frames: int) -> Node:
    half = scene.graph.add("SolidMask", value=1.0, width=40, height=64)
    nothing = scene.graph.add("SolidMask", value=0.0, width=80, height=64)
    put = {"destination": nothing, "source": half, "x": 0, "y": 0, "operation": "add"}
    left = scene.graph.add("MaskComposite", **put)
    return scene.graph.add("MotionCloneProbeMasks", mask=left, frames=frames)


@pytest.mark.parametrize("frames", [FRAMES, LATENT_FRAMES, 1])
def test_a_mask_for_each_frame_guides_its_half(stage: Stage, frames: int) -> None:
    scene = stage.scene()
    rep = scene.extracted()
    masked = scene.graph.add(
        "MotionCloneMaskMotion", motion_rep=rep, mask=_masks(scene, frames), invert=False, feather=0.0
    )
    again = scene.graph.add(
        "MotionCloneMaskMotion", motion_rep=rep, mask=_masks(scene, 1), invert=False, feather=0.0
    )
    drawn = {"one": scene.one_step(scene.guided(masked)), "two": scene.one_step(scene.guided(again))}
    one, two, whole = stage.latents(scene, **drawn, whole=scene.one_step(scene.guided(rep)))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, whole)


def test_every_edit_takes_it(stage: Stage) -> None:
    scene = stage.scene()
    add, rep = scene.graph.add, scene.extracted()
    settings = {"frames": 21, "speed": 1.0, "offset": 0.0, "reverse": True, "repeat": "ping-pong"}
    longer = add("MotionCloneRetimeMotion", motion_rep=rep, **settings)
    placed = add("MotionClonePlaceMotion", motion_rep=longer, x=0.1, y=0.0, scale=0.8)
    other = scene.extracted(latent=scene.encode(scene.drawn(4)))
    retimed = add("MotionCloneRetimeMotion", motion_rep=other, **{**settings, "reverse": False})
    both = {"motion_1": placed, "motion_2": retimed, "strength_1": 1.0, "strength_2": 0.5}
    mixed = add("MotionCloneCombineMotions", **both)
    settings = {"taps": "*", "arrows": True, "opacity": 0.85, "fps": 8.0}
    preview = add("MotionClonePreviewMotion", motion_rep=mixed, **settings)
    add("PreviewImage", images=preview)
    latent = scene.empty(frames=21)
    drawn = {"guided": scene.one_step(scene.guided(mixed), latent_image=latent)}
    drawn["plain"] = scene.one_step(scene.model, latent_image=latent)
    guided, plain = stage.latents(scene, **drawn)
    assert guided.shape == (1, 16, 6, 8, 10)
    assert relative_error(guided, plain) > 1e-4


def test_a_preview_is_over_the_video_s_own_frames(stage: Stage) -> None:
    scene = stage.scene()
    settings = {"taps": "*", "arrows": False, "opacity": 0.0, "fps": 8.0}
    shown = scene.graph.add(
        "MotionClonePreviewMotion", motion_rep=scene.extracted(), images=scene.clip, **settings
    )
    nodes = [
        scene.graph.add("MotionCloneProbeSave", name=name, image=image)
        for name, image in (("shown", shown[0]), ("clip", scene.clip))
    ]
    pictures, clip = stage.saved(stage.run(scene), *nodes)
    # The first latent frame is the first frame; of each four that follow one is shown.
    assert pictures.shape == (LATENT_FRAMES, 64, 80, 3)
    grey = [np.abs(pictures[i].mean() - clip[j].mean()) for i, j in ((0, 0), (1, 2), (2, 6), (3, 10))]
    assert max(grey) < 0.5


def test_a_saved_motion_guides_as_the_motion_itself(stage: Stage) -> None:
    scene = stage.scene(fresh=True)
    rep = scene.extracted()
    name = {"filename_prefix": "transformer", "folder": "output"}
    saved = scene.graph.add("MotionCloneSaveMotionRep", motion_rep=rep, **name)
    node = scene.save("itself", scene.one_step(scene.guided(rep)))
    result = stage.run(scene)
    file = result.output(saved)["text"][0].split(":")[0]
    scene = stage.scene()
    loaded = scene.graph.add("MotionCloneLoadMotionRep", file=file)
    shown = scene.graph.add("MotionCloneProbeRep", motion_rep=loaded)
    again = scene.save("again", scene.one_step(scene.guided(loaded)))
    second = stage.run(scene)
    assert np.array_equal(*stage.saved(result, node), *stage.saved(second, again))
    assert only(second, shown, "rep")["provenance"]["group"] == 4


def test_a_lora_counts_in_reading_and_in_guiding(stage: Stage) -> None:
    scene = stage.scene()
    model = scene.graph.add("LoraLoaderModelOnly", model=scene.model, lora_name=LORA, strength_model=1.0)
    rep = scene.extracted(model=model)
    plain, guided = scene.one_step(model), scene.one_step(scene.guided(rep, model=model))
    literal = scene.probe("Gradient", name="gradient", motion_rep=rep, model=model)
    without = scene.probe("Gradient", name="without", motion_rep=rep)
    nodes = scene.save("plain", plain), scene.save("guided", guided), literal, without
    result = stage.run(scene)
    assert "made with other weights" not in result.log
    before, after, gradient, other = stage.saved(result, *nodes)
    push = -FLOW.sigma_next * 500.0 * FLOW.sigma * gradient / (1 - FLOW.sigma_next)
    assert relative_error(other, gradient) > 0.01, "the LoRA must count for this test to say anything"
    assert relative_error(after - before, push) < 1e-3


# --- bad input --------------------------------------------------------------------------------------


def _read(scene: TransformerScene, **changes: Any) -> None:
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(**changes))


def _latent_of_ltx(scene: TransformerScene) -> Node:
    return scene.graph.add("EmptyLTXVLatentVideo", width=96, height=64, length=9, batch_size=1)


def _foreign(scene: TransformerScene) -> None:
    rep = scene.graph.add("MotionCloneProbeForeignRep", motion_rep=scene.extracted(), other="architecture")
    scene.save("never", scene.ksampler(scene.guided(rep)))


def _windows(scene: TransformerScene) -> Node:
    settings = {"context_length": 9, "context_overlap": 4, "context_schedule": "standard_static"}
    settings |= {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid"}
    settings |= {"freenoise": False, "retain_first_frame": False, "split_conds_to_windows": False}
    return scene.graph.add("WanContextWindowsManual", model=scene.model, **settings)


def _cached(scene: TransformerScene, kind: str) -> None:
    settings = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    guided = scene.guided(scene.extracted(), guided_steps=2)
    scene.save("never", scene.ksampler(scene.graph.add(kind, model=guided, **settings), steps=4))


def _semantic(scene: TransformerScene) -> None:
    add = scene.graph.add
    words = add("MotionCloneWords", clip=scene.clip_l, text="a boat on the sea", words="boat")
    settings = {"weights": "up_blocks.1: 200", "alone": 0.0, "sigma": 5.0}
    settings |= {"reference_threshold": 0.3, "appearance_threshold": 0.3}
    semantics = add("MotionCloneSemanticGuidance", words=words[1], **settings)
    scene.save("never", scene.ksampler(scene.guided(scene.extracted(), semantics=semantics)))


BAD: dict[str, tuple[Callable[[TransformerScene], Any], list[str]]] = {
    "another transformer": (
        lambda scene: _read(scene, model=scene.loaded(VACE)),
        ["VaceWanModel", "WAN21_Vace", "CogVideoX", "Wan 2.1 / 2.2", "AnimateDiff"],
    ),
    "guiding another transformer": (
        lambda scene: scene.save("never", scene.ksampler(scene.guided(scene.extracted(), model=scene.loaded(VACE)))),
        ["VaceWanModel", "Wan 2.1 / 2.2"],
    ),
    "a block out of range": (
        lambda scene: _read(scene, blocks="blocks.4"),
        ["'blocks.4'", "blocks.0 to blocks.3"],
    ),
    "a block of AnimateDiff": (
        lambda scene: _read(scene, blocks="up_blocks.1"),
        ["'up_blocks.1'", "blocks.0 to blocks.3"],
    ),
    "a motion of AnimateDiff": (_foreign, ["animatediff/SDXL", "wan/256", "extract it again"]),
    "reading in context windows": (
        lambda scene: _read(scene, model=_windows(scene)),
        ["Wan 2.1 / 2.2 in context windows", "Context Windows node"],
    ),
    "guiding in context windows": (
        lambda scene: scene.save("never", scene.ksampler(scene.guided(scene.extracted(), model=_windows(scene)))),
        ["Wan 2.1 / 2.2 in context windows"],
    ),
    "another number of frames": (
        lambda scene: scene.save(
            "never", scene.ksampler(scene.guided(scene.extracted()), latent_image=scene.empty(frames=21))
        ),
        ["4 latent frames", "to sample has 6", "13 and 21 of the video", "Retime Motion"],
    ),
    "an inversion": (
        lambda scene: _read(scene, inversion=scene.graph.add("MotionCloneProbeInversion")),
        ["DDIM inversion is for AnimateDiff", "Wan 2.1 / 2.2, 4 blocks"],
    ),
    "EasyCache": (lambda scene: _cached(scene, "EasyCache"), ["EasyCache leaves out steps from sigma", "0.15"]),
    "LazyCache": (lambda scene: _cached(scene, "LazyCache"), ["LazyCache leaves out steps from sigma", "0.15"]),
    "semantic guidance": (_semantic, ["Semantic Guidance is for AnimateDiff", "Wan 2.1 / 2.2"]),
    "latents of another model": (
        lambda scene: _read(scene, latent=_latent_of_ltx(scene)),
        ["latents have 128 channels", "have 16", "own VAE"],
    ),
    "more entries than frames": (lambda scene: _read(scene, k=5), ["k is 5", "4 frames"]),
    "a latent of pictures": (
        lambda scene: scene.save(
            "never",
            scene.ksampler(
                scene.guided(scene.extracted()),
                latent_image=scene.graph.add("EmptyLatentImage", width=80, height=64, batch_size=4),
            ),
        ),
        ["has 1"],
    ),
    "frames that are no whole groups": (
        lambda scene: _read(
            scene, images=scene.graph.add("MotionCloneProbeClip", width=80, height=64, frames=16, seed=1), vae=scene.vae
        ),
        ["16 frames", "13", "17"],
    ),
    "VOID's sampler": (
        lambda scene: scene.save(
            "never", scene.one_step(scene.guided(scene.extracted()), sampler=scene.graph.add("VOIDSampler"))
        ),
        ["VOIDSampler", "choose euler"],
    ),
    "a mask of other frames": (
        lambda scene: scene.graph.add(
            "MotionCloneProbeRep",
            motion_rep=scene.graph.add(
                "MotionCloneMaskMotion",
                motion_rep=scene.extracted(), mask=_masks(scene, 5), invert=False, feather=0.0,
            ),
        ),
        ["5 frames", "4 latent ones (13 of the video)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_a_reason(stage: Stage, comfyui: ComfyUI, case: str) -> None:
    if "VOID" in case and not has_cogvideox(comfyui):
        pytest.skip("this ComfyUI has no VOIDSampler")
    build, words = BAD[case]
    scene = stage.scene()
    build(scene)
    said = stage.refused(scene)
    assert all(word in said for word in words), said


def test_cogvideox_as_it_is_takes_no_ordinary_sampler(stage: Stage) -> None:
    scene = stage.scene(ORDINARY)
    rep = scene.extracted(model=scene.raw)
    scene.save("never", scene.ksampler(scene.guided(rep, model=scene.raw)))
    said = stage.refused(scene)
    assert all(word in said for word in ("MotionClone Guided KSampler", "VOIDSampler", "ModelSamplingDiscrete")), said


def test_a_motion_of_another_family(stage: Stage) -> None:
    scene = stage.scene(ORDINARY)
    wan = scene.loaded(WAN)
    scene.save("never", scene.ksampler(scene.guided(scene.extracted(model=wan))))
    said = stage.refused(scene)
    assert all(word in said for word in ("wan/256", "cogvideox/128", "extract it again")), said
