"""The unguided video beside a guided run in ComfyUI: same noise, model and conditions, without a gradient.

It is sampled by DDIM at the run's own noise levels, whatever the run's sampler, and each of its steps comes right
before the guided one's: through the same wrappers, at the same sigma, in calls of the same model.

Shapes used here:
    f   frames      c, h, w   channels, height and width of the latent
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ..semantics import Appearance
from .autograd import eager
from .base import CallObserver, Guide, UnsupportedModelError, VideoSize
from .comfy_animatediff import AnimateDiffHost
from .comfy_conditions import index_of, predicted_apart
from .comfy_crossattention import word_layers
from .crossattention import attending

_PARTIAL = ("area", "mask", "start_percent", "end_percent", "timestep_start", "timestep_end")


class AppearanceBranch:
    """One unguided video: made when a run begins, gone when it ends.

    Args:
        guide: what is read of it, and in which steps.
        host: the model.
        before_tap: called at each tap; raises when the user cancels.
    """

    def __init__(self, guide: Guide, host: AnimateDiffHost, before_tap: Callable[[], None]) -> None:
        self._guide, self._host, self._before_tap = guide, host, before_tap
        self._x: Tensor | None = None
        self._next = 0
        self._positive: frozenset[Any] = frozenset()
        self._reader: CallObserver | None = None
        self._predicting = False
        self._reading = False
        self.shown: Appearance | None = None
        """What it shows at the step under way, if that is held against it."""
        self.share: float | None = None
        """Which part of its frames the new words cover, as last read."""

    @property
    def predicting(self) -> bool:
        """Whether the model is called for it just now."""
        return self._predicting

    @property
    def reading(self) -> bool:
        """Whether the call is the one that is read."""
        return self._reading

    def follow(
        self, step: int, sigmas: Tensor, x: Tensor, positive: frozenset[Any], predict: Callable[[Tensor, float], Tensor]
    ) -> None:
        """Bring it to a step of the run; several calls for one step change nothing.

        Args:
            step: counted from 0.
            sigmas: of the run.
            x: of the guided video, where the unguided one begins.
            positive: the entries of the guider's positive condition, by uuid.
            predict: gives ``denoised`` at an x and a sigma.
        """
        total = len(sigmas) - 1
        if not any(self._guide.compares(later, total) for later in range(step, total)):
            self._x = self.shown = None
            return
        if self._x is None or step + 1 < self._next:
            self._x, self._next = x.detach().clone(), step
        self._positive = positive
        while self._next <= step:
            self._step(sigmas, predict)

    def _step(self, sigmas: Tensor, predict: Callable[[Tensor, float], Tensor]) -> None:
        sigma, following = sigmas[self._next : self._next + 2].tolist()
        read = self._guide.compares(self._next, len(sigmas) - 1)
        self._reader = self._guide.reader(len(self._x), tuple(self._x.shape[-2:])) if read else None
        self.shown, self._predicting = None, True
        try:
            denoised = predict(self._x, sigma)
        finally:
            self._predicting, self._reader = False, None
        # DDIM without noise of its own is Euler's method in sigma.
        self._x = self._x + (self._x - denoised) / sigma * (following - sigma)
        self._next += 1

    def conditions(self, predict: Callable[[list], list[Tensor]], conds: list) -> list[Tensor]:
        """Predictions of its conditions, the positive one apart where it is read, as that of a guided step is."""
        read = index_of(self._positive, conds)
        # Motion modules are switched on and off once a step is under way, and not before.
        if read is None or self._reader is None or self.shown is not None or self._host.off(self._guide.taps):
            return predict(conds)
        return predicted_apart(predict, conds, read, self._being_read(self._reader))

    @contextmanager
    def _being_read(self, reader: CallObserver) -> Iterator[None]:
        self._reading = True
        try:
            yield
        finally:
            self._reading = False
        self.shown = reader.result()
        self.share = None if self.shown.foreground is None else float(self.shown.foreground.mean())

    @contextmanager
    def observed(self, network: torch.nn.Module, x: Tensor, transformer_options: dict[str, Any]) -> Iterator[None]:
        """Around the call that is read, which is given ``x`` and these options."""
        with ExitStack() as stack:
            stack.enter_context(eager())
            options = {"x": x, "transformer_options": transformer_options}
            stack.enter_context(self._host.observing(self._reader, self._before_tap, **options))
            layers = word_layers(network) if self._reader.tokens else ()
            stack.enter_context(attending(layers, self._reader.tokens, self._reader.attend))
            yield


def require_whole(
    host: AnimateDiffHost, video: VideoSize, conds: Mapping[str, Sequence[Mapping]], denoise_mask: Any
) -> None:
    """Check that an unguided video can be sampled beside the guided one, each seen whole by the model.

    Raises:
        UnsupportedModelError: context windows, several positive conditions, one for a part of the frame or of the run,
            or a noise mask.
    """
    refused = None
    positive = conds.get("positive", ())
    partial = [key for entry in positive for key in _PARTIAL if entry.get(key) is not None]
    if host.slides(video.frames):
        refused = "Context Options and View Options"
    elif len(positive) > 1:
        refused = f"{len(positive)} positive conditions side by side"
    elif partial:
        refused = f"a positive condition for a part alone ({', '.join(dict.fromkeys(partial))})"
    elif denoise_mask is not None:
        refused = "a noise mask on the latent"
    if refused is not None:
        raise UnsupportedModelError(
            f"Semantic Guidance samples an unguided video beside the guided one and compares them whole, which has not "
            f"been done with {refused}: take that out of this graph, or Semantic Guidance"
        )
