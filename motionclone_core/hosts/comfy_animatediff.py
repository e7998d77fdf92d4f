"""AnimateDiff-Evolved: where the taps of a patched ComfyUI MODEL are."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..grids import RepresentationMismatchError
from ..representation import Window
from ..taps import DEFAULT_BLOCKS, tap_name
from .base import AttentionObserver, ModelIdentity, UnsupportedModelError, VideoSize, fingerprint
from .comfy_weights import unpatched

_MODELS_KEY = "ADE"
_PARAMS_KEY = "ADE_params"
_VIEWS_ALONE = "view_as_context"
_MOST_STEPS = 1000  # of a run: ComfyUI's samplers take no more
Kernel = Callable[..., Tensor]


def _same(kernel: Kernel) -> Kernel:
    return kernel


def has_motion_models(patcher: Any) -> bool:
    """Whether AnimateDiff-Evolved has put motion modules on a MODEL."""
    return bool(patcher.get_additional_models_with_key(_MODELS_KEY))


class AnimateDiffHost:
    """One MODEL with one AnimateDiff motion module.

    Raises:
        UnsupportedModelError: the MODEL carries no motion module, several, or one of a kind that is not supported.
    """

    default_blocks = DEFAULT_BLOCKS
    group = 1
    scaled = flow = False

    def __init__(self, patcher: Any) -> None:
        motion_models = patcher.get_additional_models_with_key(_MODELS_KEY)
        if not motion_models:
            raise UnsupportedModelError(
                "this MODEL has no AnimateDiff motion module: put an AnimateDiff-Evolved loader (such as "
                "'AnimateDiff Loader' or 'Use Evolved Sampling') between the checkpoint and this node"
            )
        if len(motion_models) > 1:
            raise UnsupportedModelError(
                f"this MODEL has {len(motion_models)} AnimateDiff motion modules; motion guidance reads one: "
                f"apply a single motion model"
            )
        self._patcher = patcher
        self._motion_patcher = motion_models[0]
        self._motion_model = self._motion_patcher.model
        _require_known(self._motion_model)

    @property
    def sites(self) -> dict[str, Any]:
        """The temporal self-attention modules by tap name, in the order of execution."""
        return {tap: attention for tap, attention, _ in self._taps}

    @property
    def motion_modules(self) -> list[Any]:
        """What lies between the image model's layers, in the order of execution."""
        return [module for _, block in self._blocks for module in block.motion_modules]

    @property
    def identity(self) -> ModelIdentity:
        """Architecture, fingerprint and heads; see `ModelIdentity`."""
        sites = self.sites
        weights = {name: attention.to_q.weight for name, attention in sites.items()}
        return ModelIdentity(
            architecture=f"animatediff/{self._motion_model.mm_info.sd_type}",
            fingerprint=fingerprint(unpatched(self._motion_patcher, self._motion_model, weights)),
            heads={name: attention.heads for name, attention in sites.items()},
        )

    @property
    def title(self) -> str:
        """What was recognised."""
        return f"AnimateDiff on {self._motion_model.mm_info.sd_type}, motion module {self.name}"

    @property
    def name(self) -> str:
        """The motion model's file name, for messages."""
        return str(self._motion_model.mm_info.mm_name)

    @property
    def mutates(self) -> bool:
        """Whether motion modules change activations in place, as AnimateLCM-I2V's do."""
        return self._motion_model.img_encoder is not None

    def video(self, latent: Tensor) -> VideoSize:
        """Of a latent ``[f, c, h, w]``.

        Raises:
            RepresentationMismatchError: the latent is none of single frames.
        """
        if latent.ndim != 4:
            raise RepresentationMismatchError(
                f"AnimateDiff samples frames with latents of 4 dimensions, this latent has {latent.ndim}: use an Empty "
                f"Latent Image, or a VAE of Stable Diffusion"
            )
        return VideoSize(latent.shape[0], latent.shape[2], latent.shape[3])

    def clips(self, x: Tensor) -> int:
        """How many videos a batch of one condition holds: its entries are the frames of one."""
        return 1

    def rerun(self) -> tuple[set[Any], set[Any]]:
        """The layers that keep much and may run again: motion modules and spatial transformers; feed-forward parts."""
        from comfy.ldm.modules.attention import FeedForward, SpatialTransformer

        network = self._patcher.get_model_object("diffusion_model")
        layers = [*network.modules(), *(layer for module in self.motion_modules for layer in module.modules())]
        whole = {layer for layer in layers if isinstance(layer, SpatialTransformer)}
        return {*self.motion_modules, *whole}, {layer for layer in layers if isinstance(layer, FeedForward)}

    def require_video(self, video: VideoSize) -> None:
        """Check the number of frames, and the context options that they need.

        Raises:
            RepresentationMismatchError: too many frames; the message says both numbers.
            UnsupportedModelError: several lots of windows take turns, or share what they predict.
        """
        context = self._sliding(video.frames)
        if context is not None and len(context.contexts) > 1:
            raise UnsupportedModelError(
                f"{len(context.contexts)} Context Options take turns in this MODEL, and a motion is read in the "
                f"windows of one: use one of them alone"
            )
        if context is not None and context.extras.naive_reuse is not None:
            raise UnsupportedModelError(
                "AnimateDiff-Evolved's NaiveReuse hands one window's prediction on to the others, and motion guidance "
                "has a push for each: take it out of this graph"
            )
        seen, instead = _seen_at_once(context, video.frames)
        limit = self._motion_model.encoding_max_len
        if limit is not None and seen > limit:
            raise RepresentationMismatchError(
                f"{seen} frames at once are more than the {limit} that the motion module {self.name} was made for: "
                f"use at most {limit} {instead}"
            )

    def slides(self, frames: int) -> bool:
        """Whether so many frames are sampled in windows, or views."""
        return self._sliding(frames) is not None

    def turns(self, frames: int) -> list[int]:
        """Steps of a run that together show every window that there is at any step: windows may move as it samples.

        Raises:
            UnsupportedModelError: a window holds a frame twice.
        """
        group = self._sliding(frames)
        if group is None:
            return [0]
        context = group.contexts[0].clone()
        windows_of = _windows_of(context)
        seen: set[Window] = set()
        turns = []
        for step in range(_MOST_STEPS):
            context.step = step
            windows = [tuple(window) for window in windows_of(frames, context)]
            found = {view for window in windows for view in _views(window, context.view_options)}
            if not found <= seen:
                turns.append(step)
                seen |= found
        for window in seen:
            if len(set(window)) < len(window):
                raise UnsupportedModelError(
                    f"a window of {len(window)} frames holds a frame twice, as there are too few of them for its "
                    f"stride: lower context_stride or view_stride"
                )
        return turns

    def off(self, taps: Collection[str]) -> tuple[str, ...]:
        """Those of ``taps`` that the model's next call leaves out, as their motion module has an effect of 0 just then.

        It has that outside its start and end percent too.
        """
        return tuple(tap for tap, _, module in self._taps if tap in taps and _is_zero(module.effect))

    def window(self, transformer_options: Mapping[str, Any], x: Tensor, entries: int = 1) -> Window:
        """The frames that a call of the model sees, which is given ``x`` for so many batch entries."""
        window = transformer_options.get("ad_params", {}).get("sub_idxs")
        return tuple(range(len(x) // entries)) if window is None else tuple(window)

    def views(self, window: Window) -> tuple[Window, ...]:
        """The frames that attention sees at once in a call that sees ``window``, while a run is under way."""
        return _views(window, self.motion_modules[0].view_options)

    @contextmanager
    def observing(
        self,
        observer: AttentionObserver,
        before_tap: Callable[[], None],
        *,
        x: Tensor,
        transformer_options: Mapping[str, Any],
        kernel: Callable[[Kernel], Kernel] = _same,
    ) -> Iterator[None]:
        """Hand the queries and keys of ``observer.taps`` to the observer while the block runs.

        Args:
            observer: told of each tap as the model reaches it.
            before_tap: called first at each tap; raises when the user cancels.
            x: what the call is given.
            transformer_options: of the call.
            kernel: what computes attention in place of what does. Motion modules call theirs by themselves, where no
                override of ComfyUI's attention reaches it.
        """
        attentions = [layer for layer in self._motion_model.modules() if hasattr(layer, "actual_attention")]
        originals = [(attention, attention.actual_attention) for attention in attentions]
        sites = self.sites
        try:
            for attention, original in originals:
                attention.actual_attention = kernel(original)
            for name in observer.taps:
                sites[name].actual_attention = _tapped(name, sites[name].actual_attention, observer, before_tap)
            yield
        finally:
            for attention, original in originals:
                attention.actual_attention = original

    @property
    def _taps(self) -> list[tuple[str, Any, Any]]:
        """Name, attention and motion module of each."""
        return [
            (tap_name(name, m, layer), attention, module)
            for name, block in self._blocks
            for m, module in enumerate(block.motion_modules)
            for layer, attention in enumerate(_self_attention(module))
        ]

    @property
    def _blocks(self) -> list[tuple[str, Any]]:
        model = self._motion_model
        return [
            *((f"down_blocks.{i}", block) for i, block in enumerate(model.down_blocks or ())),
            *([("mid_block", model.mid_block)] if model.mid_block is not None else []),
            *((f"up_blocks.{i}", block) for i, block in enumerate(model.up_blocks or ())),
        ]

    def _sliding(self, frames: int) -> Any | None:
        """The context options that so many frames are sampled in, if they are sampled in any."""
        params = self._patcher.get_attachment(_PARAMS_KEY)
        context = None if params is None else params.context_options
        if context is None or not context.contexts:
            return None
        if context.context_schedule == _VIEWS_ALONE:
            return context
        length = context.context_length
        return context if length and (frames, context.use_on_equal_length) > (length, False) else None


def own_schedule(patcher: Any) -> str | None:
    """The beta_schedule that AnimateDiff-Evolved chooses for a MODEL's motion module; None if it has none."""
    motion_models = patcher.get_additional_models_with_key(_MODELS_KEY)
    return motion_models[0].model.get_best_beta_schedule() if motion_models else None


def settings_of(patcher: Any) -> list[Any]:
    """What of AnimateDiff-Evolved's settings changes a prediction: when, scale, effect, keyframes, windows, views."""
    attached = [model.get_attachment(_MODELS_KEY) for model in patcher.get_additional_models_with_key(_MODELS_KEY)]
    keyframes = [one for motion_model in attached for one in motion_model.keyframes.keyframes]
    blocks = [block for one in (*attached, *keyframes) for block in one.per_block_list or ()]
    params = patcher.get_attachment(_PARAMS_KEY)
    context = None if params is None else params.context_options
    windows = [] if context is None else list(context.contexts)
    windows += [one.view_options for one in windows if one.view_options is not None]
    of_each = ("timestep_percent_range", "scale_multival", "effect_multival")
    of_keyframes = ("start_percent", "scale_multival", "effect_multival", "inherit_missing", "guarantee_steps")
    of_windows = ("context_length", "context_overlap", "context_stride", "context_schedule", "fuse_method")
    return [[vars(block.id), block.effect, block.scales] for block in blocks] + [
        [getattr(one, name, None) for name in names]
        for found, names in ((attached, of_each), (keyframes, of_keyframes), (windows, of_windows))
        for one in found
    ]


def mend_clone(patcher: Any, clone: Any) -> None:
    """Give a clone the Per Block settings of the MODEL it was made of, and nothing in the network to take out.

    AnimateDiff-Evolved leaves the settings behind. ComfyUI copies that the MODEL has put modules into the network; a
    clone that never ran would take them out when it is collected, in the midst of another run.
    """
    pairs = zip(*(model.get_additional_models_with_key(_MODELS_KEY) for model in (patcher, clone)), strict=True)
    for kept, made in pairs:
        made.get_attachment(_MODELS_KEY).per_block_list = kept.get_attachment(_MODELS_KEY).per_block_list
    clone.is_injected = False


def collect_clones(patcher: Any) -> None:
    """Before a MODEL runs, collect clones that nobody uses any more, as the traceback of a run that failed keeps them.

    One that has put modules into the network, or was cloned of one that had, takes them out when it is collected: in
    the midst of the run, if that is not done before.
    """
    if patcher.injections:
        gc.collect()


def _require_known(motion_model: Any) -> None:
    kind = "FancyVideo" if motion_model.mm_info.mm_format == "FancyVideo" else None
    if motion_model.camera_encoder is not None:
        kind = "CameraCtrl"
    if kind is not None:
        raise UnsupportedModelError(
            f"{motion_model.mm_info.mm_name} is loaded with {kind}, beside which motion guidance has not been tried: "
            f"load an AnimateDiff v1, v2 or v3, AnimateLCM, AnimateLCM-I2V, PIA, AnimateDiff-SDXL or HotshotXL motion "
            f"model without it"
        )


def _seen_at_once(context: Any | None, frames: int) -> tuple[int, str]:
    """How many of ``frames`` attention sees at once, and what says so, for messages."""
    if context is None:
        return frames, "frames, or Context Options"
    if context.view_options is not None:
        return context.view_options.context_length, "as view_length"
    return context.context_length, "as context_length"


def _views(window: Window, options: Any | None) -> tuple[Window, ...]:
    """The windows inside a window that views are; it alone if there are none, or it is too short for them."""
    length = None if options is None else options.context_length
    if length is None or (len(window), options.use_on_equal_length) <= (length, False):
        return (window,)
    return tuple(tuple(window[place] for place in view) for view in _windows_of(options)(len(window), options))


def _windows_of(context: Any) -> Callable[[int, Any], list[list[int]]]:
    """AnimateDiff-Evolved's function from frames and context options to windows."""
    return sys.modules[type(context).__module__].get_context_windows


def _self_attention(module: Any) -> Iterator[Any]:
    for block in module.temporal_transformer.transformer_blocks:
        yield from (attention for attention in block.attention_blocks if not attention.is_cross_attention)


def _is_zero(effect: Tensor | float | None) -> bool:
    """Whether a motion module of this effect is left out; under a mask it runs, whatever that holds."""
    return effect is not None and not torch.is_tensor(effect) and math.isclose(effect, 0.0)


def _tapped(name: str, original: Kernel, observer: AttentionObserver, before_tap: Callable[[], None]) -> Kernel:
    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        before_tap()
        observer.observe(name, q, k, heads)
        return original(q, k, v, heads, *args, **kwargs)

    return attention
