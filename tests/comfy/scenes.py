"""The graphs that the tests queue: one scene of models, texts, latent and reference, and what is done with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from comfy_server import ComfyServer, Graph, Node, Result
from random_models import ModelFiles

FRAMES, SIDE = 4, 64  # pixels
STEPS, GUIDED_STEPS = 2, 1
SCALE = 0.18215  # of SD 1.5's latents
SAMPLING = {
    "seed": 5,
    "steps": STEPS,
    "cfg": 7.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "denoise": 1.0,
}
GUIDANCE = {
    # A weight at which random weights show a clear fall of the energy.
    "weight": 500.0, "start_step": 0, "guided_steps": GUIDED_STEPS, "warm_up": 0, "cool_down": 0,
    "update_rule": "published",
}  # fmt: skip
EXTRACTION = {"t_alpha": 400, "k": 1, "blocks": "up_blocks.1", "seed": 3}
LORA, MOTION_LORA = "probe_lora.safetensors", "probe_motion_lora.safetensors"

Array = np.ndarray


@dataclass
class Scene:
    """A graph with everything but sampling in it; nodes that nothing uses are not run."""

    models: ModelFiles
    frames: int = FRAMES
    width: int = SIDE
    height: int = SIDE
    nonce: int = 0
    """Another number makes ComfyUI sample again what it has cached."""
    graph: Graph = field(default_factory=Graph)

    def __post_init__(self) -> None:
        add = self.graph.add
        self.checkpoint = add("CheckpointLoaderSimple", ckpt_name=self.models.checkpoint.name)
        self.module = add("ADE_LoadAnimateDiffModel", model_name=self.models.motion_module.name)
        self.motion = add("ADE_ApplyAnimateDiffModelSimple", motion_model=self.module)
        self.model = self.animated(self.checkpoint)
        self.positive, self.negative = self.text("a boat on the sea"), self.text("")
        size = {"width": self.width, "height": self.height}
        self.latent = self.again(add("EmptyLatentImage", **size, batch_size=self.frames))
        self.clip = add("MotionCloneProbeClip", **size, frames=self.frames, seed=1)
        self.encoded = add("VAEEncode", pixels=self.clip, vae=self.checkpoint[2])

    def animated(self, model: Any, **changes: Any) -> Node:
        beta = "sqrt_linear (AnimateDiff)"
        inputs = {"model": model, "m_models": self.motion, "beta_schedule": beta, **changes}
        return self.graph.add("ADE_UseEvolvedSampling", **inputs)

    def moved_by(self, motion: Any, *, beta_schedule: str = "sqrt_linear (AnimateDiff)") -> None:
        """Takes another motion, under its noise schedule."""
        self.motion = motion
        self.model = self.animated(self.checkpoint, beta_schedule=beta_schedule)

    def applied(self, **changes: Any) -> Node:
        """The motion module, applied over a part of the run, by a scale, an effect, keyframes."""
        inputs = {"motion_model": self.module, "start_percent": 0.0, "end_percent": 1.0, **changes}
        return self.graph.add("ADE_ApplyAnimateDiffModel", **inputs)

    def sliding(self, length: int, overlap: int, *, kind: str = "StandardStatic", **changes: Any) -> Node:
        """The model under context windows."""
        size = {"context_length": length, "context_overlap": overlap}
        windows = self.graph.add(f"ADE_{kind}ContextOptions", **size, **changes)
        return self.animated(self.checkpoint, context_options=windows)

    def views(self, length: int, overlap: int, *, kind: str = "StandardStatic", **changes: Any) -> Node:
        """View Options: windows that attention alone slides over."""
        size = {"view_length": length, "view_overlap": overlap}
        return self.graph.add(f"ADE_{kind}ViewOptions", **size, **changes)

    def viewed(self, views: Any) -> Node:
        """The model under views alone."""
        context = self.graph.add("ADE_ViewsOnlyContextOptions", view_opts_req=views)
        return self.animated(self.checkpoint, context_options=context)

    def text(self, words: str) -> Node:
        return self.graph.add("CLIPTextEncode", clip=self.checkpoint[1], text=words)

    def again(self, latent: Any) -> Node:
        return self.graph.add("MotionCloneProbeAgain", latent=latent, nonce=self.nonce)

    def worded(self, text: str, words: str) -> Node:
        """A prompt with words: a conditioning, and the words."""
        return self.graph.add("MotionCloneWords", clip=self.checkpoint[1], text=text, words=words)

    def semantic(self, worded: Any, **changes: Any) -> Node:
        settings = {"weights": "up_blocks.1: 200, up_blocks.2: 100", "alone": 0.0, "sigma": 5.0}
        settings |= {"reference_threshold": 0.3, "appearance_threshold": 0.3, **changes}
        return self.graph.add("MotionCloneSemanticGuidance", words=worded[1], **settings)

    def extracted(self, **changes: Any) -> Node:
        reference = {} if "images" in changes else {"latent": self.encoded}
        inputs = {"model": self.model, "conditioning": self.negative, **reference}
        return self.graph.add("MotionCloneExtract", **{**inputs, **EXTRACTION, **changes})

    def guided(self, motion_rep: Any, **changes: Any) -> Node:
        inputs = {"model": self.model, "motion_rep": motion_rep, **GUIDANCE, **changes}
        return self.graph.add("MotionCloneApplyGuidance", **inputs)

    def ksampler(self, model: Any, **changes: Any) -> Node:
        inputs = {"model": model, "positive": self.positive, "negative": self.negative}
        return self.graph.add("KSampler", **{**inputs, "latent_image": self.latent, **SAMPLING, **changes})

    def guided_ksampler(self, motion_rep: Any, **changes: Any) -> Node:
        inputs = {"positive": self.positive, "negative": self.negative, "latent_image": self.latent}
        inputs |= {"model": self.model, "motion_rep": motion_rep, "preset": "custom", "ratio": 0.3}
        settings = {**GUIDANCE, **SAMPLING, "scheduler": "motionclone"}
        del settings["start_step"]
        return self.graph.add("MotionCloneGuidedKSampler", **{**inputs, **settings, **changes})

    def sigmas(self, *, denoise: float = 1.0, steps: int = STEPS) -> Node:
        settings = {"scheduler": "simple", "steps": steps, "denoise": denoise}
        return self.graph.add("BasicScheduler", model=self.model, **settings)

    def custom(self, model: Any, sigmas: Any, **changes: Any) -> Node:
        sampler = self.graph.add("KSamplerSelect", sampler_name="euler")
        inputs = {"positive": self.positive, "negative": self.negative, "latent_image": self.latent}
        settings = {"add_noise": True, "noise_seed": SAMPLING["seed"], "cfg": SAMPLING["cfg"]}
        inputs |= {"model": model, "sampler": sampler, "sigmas": sigmas, **settings, **changes}
        return self.graph.add("SamplerCustom", **inputs)

    def falling(self, *sigmas: float) -> Node:
        return self.graph.add("ManualSigmas", sigmas=", ".join(map(str, sigmas)))

    def half_mask(self, side: str) -> Node:
        """A MASK of the latent's size that is 1 on the left or on the right half."""
        columns, rows = self.width // 8, self.height // 8
        nothing = self.graph.add("SolidMask", value=0.0, width=columns, height=rows)
        half = self.graph.add("SolidMask", value=1.0, width=columns // 2, height=rows)
        x = 0 if side == "left" else columns // 2
        put = {"x": x, "y": 0, "operation": "add"}
        return self.graph.add("MaskComposite", destination=nothing, source=half, **put)

    def masked(self, conditioning: Any, side: str) -> Node:
        mask = self.half_mask(side)
        settings = {"strength": 1.0, "set_cond_area": "default"}
        return self.graph.add("ConditioningSetMask", conditioning=conditioning, mask=mask, **settings)

    def sparse(self, *frames: int, sketches: bool = False, **changes: Any) -> Node:
        """A SparseCtrl that takes conditions at these frames; of pictures, or of sketches."""
        file = self.models.scribble_control if sketches else self.models.sparse_control
        where = self.graph.add("ACN_SparseCtrlIndexMethodNode", indexes=", ".join(map(str, frames)))
        settings = {"use_motion": True, "motion_strength": 1.0, "motion_scale": 1.0, "sparse_method": where}
        return self.graph.add("ACN_SparseCtrlLoaderAdvanced", sparsectrl_name=file.name, **settings, **changes)

    def pictures(self, count: int, *, seed: int = 2) -> Node:
        """So many pictures, which differ in time."""
        return self.graph.add("MotionCloneProbeClip", width=self.width, height=self.height, frames=count, seed=seed)

    def hints(self, pictures: Any) -> Node:
        """Pictures as the SparseCtrl of pictures takes them."""
        inputs = {"image": pictures, "vae": self.checkpoint[2], "latent_size": self.latent}
        return self.graph.add("ACN_SparseCtrlRGBPreprocessor", **inputs)

    def controlled(self, conditioning: Any, control: Any, pictures: Any, **changes: Any) -> Node:
        """A conditioning with a ControlNet on it."""
        inputs = {"conditioning": conditioning, "control_net": control, "image": pictures}
        settings = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, **changes}
        return self.graph.add("ACN_AdvancedControlNetApplySingle_v2", **inputs, **settings)

    def both(self, one: Any, other: Any) -> Node:
        return self.graph.add("ConditioningCombine", conditioning_1=one, conditioning_2=other)

    def save(self, name: str, latent: Any) -> Node:
        return self.graph.add("MotionCloneProbeSave", name=name, latent=latent)

    def state(self, after: Any = None) -> Node:
        given = {} if after is None else {"after": after}
        return self.graph.add("MotionCloneProbeState", model=self.model, nonce=self.nonce, **given)

    def energy(self, motion_rep: Any, latent: Any, sigma: float, **changes: Any) -> Node:
        inputs = {"model": self.model, "motion_rep": motion_rep, "conditioning": self.positive}
        inputs |= {"latent": latent, "sigma": sigma, "noise_seed": -1, **changes}
        return self.graph.add("MotionCloneProbeEnergy", **inputs)

    def gradient(self, name: str, motion_rep: Any, sigma: float, **changes: Any) -> Node:
        """Of the energy where a run of this scene starts that begins at ``sigma``."""
        inputs = {"model": self.model, "motion_rep": motion_rep, "conditioning": self.positive}
        inputs |= {"latent": self.latent, "noise_seed": SAMPLING["seed"], "window": 0, "half": "both", **changes}
        return self.graph.add("MotionCloneProbeGradient", name=name, sigma=sigma, **inputs)


class Studio:
    """Runs scenes on a server and reads what they saved."""

    def __init__(self, server: ComfyServer, models: ModelFiles) -> None:
        self.server = server
        self._models = models
        self._nonce = 0

    def scene(self, *, fresh: bool = False, **changes: Any) -> Scene:
        """A scene; a fresh one is sampled whether or not ComfyUI has it in its cache."""
        if fresh:
            self._nonce += 1
            changes["nonce"] = self._nonce
        return Scene(self._models, **changes)

    def run(self, scene: Scene) -> Result:
        """Runs a scene that must succeed."""
        result = self.server.run(scene.graph, timeout=400)
        assert result.ok, f"{result.node_type}: {result.exception_message} {result.node_errors}\n{result.log}"
        return result

    def saved(self, result: Result, *nodes: Node) -> list[Array]:
        """What probes saved."""
        files = (result.output(node)["files"][0] for node in nodes)
        return [safetensors.numpy.load(self.server.view(file))["value"] for file in files]

    def latents(self, scene: Scene, **outputs: Any) -> list[Array]:
        """Runs a scene and returns latents in the order they are named."""
        nodes = [scene.save(name, latent) for name, latent in outputs.items()]
        return self.saved(self.run(scene), *nodes)


def only(result: Result, node: Node, key: str) -> Any:
    """The one value that a probe reported under ``key``."""
    (value,) = result.output(node)[key]
    return value


# AnimateDiff's, Stable Diffusion's, and those of AnimateDiff-SDXL.
BETAS = np.linspace(0.00085, 0.012, 1000)
BETAS_SD = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
BETAS_ADXL = np.linspace(0.00085**0.5, 0.020**0.5, 1000) ** 2


def sigma_of(timestep: int, betas: Array = BETAS) -> float:
    """The noise level of a timestep."""
    remaining = float(np.prod(1.0 - betas[: timestep + 1]))
    return ((1.0 - remaining) / remaining) ** 0.5


def write_loras(folder: Path) -> dict[str, list[Path]]:
    """A LoRA and a motion LoRA of random weights, by ComfyUI's names of their folders."""
    return {
        "loras": [_write_lora(folder / LORA)],
        "animatediff_motion_lora": [_write_motion_lora(folder / MOTION_LORA)],
    }


def _write_motion_lora(path: Path) -> Path:
    """On the guided layers of the motion module, in AnimateDiff's names."""
    start = "up_blocks.1.motion_modules.{}.temporal_transformer.transformer_blocks.0.attention_blocks.{}.processor"
    generator = torch.Generator().manual_seed(21)
    tensors = {}
    for module in range(3):
        for layer in range(2):
            for name in ("to_q", "to_k", "to_v", "to_out"):
                for part, shape in (("down", (4, 1280)), ("up", (1280, 4))):
                    weights = torch.randn(shape, generator=generator) * 0.1
                    tensors[f"{start.format(module, layer)}.{name}_lora.{part}.weight"] = weights
    safetensors.torch.save_file(tensors, path)
    return path


def _write_lora(path: Path) -> Path:
    """On the UNet's and the text encoder's attention, in kohya's names."""
    pairs: Mapping[str, tuple[int, int]] = {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
        "lora_unet_down_blocks_1_attentions_1_transformer_blocks_0_attn2_to_k": (640, 768),
        "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_v": (1280, 1280),
        "lora_te_text_model_encoder_layers_3_self_attn_q_proj": (768, 768),
    }
    tensors = {}
    for name, (rows, columns) in pairs.items():
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
        generator = torch.Generator().manual_seed(seed)
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, columns, generator=generator) * 0.1
        tensors[f"{name}.lora_up.weight"] = torch.randn(rows, 4, generator=generator) * 0.1
        tensors[f"{name}.alpha"] = torch.tensor(4.0)
    safetensors.torch.save_file(tensors, path)
    return path
