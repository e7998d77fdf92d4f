"""Probes of how weights are kept and what guided steps keep: little memory, layers that run again or are compiled."""

from __future__ import annotations

import contextlib
import gc
import logging

import comfy.model_management
import comfy.ops
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.patcher_extension import WrappersMP
from comfy.quant_ops import QuantizedTensor
from comfy_api.torch_helpers import set_torch_compile_wrapper

from .files import CATEGORY, ModelProbe, cloned

KEY = "probe_memory"
LITTLE = 5 * 2**20  # bytes


class ProbeMemory:
    """A MODEL whose runs meet little memory while gradients are recorded, and log how often layers ran for them.

    ``short``: next to none is said to be free. ``exhausted``: the n-th recorded layer finds none.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "kind": (["ample", "short", "exhausted"],),
                "layer": ("INT", {"default": 3, "min": 1, "max": 1000}),
            }
        }

    def execute(self, model, kind, layer):
        model = cloned(model)

        def run(executor, *args, **kwargs):
            network = executor.class_obj.model_patcher.model.diffusion_model
            memory = short_memory() if kind == "short" else contextlib.nullcontext()
            with memory, counted(network, kind == "exhausted" and layer):
                return executor(*args, **kwargs)

        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run)
        return (model,)


@contextlib.contextmanager
def counted(network, fails_at):
    """Logs the calls of spatial transformers under recording; one of them may run out of memory."""
    calls = []

    def begin(*_):
        if torch.is_grad_enabled():
            tensors = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
            alive = sum(tensor.grad_fn is not None for tensor in tensors)
            logging.info("probe starts beside %d tensors with a graph", alive)

    def look(module, _):
        if not torch.is_grad_enabled():
            return
        calls.append(id(module))
        if len(calls) == fails_at:
            raise torch.OutOfMemoryError("the probe's memory is used up")

    layers = [module.proj_in for module in network.modules() if isinstance(module, SpatialTransformer)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    hooks.append(network.register_forward_pre_hook(begin))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        again = len(calls) - len(set(calls))
        logging.info("probe saw %d transformers recorded, %d of them again", len(set(calls)), again)


@contextlib.contextmanager
def short_memory():
    """Next to no memory is free while gradients are recorded."""
    honest = comfy.model_management.get_free_memory

    def free(*args, **kwargs):
        found = honest(*args, **kwargs)
        if not torch.is_grad_enabled():
            return found
        # Attention asks for two numbers, and cuts its work by them.
        return (LITTLE, LITTLE) if isinstance(found, tuple) else LITTLE

    comfy.model_management.get_free_memory = free
    try:
        yield
    finally:
        comfy.model_management.get_free_memory = honest


class ProbeOffload(ModelProbe):
    """A MODEL whose weights stay where they are stored, as where a card is too small: LoRAs are added when they run."""

    def execute(self, model):
        model = cloned(model)

        def run(executor, *args, **kwargs):
            own = executor.class_obj.model_patcher
            networks = [p.model for p in (own, *own.get_additional_models_with_key("ADE"))]
            # Of clones that share a network, the one that was loaded knows what is injected.
            loaded = [kept.model for kept in comfy.model_management.current_loaded_models]
            patchers = [patcher for patcher in loaded if any(patcher.model is network for network in networks)]
            for patcher in patchers:
                patcher.unpatch_model()
                patcher.load(patcher.load_device, lowvram_model_memory=1)
            added = sum(bool(getattr(m, "weight_function", None)) for p in patchers for m in p.model.modules())
            logging.info("probe keeps LoRAs of %d layers apart", added)
            try:
                return executor(*args, **kwargs)
            finally:
                for patcher in patchers:
                    patcher.unpatch_model()

        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run)
        return (model,)


class ProbeCompile(ModelProbe):
    """A MODEL compiled as ComfyUI compiles one, by a back end that needs no compiler. Logs how much it compiled."""

    def execute(self, model):
        model = cloned(model)
        set_torch_compile_wrapper(model, backend=_counted)
        return (model,)


class ProbeQuantised:
    """A MODEL one of whose layers holds float8 weights that ComfyUI multiplies by as they are, or in full precision."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("MODEL",)
    LAYER, LAYOUT = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q", "TensorCoreFP8E4M3Layout"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "full": ("BOOLEAN", {"default": False})}}

    def execute(self, model, full):
        model = cloned(model)
        plain = model.get_model_object(self.LAYER)
        operations = comfy.ops.mixed_precision_ops({"mixed_ops": True}, torch.float32)
        layer = operations.Linear(plain.in_features, plain.out_features, bias=False, device="cpu", dtype=torch.float32)
        weight = QuantizedTensor.from_float(plain.weight.float(), self.LAYOUT, scale="recalculate")
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        layer.bias, layer.quant_format, layer.layout_type = None, "float8_e4m3fn", self.LAYOUT
        layer._full_precision_mm = full
        model.add_object_patch(self.LAYER, layer)
        return (model,)


def _counted(graph, _):
    logging.info("probe compiled %d operations", len(graph.graph.nodes))
    return graph.forward


PROBES = (ProbeMemory, ProbeOffload, ProbeCompile, ProbeQuantised)
