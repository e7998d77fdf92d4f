"""Probes of motion guidance: energy and gradient by a route of their own, faults inside a step, what is left.

Nothing here uses the pack's code: queries and keys come from hooks on the projections, the energy is written
out in float64, and the gradient is plain autograd over the whole network.

Shapes used here:
    p   positions      f   frames      n   heads      d   channels per head      c, h, w   of the latent
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import logging
import math
import sys

import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.diffusionmodules import openaimodel
from torch.autograd.graph import saved_tensors_hooks

from .files import CATEGORY, ModelProbe, cloned, save_tensors


def motion_model(model):
    (patcher,) = model.get_additional_models_with_key("ADE")
    return patcher.model


def layers(model):
    """Every temporal attention layer of the motion module by the pack's names for them."""
    network = motion_model(model)
    blocks = {f"{s}.{b}": block for s in ("down_blocks", "up_blocks") for b, block in enumerate(getattr(network, s))}
    if network.mid_block is not None:
        blocks["mid_block"] = network.mid_block
    found = {}
    for name, block in blocks.items():
        for m, module in enumerate(block.motion_modules):
            attention = [a for t in module.temporal_transformer.transformer_blocks for a in t.attention_blocks]
            found |= {f"{name}.motion.{m}.attention.{n}": a for n, a in enumerate(attention)}
    return found


@contextlib.contextmanager
def captured(model, names):
    """Queries and keys of the named layers, call by call: ``{name: {"q": [[p, f, n * d], ...], "k": ...}}``."""
    seen = {name: {"q": [], "k": []} for name in names}

    def keep(name, letter):
        return lambda module, arguments, output: seen[name][letter].append(output)

    hooks = []
    try:
        for name in names:
            layer = layers(model)[name]
            hooks += [layer.to_q.register_forward_hook(keep(name, "q"))]
            hooks += [layer.to_k.register_forward_hook(keep(name, "k"))]
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def energy_of(seen, motion_rep, window=0, half="both"):
    """The sum over layers of ``mean((A[indices] - values)^2)``, float64; each window has a call of its own.

    Of one half of the frame the other counts as 0.
    """
    total = 0.0
    for name, tap in list(motion_rep.windows.values())[window].items():
        p, n, f, _ = tap.values.shape
        q, k = (seen[name][letter][window].double().reshape(p, f, n, -1).transpose(1, 2) for letter in "qk")
        attention = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        kept = torch.take_along_dim(attention, tap.indices.long().clone(), -1)
        distances = (kept - tap.values.double().clone()).square().reshape(*tap.grid, n, f, -1)
        left = torch.arange(tap.grid[1]) < tap.grid[1] / 2
        counts = {"both": left | ~left, "left": left, "right": ~left}[half]
        total = total + (distances * counts.double().reshape(1, -1, 1, 1, 1)).mean()
    return total


def call_through_host(model, conditioning, latent, noise_seed, sigma, function):
    """Calls ``function(denoise, x)`` where a sampler would be; ``denoise(x)`` runs the conditional pass."""
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, noise_seed) if noise_seed >= 0 else torch.zeros_like(samples)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(1.0)

    def sampler(model_k, x, sigmas, extra_args, **_):
        def denoise(x):
            with fixed_controls(guider.conds):
                return call(x)

        def call(x):
            return model_k(x, torch.full([len(x)], sigma, dtype=x.dtype, device=x.device), **extra_args)

        function(denoise, x, guider.inner_model)
        return x

    guider.sample(
        noise,
        samples,
        comfy.samplers.KSAMPLER(sampler),
        torch.tensor([sigma, 0.0]),
        disable_pbar=True,
        seed=0,
    )


def ordinary(tensor):
    own = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return own.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


@contextlib.contextmanager
def ordinary_weights(*roots):
    """Every parameter and buffer replaced by one made outside inference mode, on the same storage."""
    stores = {id(s): s for r in roots for m in r.modules() for s in (m._parameters, m._buffers)}
    originals = [(store, dict(store)) for store in stores.values()]
    try:
        for store, tensors in originals:
            for name, tensor in tensors.items():
                if isinstance(tensor, torch.nn.Parameter):
                    store[name] = torch.nn.Parameter(ordinary(tensor), requires_grad=False)
                elif tensor is not None:
                    store[name] = ordinary(tensor)
        yield
    finally:
        for store, tensors in originals:
            store.update(tensors)


@contextlib.contextmanager
def fixed_controls(conds):
    """ControlNets whose residuals have no gradient."""
    controls = {id(e["control"]): e["control"] for cond in conds.values() for e in cond if "control" in e}

    def fixed(get_control):
        def get(x, *arguments):
            with torch.no_grad():
                return get_control(x.detach(), *arguments)

        return get

    originals = {key: control.get_control for key, control in controls.items()}
    try:
        for control in controls.values():
            control.get_control = fixed(control.get_control)
        yield
    finally:
        for key, control in controls.items():
            control.get_control = originals[key]


def copies_are_saved():
    """What autograd saves may be changed in place afterwards."""
    return saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor)


@contextlib.contextmanager
def residuals_added_apart():
    """ComfyUI adds residuals in place, to activations that plain autograd has saved."""
    original = openaimodel.apply_control

    def apart(h, control, name):
        residual = control[name].pop() if control and control.get(name) else None
        return h if residual is None else h + residual

    openaimodel.apply_control = apart
    try:
        yield
    finally:
        openaimodel.apply_control = original


NOISED = {
    "model": ("MODEL",),
    "motion_rep": ("MOTION_REP",),
    "conditioning": ("CONDITIONING",),
    "latent": ("LATENT",),
    "sigma": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1e6, "step": 1e-9, "round": False}),
    # -1: the latent is at that noise level already
    "noise_seed": ("INT", {"default": -1, "min": -1, "max": 2**32}),
}


class ProbeEnergy:
    """The energy of a latent at a noise level."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": NOISED}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")  # always runs: ComfyUI 0.8 leaves what a cached node reported out of its answer

    def execute(self, model, motion_rep, conditioning, latent, sigma, noise_seed):
        energies = []

        def measure(denoise, x, _):
            with captured(model, list(motion_rep.taps)) as seen:
                denoise(x)
            energies.append(float(energy_of(seen, motion_rep)))

        call_through_host(model, conditioning, latent, noise_seed, sigma, measure)
        return {"ui": {"energy": energies}}


class ProbeGradient:
    """The gradient of a window's energy by x, by autograd over the whole network."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        window = ("INT", {"default": 0, "min": 0, "max": 1000})
        own = {"name": ("STRING", {"default": "gradient"}), "window": window, "half": (["both", "left", "right"],)}
        return {"required": {**own, **NOISED}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")  # always runs: ComfyUI 0.8 leaves what a cached node reported out of its answer

    def execute(self, name, window, half, model, motion_rep, conditioning, latent, sigma, noise_seed):
        gradients = []

        def differentiate(denoise, x, base):
            if motion_model(model).conv_in is not None:
                denoise(x)  # PIA's picture is encoded in the first call of a run
            in_place = motion_model(model).img_encoder is not None  # AnimateLCM-I2V adds its picture so
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                ordinary_weights(base, motion_model(model)),
                residuals_added_apart(),
                copies_are_saved() if in_place else contextlib.nullcontext(),
            ):
                x = x.clone().requires_grad_()
                with captured(model, list(motion_rep.taps)) as seen:
                    denoise(x)
                gradients.extend(torch.autograd.grad(energy_of(seen, motion_rep, window, half), x))

        call_through_host(model, conditioning, latent, noise_seed, sigma, differentiate)
        return save_tensors(name, value=gradients[0])


class ProbeTrouble:
    """A MODEL patch that makes trouble when a block of the UNet is reached for the n-th time.

    It interrupts, raises, finds no memory, or has garbage collected there.

    Logs every block that is reached after that.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "kind": (["interrupt", "raise", "exhaust", "collect"],),
                "block": ("STRING", {"default": "input 4"}),
                "call": ("INT", {"default": 1, "min": 1, "max": 1000}),
                "nonce": ("INT", {"default": 0, "min": 0, "max": 2**32}),
            }
        }

    def execute(self, model, kind, block, call, nonce):
        model = cloned(model)
        reached = [0]

        def look(transformer_options):
            here = "{} {}".format(*transformer_options["block"])
            if reached[0] >= call:
                logging.info("probe reached %s after its trouble", here)
            if here != block:
                return
            reached[0] += 1
            if reached[0] == call and kind == "raise":
                raise RuntimeError("the probe's own trouble")
            if reached[0] == call and kind == "exhaust":
                raise torch.OutOfMemoryError("the probe's memory is used up")
            if reached[0] == call and kind == "collect":
                gc.collect()
            if reached[0] == call and kind == "interrupt":
                comfy.model_management.interrupt_current_processing()

        def at_input(h, transformer_options):
            look(transformer_options)
            return h

        def at_output(h, hsp, transformer_options):
            look(transformer_options)
            return h, hsp

        model.set_model_input_block_patch(at_input)
        model.set_model_output_block_patch(at_output)
        return (model,)


class ProbeLitter:
    """Drops a clone of a MODEL that holds itself, as the traceback of a failed run does, and hands the MODEL on.

    ``after`` is what a run of the MODEL has sampled, which puts its modules into the network.

    The clone is as old as what only a full collection finds, so that it stays until there is one.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "after": ("LATENT",)}}

    def execute(self, model, after):
        ring = [model.clone()]
        ring.append(ring)
        gc.collect()
        logging.info("probe left a clone that %s in the network", "is" if model.is_injected else "is not")
        return (model,)


class ProbeDamage(ModelProbe):
    """A MODEL with a weight that is no number, as a damaged file has it."""

    def execute(self, model):
        model = cloned(model)
        name = "diffusion_model.input_blocks.1.0.in_layers.2.bias"
        model.add_patches({name: ("diff", (torch.full((320,), math.nan),))})
        return (model,)


class Control(comfy.controlnet.ControlBase):
    """Fixed random residuals on every skip connection and the middle: a ControlNet as the UNet sees it."""

    CHANNELS = (320,) * 4 + (640,) * 3 + (1280,) * 5

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options=None):
        generator = torch.Generator().manual_seed(11)
        residuals = [0.5 * torch.randn(1, c, 1, 1, generator=generator) for c in (*self.CHANNELS, 1280)]
        return {"input": [], "middle": residuals[-1:], "output": residuals[:-1]}


class ProbeControl:
    """Puts a control on a conditioning."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",)}}

    def execute(self, conditioning):
        control = {"control": Control(), "control_apply_to_uncond": True}
        return ([[text, {**options, **control}] for text, options in conditioning],)


class ProbeState:
    """What a run may have left behind; ``after`` makes it wait for that run."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model": ("MODEL",), "nonce": ("INT", {"default": 0, "min": 0, "max": 2**32})},
            "optional": {"after": ("LATENT",)},
        }

    def execute(self, model, nonce, after=None):
        weights = state_of_weights(model.model, motion_model(model))
        # The traceback of a failed run holds its frames, and with them its tensors, until garbage is collected.
        state = {"uncollected": alive(), **state_of_torch(), **_state_of_model(model), **weights}
        return {"ui": {"state": [state]}}


def state_of_torch():
    gc.collect()
    return {
        "inference_mode": torch.is_inference_mode_enabled(),
        "grad_mode": torch.is_grad_enabled(),
        "function_modes": torch._C._len_torch_function_stack(),
        # AnimateDiff-Evolved replaces these for some motion modules while they run.
        "group_norms": [
            torch.nn.GroupNorm.forward.__module__,
            comfy.ops.disable_weight_init.GroupNorm.forward_comfy_cast_weights.__module__,
        ],
        **alive(),
    }


def alive():
    """Tensors that hold on to a graph, and objects of the pack's."""
    # Not isinstance, which asks the object: a dead weak proxy would raise.
    alive = [(type(item), item) for item in gc.get_objects()]
    tensors = [item for kind, item in alive if issubclass(kind, torch.Tensor)]
    ours = [kind for kind, _ in alive if ".motionclone_core." in str(kind.__module__)]
    return {
        "tensors_with_graph": sum(t.grad_fn is not None for t in tensors),
        "tensors_requiring_grad": sum(
            t.requires_grad and not isinstance(t, torch.nn.Parameter) for t in tensors
        ),
        "objects_of_ours": sorted({kind.__name__ for kind in ours}),
    }


def _state_of_model(model):
    attention = layers(model).values()
    (home,) = {k.__module__ for a in attention for k in type(a).__mro__ if k.__name__ == "CrossAttentionMM"}
    default = sys.modules[home].optimized_attention_mm
    modules = [*model.model.modules(), *motion_model(model).modules()]
    hooks = [m for m in modules if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
    return {
        **state_of_options(model),
        "tapped": [name for name, layer in layers(model).items() if layer.actual_attention is not default],
        "hooked": len(hooks),
        "foreign_forwards": sum(_is_replaced(module) for module in modules),
    }


def state_of_options(model):
    """What hangs on a MODEL."""
    options = model.model_options.get("transformer_options", {})
    wrappers = {**model.wrappers, **{f"options {k}": v for k, v in options.get("wrappers", {}).items()}}
    return {
        "wrapper_keys": sorted(
            {f"{kind}: {key}" for kind, keys in wrappers.items() for key in keys if keys[key]}
        ),
        "model_options": sorted(str(key) for key in model.model_options),
        "transformer_options": sorted(str(key) for key in options),
        "patches": sorted(str(key) for key in options.get("patches", {})),
        "object_patches": sorted(model.object_patches),
        "attachments": sorted(model.attachments),
    }


def _is_replaced(module):
    # Advanced-ControlNet puts a class's own forward back as an attribute.
    forward = vars(module).get("forward")
    return forward is not None and forward.__func__ is not type(module).forward


def state_of_weights(*roots):
    """Values and identities of every weight; the sums are of the bits, so they are exact."""
    values, places = hashlib.sha256(), hashlib.sha256()
    flags = set()
    for root in roots:
        for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
            bits = tensor.detach().contiguous().flatten().view(torch.uint8)
            whole = bits[: len(bits) // 8 * 8].view(torch.int64)
            values.update(f"{name} {tensor.dtype} {int(whole.sum())}".encode())
            places.update(f"{name} {id(tensor)} {tensor.data_ptr()}".encode())
            flags.add(f"requires_grad {tensor.requires_grad} grad {tensor.grad is not None}")
    return {"weights": values.hexdigest(), "places": places.hexdigest(), "flags": sorted(flags)}


class ProbeMasks:
    """A mask, several times."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("MASK",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mask": ("MASK",), "frames": ("INT", {"default": 2, "min": 1, "max": 1000})}}

    def execute(self, mask, frames):
        return (mask.expand(frames, -1, -1),)


class ProbeRep:
    """What a motion representation holds."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"motion_rep": ("MOTION_REP",)}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")  # always runs: ComfyUI 0.8 leaves what a cached node reported out of its answer

    def execute(self, motion_rep):
        digest = hashlib.sha256()
        for name, tap in motion_rep.taps.items():
            digest.update(name.encode())
            digest.update(tap.values.numpy().tobytes() + tap.indices.numpy().tobytes())
        content = {
            "checksum": digest.hexdigest(),
            "taps": list(motion_rep.taps),
            "windows": [list(window) for window in motion_rep.windows],
            "shape": list(next(iter(motion_rep.taps.values())).values.shape),
            "latent_size": list(motion_rep.latent_size),
            "provenance": dataclasses.asdict(motion_rep.provenance),
        }
        return {"ui": {"rep": [content]}}


class ProbeForeignRep:
    """A representation as another model would have made it."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("MOTION_REP",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"motion_rep": ("MOTION_REP",), "other": (["architecture", "block", "heads", "dtype"],)}}

    def execute(self, motion_rep, other):
        ((window, kept),) = motion_rep.windows.items()
        taps = dict(kept)
        if other == "architecture":
            provenance = dataclasses.replace(motion_rep.provenance, architecture="animatediff/SDXL")
            return (dataclasses.replace(motion_rep, provenance=provenance),)
        if other == "block":
            taps = {name.replace("up_blocks.1", "mid_block"): tap for name, tap in taps.items()}
        if other == "heads":
            halves = {n: (t.values[:, :4].clone(), t.indices[:, :4].clone()) for n, t in taps.items()}
            taps = {n: dataclasses.replace(taps[n], values=v, indices=i) for n, (v, i) in halves.items()}
        if other == "dtype":
            wide = {n: (t.values.double(), t.indices.long()) for n, t in taps.items()}
            taps = {n: dataclasses.replace(taps[n], values=v, indices=i) for n, (v, i) in wide.items()}
        return (dataclasses.replace(motion_rep, windows={window: taps}),)


class ProbeAgain:
    """Hands a latent on; another ``nonce`` makes ComfyUI run what follows again."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "nonce": ("INT", {"default": 0, "min": 0, "max": 2**32})}}

    def execute(self, latent, nonce):
        return (latent,)


PROBES = (
    ProbeEnergy, ProbeGradient, ProbeTrouble, ProbeLitter, ProbeDamage,
    ProbeControl, ProbeState, ProbeRep, ProbeForeignRep, ProbeAgain, ProbeMasks,
)  # fmt: skip
