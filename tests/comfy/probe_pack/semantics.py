"""Probes of semantic guidance: words, masks, energy and gradient by a route of their own.

Nothing here uses the pack's code: queries and keys come from hooks on the projections, the energy is written out in
float64, and the gradient is plain autograd over the whole network.

Shapes used here:
    p   positions      f   frames      n   heads      c   channels of a key      l   tokens
"""

from __future__ import annotations

import contextlib
import logging
import math

import torch

from .files import CATEGORY, ModelProbe, cloned, save_tensors
from .guidance import call_through_host, captured, energy_of, motion_model, ordinary_weights


def word_layers(base):
    """The cross-attentions of up_blocks.1 in ComfyUI's UNet of SD 1.5."""
    network = base.diffusion_model
    return [network.output_blocks[i][1].transformer_blocks[0].attn2 for i in (3, 4, 5)]


@contextlib.contextmanager
def words_captured(base):
    """Queries ``[f, p, c]`` and keys ``[f, l, c]`` of these layers."""
    seen, hooks = [], []
    try:
        for layer in word_layers(base):
            found = {}
            seen.append(found)
            for letter, projection in (("q", layer.to_q), ("k", layer.to_k)):
                keep = lambda _, __, output, found=found, letter=letter: found.setdefault(letter, output)  # noqa: E731
                hooks.append(projection.register_forward_hook(keep))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def attention_to(seen, tokens):
    """The mean over layers, heads and tokens, ``[f, p]`` in float64."""
    found = []
    for layer in seen:
        q, k = (layer[letter].double().unflatten(-1, (8, -1)).transpose(1, 2) for letter in "qk")
        attention = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        found.append(attention[..., tokens].mean(-1).mean(1))
    return torch.stack(found).mean(0)


def stretched(attention):
    low, high = attention.min(1, keepdim=True).values, attention.max(1, keepdim=True).values
    return (attention - low) / (high - low + 1e-5)


def fading(mask, side, sigma):
    """exp(-distance^2 / (2 sigma^2)) from each frame's centroid, ``[f, p]`` as the mask."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    centres = mask @ places / mask.sum(1, keepdim=True)
    return torch.exp(-(places[None] - centres[:, None]).square().sum(-1) / (2 * sigma**2))


def larger(mask, positions):
    side, wanted = math.isqrt(mask.shape[1]), math.isqrt(positions)
    times = wanted // side
    square = mask.unflatten(1, (side, side)).repeat_interleave(times, 1).repeat_interleave(times, 2)
    return square.flatten(1)


def mean_key(keys, mask):
    """Of keys ``[p, f, c]`` under ``[f, p]``: ``[f, c]``."""
    keys, mask = keys.double().transpose(0, 1), mask[..., None]
    return (keys * mask).sum(1) / (mask.sum(1) + 1e-5)


class ProbeWordMap:
    """Where words lie in a latent at a noise level, and what a motion holds of it."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "name": ("STRING", {"default": "words"}),
                "model": ("MODEL",),
                "motion_rep": ("MOTION_REP",),
                "conditioning": ("CONDITIONING",),
                "latent": ("LATENT",),
                "sigma": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1e6, "step": 1e-9, "round": False}),
                "noise_seed": ("INT", {"default": -1, "min": -1, "max": 2**32}),
                "tokens": ("STRING", {"default": "2"}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")

    def execute(self, name, model, motion_rep, conditioning, latent, sigma, noise_seed, tokens):
        found = []

        def look(denoise, x, base):
            with words_captured(base) as seen:
                denoise(x)
            found.append(stretched(attention_to(seen, [int(token) for token in tokens.split(",")])))

        call_through_host(model, conditioning, latent, noise_seed, sigma, look)
        return save_tensors(name, value=found[0], kept=motion_rep.foreground.flatten(1))


class ProbeSemanticGradient:
    """The gradient of the semantic energy, and of the motion's, by x: autograd over the whole network.

    ``tokens`` empty is the whole frame. ``weights`` are those of up_blocks.1 and up_blocks.2; the means are over the
    layers of those that are not 0.
    """

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        number = ("FLOAT", {"default": 0.0, "min": -1e6, "max": 1e6, "step": 1e-9, "round": False})
        return {
            "required": {
                "name": ("STRING", {"default": "semantic"}),
                "model": ("MODEL",),
                "motion_rep": ("MOTION_REP",),
                "conditioning": ("CONDITIONING",),
                "latent": ("LATENT",),
                "appearance": ("LATENT",),
                "sigma": number,
                "noise_seed": ("INT", {"default": -1, "min": -1, "max": 2**32}),
                "tokens": ("STRING", {"default": ""}),
                "motion_1": number, "motion_2": number, "semantic_1": number, "semantic_2": number,
            }
        }  # fmt: skip

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")

    def execute(self, name, model, motion_rep, conditioning, latent, appearance, sigma, noise_seed, tokens, **weights):
        layers = list(motion_rep.taps)
        shown, gradients = [], []

        def look(denoise, x, base):
            with captured(model, layers) as seen, words_captured(base) as words:
                denoise(x)
            keys = {layer: seen[layer]["k"][0].clone() for layer in layers}
            wanted = [int(token) for token in tokens.split(",") if token]
            shown.append((keys, stretched(attention_to(words, wanted)) > 0.3 if wanted else None))

        def differentiate(denoise, x, base):
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                ordinary_weights(base, motion_model(model)),
            ):
                x = x.clone().requires_grad_()
                with captured(model, layers) as seen:
                    denoise(x)
                energy = self._energy(seen, motion_rep, *shown[0], weights)
                gradients.extend(torch.autograd.grad(energy, x))

        call_through_host(model, conditioning, appearance, noise_seed, sigma, look)
        call_through_host(model, conditioning, latent, noise_seed, sigma, differentiate)
        return save_tensors(name, value=gradients[0])

    def _energy(self, seen, motion_rep, keys, mask, weights):
        total = 0.0
        pulled = [layer for layer in motion_rep.taps if weights[f"semantic_{block(layer)}"]]
        for layer in motion_rep.taps:
            alone = {layer: seen[layer]}
            total = total + weights[f"motion_{block(layer)}"] * energy_of(alone, OneLayer(motion_rep, layer))
        for layer in pulled:
            factor = weights[f"semantic_{block(layer)}"] / len(pulled)
            total = total + factor * semantic(seen[layer]["k"][0], keys[layer].clone(), motion_rep, mask)
        return total


def block(layer):
    return layer.split(".")[1]


class OneLayer:
    """A motion of one layer, as `energy_of` reads it."""

    def __init__(self, motion_rep, layer):
        (window,) = motion_rep.windows.values()
        self.windows = {(): {layer: window[layer]}}


def semantic(guided, unguided, motion_rep, mask):
    positions = guided.shape[0]
    if mask is None:
        return (unguided.double().mean((0, 1)) - guided.double().mean(0)).square().mean()
    mask = mask.clone().double()
    reference = (motion_rep.foreground.clone().double().flatten(1) > 0.3).double()
    around = fading(reference, math.isqrt(reference.shape[1]), 5.0)
    own = (around * reference, (1 - around) * (1 - reference))
    pairs = zip(own, (mask, 1 - mask), strict=True)
    return sum(
        (mean_key(guided, larger(a, positions)) - mean_key(unguided, larger(b, positions))).square().mean()
        for a, b in pairs
    )


class ProbeGraphs(ModelProbe):
    """A MODEL that logs, for every call, whether it records a graph."""

    def execute(self, model):
        model = cloned(model)

        def look(h, hsp, transformer_options):
            if transformer_options["block"] == ("output", 3):
                logging.info("probe call of %d with graph: %s", len(h), h.requires_grad)
            return h, hsp

        model.set_model_output_block_patch(look)
        return (model,)


PROBES = (ProbeWordMap, ProbeSemanticGradient, ProbeGraphs)
