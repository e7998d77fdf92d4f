"""Probes of diffusion transformers: attention over frames, energy and gradient by a route of their own.

Nothing here uses the pack's code: queries and keys come from hooks on their norms, the rotation by their place in
the video is written out in float64, and the gradient is plain autograd over the whole network.

Shapes used here:
    s   tokens      n   heads      d   channels per head      f   latent frames      p   places of a frame, row by row
    c, h, w   of the latent
"""

from __future__ import annotations

import contextlib
import math

import comfy.ldm.wan.model as wan
import comfy.sample
import comfy.samplers
import torch

from .files import CATEGORY, save_tensors
from .guidance import NOISED, ordinary_weights, state_of_options, state_of_torch, state_of_weights


def network_of(model):
    return model.model.diffusion_model


def norms_of(block):
    attention = getattr(block, "self_attn", block)
    return attention.norm_q, attention.norm_k


def heads_of(block):
    return block.self_attn.num_heads if hasattr(block, "self_attn") else block.num_heads


def frames_of_token(network):
    """Two of CogVideoX 1.5."""
    return getattr(network, "patch_size_t", None) or 1


def space_of(network):
    """How much more rows and columns count than frames: of CogVideoX 1.0."""
    return 1.0 if type(network).__name__ == "WanModel" or frames_of_token(network) == 2 else 1.875


def parts_of(network, d):
    """How many of a head's channels say where in time, which row and which column."""
    if type(network).__name__ == "WanModel":
        return d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6)
    return d // 4, 3 * d // 8, 3 * d // 8


def rotated(tokens, network, sides):
    """``[b, f * p, n, d]`` in float64: each pair of channels turned by its place times its frequency."""
    space = space_of(network)
    frame, row, column = torch.meshgrid(*map(torch.arange, sides), indexing="ij")
    places = frame.flatten(), space * row.flatten(), space * column.flatten()
    angles = []
    for place, channels in zip(places, parts_of(network, tokens.shape[-1]), strict=True):
        frequencies = 10000.0 ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        angles.append(place.double()[:, None] * frequencies)
    angle = torch.cat(angles, dim=-1)[:, None]
    even, odd = tokens.double().unflatten(-1, (-1, 2)).unbind(-1)
    turned = even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()
    return torch.stack(turned, dim=-1).flatten(-2)


def over_frames(tokens, network, block, sides):
    """``[b, p, n, f, d]`` of a norm's output, of whose tokens those of the video are the last."""
    f, h, w = sides
    tokens = tokens.reshape(len(tokens), tokens.shape[1], heads_of(block), -1)[:, -f * h * w :]
    turned = rotated(tokens, network, sides)
    return turned.reshape(len(tokens), f, h * w, *turned.shape[2:]).permute(0, 2, 3, 1, 4)


def sides_of(x, network):
    """Frames, rows and columns of the tokens of a latent ``[b, c, f, h, w]``: patches of 2 x 2."""
    return math.ceil(x.shape[2] / frames_of_token(network)), math.ceil(x.shape[3] / 2), math.ceil(x.shape[4] / 2)


@contextlib.contextmanager
def captured(network, names):
    """What the norms of queries and keys of the named taps give: ``{name: {"q": ..., "k": ...}}``."""
    seen = {name: {} for name in names}

    def keep(name, letter):
        return lambda module, arguments, output: seen[name].update({letter: output})

    hooks = []
    try:
        for name in names:
            for letter, norm in zip("qk", norms_of(block_of(network, name)), strict=True):
                hooks.append(norm.register_forward_hook(keep(name, letter)))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def block_of(network, name):
    return network.blocks[int(name.split(".")[1])]


def attention_of(seen, network, name, x):
    """``[b, p, n, f, f]``, float64."""
    block = block_of(network, name)
    q, k = (over_frames(seen[name][letter], network, block, sides_of(x, network)) for letter in "qk")
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)


def energy_of(seen, network, motion_rep, x):
    """The sum over taps of ``mean((A[indices] - values)^2)``, float64; of one video."""
    total = 0.0
    for name, tap in motion_rep.taps.items():
        attention = attention_of(seen, network, name, x)[0]
        kept = torch.take_along_dim(attention, tap.indices.long().clone(), -1)
        total = total + (kept - tap.values.double().clone()).square().mean()
    return total


class Caller(comfy.samplers.Sampler):
    """Stands where a sampler would, at one noise level, with the latent that the host's kind of sampler holds."""

    def __init__(self, function, mixing):
        self.function, self.mixing = function, mixing

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_, **__):
        sigma = float(sigmas[0])
        x = {
            "flow": (1 - sigma) * latent_image + sigma * noise,
            "ordinary": latent_image + sigma * noise,
            "scaled": (latent_image + sigma * noise) / math.sqrt(1 + sigma**2),
            "noise": noise,
        }[self.mixing]

        def denoise(x):
            levels = torch.full([len(x)], sigma, dtype=x.dtype, device=x.device)
            return model_wrap(x, levels, model_options=extra_args["model_options"], seed=0)

        self.function(denoise, x, model_wrap.inner_model)
        return x


def call_through_host(model, conditioning, latent, noise_seed, sigma, function, mixing):
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, noise_seed) if noise_seed >= 0 else torch.zeros_like(samples)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(1.0)
    levels = torch.tensor([sigma, 0.0])
    guider.sample(noise, samples, Caller(function, mixing), levels, disable_pbar=True, seed=0)


@contextlib.contextmanager
def plain_rotation():
    """Wan's own rotation has no backward pass."""

    def apart(x, rotations):
        pairs = x.unflatten(-1, (-1, 1, 2)).to(rotations.dtype)
        return (rotations * pairs).sum(-1).flatten(-2).to(x.dtype)

    original = wan.apply_rope1
    wan.apply_rope1 = apart
    try:
        yield
    finally:
        wan.apply_rope1 = original


MIXED = {**NOISED, "mixing": (["flow", "ordinary", "scaled", "noise"],)}


class ProbeTransformerEnergy:
    """The energy of a latent at a noise level."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": MIXED}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")  # always runs: ComfyUI 0.8 leaves what a cached node reported out of its answer

    def execute(self, model, motion_rep, conditioning, latent, sigma, noise_seed, mixing):
        energies = []

        def measure(denoise, x, base):
            with captured(base.diffusion_model, list(motion_rep.taps)) as seen:
                denoise(x)
            energies.append(float(energy_of(seen, base.diffusion_model, motion_rep, x)))

        call_through_host(model, conditioning, latent, noise_seed, sigma, measure, mixing)
        return {"ui": {"energy": energies}}


class ProbeTransformerGradient:
    """The gradient of the energy by the sampler's latent, in the units of the LATENTs that samplers hand on."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {"default": "gradient"}), **MIXED}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")  # always runs: ComfyUI 0.8 leaves what a cached node reported out of its answer

    def execute(self, name, model, motion_rep, conditioning, latent, sigma, noise_seed, mixing):
        gradients = []

        def differentiate(denoise, x, base):
            network = base.diffusion_model
            with torch.inference_mode(False), torch.enable_grad(), ordinary_weights(base), plain_rotation():
                x = x.clone().requires_grad_()
                with captured(network, list(motion_rep.taps)) as seen:
                    denoise(x)
                gradients.extend(torch.autograd.grad(energy_of(seen, network, motion_rep, x), x))

        call_through_host(model, conditioning, latent, noise_seed, sigma, differentiate, mixing)
        out = model.model.process_latent_out
        return save_tensors(name, value=out(gradients[0]) - out(torch.zeros_like(gradients[0])))


class ProbeTransformerAttention:
    """The attention of a block at a noise level, ``[p, n, f, f]``."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        named = {"name": ("STRING", {"default": "attention"}), "tap": ("STRING", {"default": "blocks.0.attention"})}
        return {"required": {**named, **{key: value for key, value in MIXED.items() if key != "motion_rep"}}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")  # always runs: ComfyUI 0.8 leaves what a cached node reported out of its answer

    def execute(self, name, tap, model, conditioning, latent, sigma, noise_seed, mixing):
        found = []

        def measure(denoise, x, base):
            with captured(base.diffusion_model, [tap]) as seen:
                denoise(x)
            found.append(attention_of(seen, base.diffusion_model, tap, x)[0])

        call_through_host(model, conditioning, latent, noise_seed, sigma, measure, mixing)
        return save_tensors(name, value=found[0])


class ProbeTransformerState:
    """What a run may have left behind; ``after`` makes it wait for that run. ``whole`` looks at all objects (slow)."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "nonce": ("INT", {"default": 0, "min": 0, "max": 2**32}),
                "whole": ("BOOLEAN", {"default": False}),
            },
            "optional": {"after": ("LATENT",)},
        }

    def execute(self, model, nonce, whole, after=None):
        modules = list(model.model.modules())
        hooks = [m for m in modules if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
        state = {**state_of_options(model), **state_of_weights(model.model), "hooked": len(hooks)}
        return {"ui": {"state": [{**state, **(state_of_torch() if whole else {})}]}}


class ProbeTransformerTrouble:
    """A MODEL patch that raises when a block of the transformer is reached for the n-th time."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        count = ("INT", {"default": 1, "min": 1, "max": 1000})
        return {"required": {"model": ("MODEL",), "call": count, "nonce": ("INT", {"default": 0})}}

    def execute(self, model, call, nonce):
        model, reached = model.clone(), [0]

        def attention(func, *args, **kwargs):
            reached[0] += 1
            if reached[0] == call:
                raise RuntimeError("the probe's own trouble")
            return func(*args, **kwargs)

        model.model_options["transformer_options"]["optimized_attention_override"] = attention
        return (model,)


PROBES = (
    ProbeTransformerEnergy, ProbeTransformerGradient, ProbeTransformerAttention, ProbeTransformerState,
    ProbeTransformerTrouble,
)  # fmt: skip
