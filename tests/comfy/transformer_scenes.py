"""Graphs with a small diffusion transformer: what `scenes` is for AnimateDiff."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comfy_server import Graph, Node
from random_models import COGVIDEOX, COGVIDEOX_1_5, COGVIDEOX_I2V, WAN, WAN_5B, WAN_VAE

FRAMES, LATENT_FRAMES = 13, 4
WIDTH, HEIGHT = 80, 64  # pixels: 5 columns and 4 rows of tokens
EXTRACTION = {"t_alpha": 400, "k": 2, "blocks": "blocks.1, blocks.2", "seed": 3}
GUIDANCE = {
    "weight": 500.0, "start_step": 0, "guided_steps": 1, "warm_up": 0, "cool_down": 0, "update_rule": "published",
}  # fmt: skip
SAMPLING = {"seed": 5, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


@dataclass(frozen=True)
class Space:
    """Where a family's steps are taken.

    Attributes:
        file: of `random_models.SMALL`.
        sigma, sigma_next: noise levels of a step in the middle of its schedule.
        mixing: what its samplers hold; see probe_pack/transformers.py.
    """

    file: str
    sigma: float
    sigma_next: float
    mixing: str


FLOW = Space(WAN, 0.9, 0.6, "flow")
WIDE = replace(FLOW, file=WAN_5B)
ORDINARY = Space(COGVIDEOX, 12.0, 8.0, "ordinary")
TWO_AT_ONCE = replace(ORDINARY, file=COGVIDEOX_1_5)
PICTURED = replace(ORDINARY, file=COGVIDEOX_I2V)


@dataclass
class TransformerScene:
    """A graph with everything but sampling in it; nodes that nothing uses are not run."""

    small: Mapping[str, Path]
    clip_file: Path
    space: Space = FLOW
    frames: int = FRAMES
    width: int = WIDTH
    height: int = HEIGHT
    videos: int = 1
    nonce: int = 0
    graph: Graph = field(default_factory=Graph)

    def __post_init__(self) -> None:
        add = self.graph.add
        self.clip_l = add("CLIPLoader", clip_name=self.clip_file.name, type="sd3")
        self.vae = add("VAELoader", vae_name=self.small[WAN_VAE].name)
        self.raw = self.loaded(self.space.file)
        self.model = self.ordinary(self.raw)
        self.positive, self.negative = self.text("a boat on the sea"), self.text("")
        self.latent = self.again(self.empty())
        self.clip = self.drawn(1)
        # There is no small VAE for the wide one's latents: its reference is the noise alone.
        self.encoded = self.empty() if self.space == WIDE else self.encode(self.clip)

    def loaded(self, name: str) -> Node:
        return self.graph.add("UNETLoader", unet_name=self.small[name].name, weight_dtype="default")

    def ordinary(self, model: Any) -> Any:
        """CogVideoX as every sampler can sample it."""
        if self.space.mixing == "flow":
            return model
        return self.graph.add("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=True)

    def text(self, words: str) -> Node:
        return self.graph.add("CLIPTextEncode", clip=self.clip_l, text=words)

    def empty(self, *, frames: int | None = None) -> Node:
        size = {"width": self.width, "height": self.height, "length": frames or self.frames}
        if self.space == WIDE:
            size |= {"width": 2 * self.width, "height": 2 * self.height, "vae": self.vae}
            return self.graph.add("Wan22ImageToVideoLatent", **size, batch_size=1)
        return self.graph.add("EmptyHunyuanLatentVideo", **size, batch_size=self.videos)

    def again(self, latent: Any) -> Node:
        return self.graph.add("MotionCloneProbeAgain", latent=latent, nonce=self.nonce)

    def drawn(self, seed: int) -> Node:
        size = {"width": self.width, "height": self.height, "frames": self.frames}
        return self.graph.add("MotionCloneProbeClip", **size, seed=seed)

    def encode(self, clip: Any) -> Node:
        return self.graph.add("VAEEncode", pixels=clip, vae=self.vae)

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
        inputs |= {"model": self.raw, "motion_rep": motion_rep, "preset": "custom", "ratio": 0.3}
        settings = {**GUIDANCE, **SAMPLING}
        del settings["start_step"]
        return self.graph.add("MotionCloneGuidedKSampler", **{**inputs, **settings, **changes})

    def falling(self, *sigmas: float) -> Node:
        return self.graph.add("ManualSigmas", sigmas=", ".join(map(str, sigmas)))

    def one_step(self, model: Any, **changes: Any) -> Node:
        """From the space's first noise level to its second, by Euler."""
        sampler = self.graph.add("KSamplerSelect", sampler_name="euler")
        inputs = {"positive": self.positive, "negative": self.negative, "latent_image": self.latent}
        inputs |= {"sigmas": self.falling(self.space.sigma, self.space.sigma_next), "sampler": sampler}
        settings = {"add_noise": True, "noise_seed": SAMPLING["seed"], "cfg": SAMPLING["cfg"]}
        return self.graph.add("SamplerCustom", **{"model": model, **inputs, **settings, **changes})

    def save(self, name: str, latent: Any) -> Node:
        return self.graph.add("MotionCloneProbeSave", name=name, latent=latent)

    def state(self, after: Any, *, whole: bool = False) -> Node:
        """What there is once a latent has been sampled."""
        given = {"model": self.raw, "nonce": self.nonce, "whole": whole}
        return self.graph.add("MotionCloneProbeTransformerState", after=after, **given)

    def probe(self, kind: str, **changes: Any) -> Node:
        """One of the probes of transformers, where `one_step` begins."""
        inputs = {"model": self.model, "conditioning": self.positive, "latent": self.latent}
        inputs |= {"sigma": self.space.sigma, "noise_seed": SAMPLING["seed"], "mixing": self.space.mixing}
        return self.graph.add(f"MotionCloneProbeTransformer{kind}", **{**inputs, **changes})
