"""Diffusion transformers that ComfyUI runs natively: the taps of any family that one small class describes.

A transformer attends over all tokens of the video at once. Of a tapped block's queries and keys those of the image
tokens are laid out so that attention runs over frames alone, per head and place: A_aux (paper, A.4). The network itself
goes on as it is.

Shapes used here:
    b   batch entries of the call      s   tokens of the sequence      n   heads      d   channels per head
    f   latent frames in tokens      p   places of a frame, row by row: rows * columns of the patches
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from einops import rearrange
from torch import Tensor, nn

from ..grids import RepresentationMismatchError
from ..representation import Window
from ..taps import transformer_tap_name
from .base import AttentionObserver, ModelIdentity, UnsupportedModelError, VideoSize, fingerprint
from .comfy_weights import unpatched

ATTENTION = "optimized_attention_override"
_CONTEXT = "context_handler"
Kernel = Callable[..., Tensor]


class Family(Protocol):
    """What is to be known of a family of diffusion transformers; each has a file of its own, ``comfy_dit_<name>.py``.

    Attributes:
        name: short, the first part of `ModelIdentity.architecture`.
        title: for people.
        default_blocks: which blocks to read where nobody says, as a part of the depth: from and to, 0 to 1.
        group: frames of the video in a latent frame, but for the first, which is one.
    """

    name: str
    title: str
    default_blocks: tuple[float, float]
    group: int

    def recognises(self, network: nn.Module) -> bool:
        """Whether a MODEL's network is one of this family that is supported."""
        ...

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The transformer blocks in the order of execution; the first attention in each is the self-attention."""
        ...

    def heads(self, block: nn.Module) -> int:
        """Heads of a block's self-attention."""
        ...

    def query_weight(self, block: nn.Module) -> Tensor:
        """Of a block's self-attention."""
        ...

    def patch(self, network: nn.Module) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token."""
        ...

    def image_tokens(self, tokens: Tensor, count: int) -> Tensor:
        """``[b, count, n * d]`` of ``tokens`` ``[b, s, n * d]``: those of the video, frame by frame."""
        ...


class TransformerHost:
    """One MODEL with a diffusion transformer of a known family."""

    group: int
    """Frames of the video in a frame of tokens, which may be several latent ones."""

    def __init__(self, patcher: Any, family: Family) -> None:
        self._patcher, self._family = patcher, family
        self._network = patcher.get_model_object("diffusion_model")
        # A token of several latent frames begins with the first one's, so this is right to half a group.
        self.group = family.group * self._patch[0]

    @property
    def title(self) -> str:
        """What was recognised."""
        return f"{self._family.title}, {len(self._blocks)} blocks"

    @property
    def name(self) -> str:
        """For messages."""
        return self._family.title

    @property
    def sites(self) -> dict[str, nn.Module]:
        """The blocks by the name of their tap, in the order of execution."""
        return {transformer_tap_name(i): block for i, block in enumerate(self._blocks)}

    @property
    def default_blocks(self) -> str:
        """See `Family.default_blocks`."""
        count = len(self._blocks)
        first, last = (round(share * count) for share in self._family.default_blocks)
        first = min(first, count - 1)
        return ", ".join(f"blocks.{i}" for i in range(first, max(last, first + 1)))

    @property
    def identity(self) -> ModelIdentity:
        """Architecture (family and width), fingerprint and heads; see `ModelIdentity`."""
        weights = {name: self._family.query_weight(block) for name, block in self.sites.items()}
        own = unpatched(self._patcher, self._network, weights, "diffusion_model.")
        width = next(iter(weights.values())).shape[0]
        heads = {name: self._family.heads(block) for name, block in self.sites.items()}
        return ModelIdentity(f"{self._family.name}/{width}", fingerprint(own), heads)

    @property
    def mutates(self) -> bool:
        """Whether the network changes activations in place."""
        return False

    def video(self, latent: Tensor) -> VideoSize:
        """Of a latent ``[b, c, t, y, x]``; frames are counted in tokens.

        Raises:
            RepresentationMismatchError: the latent is none of a video.
        """
        if latent.ndim != 5:
            raise RepresentationMismatchError(
                f"{self.name} samples videos with latents of 5 dimensions, this latent has {latent.ndim}: use the "
                f"empty latent, or the VAE, that is made for it"
            )
        return VideoSize(-(-latent.shape[2] // self._patch[0]), latent.shape[-2], latent.shape[-1], self.group)

    def clips(self, x: Tensor) -> int:
        """How many videos a batch ``[b, c, t, y, x]`` of one condition holds."""
        return len(x)

    def require_video(self, video: VideoSize) -> None:
        """Check that the video is seen whole.

        Raises:
            RepresentationMismatchError: it has a single frame.
            UnsupportedModelError: it is sampled in context windows.
        """
        if video.frames < 2:
            raise RepresentationMismatchError(
                f"the latent has {video.frames} frame: motion needs at least 2; give it a longer video"
            )
        if self._patcher.model_options.get(_CONTEXT) is not None:
            raise UnsupportedModelError(
                f"motion guidance does not work with {self.name} in context windows: take the Context Windows node "
                f"out of this graph, and sample at most as many frames as the model takes at once"
            )

    def turns(self, frames: int) -> list[int]:
        """Steps of a run that together show every window: all frames are seen at once, at any step."""
        return [0]

    def off(self, taps: Collection[str]) -> tuple[str, ...]:
        """No block is ever left out."""
        return ()

    def window(self, transformer_options: Mapping[str, Any], x: Tensor, entries: int = 1) -> Window:
        """The frames that a call sees: all."""
        return tuple(range(self.video(x).frames))

    def views(self, window: Window) -> tuple[Window, ...]:
        """Attention sees all at once."""
        return (window,)

    @property
    def scaled(self) -> bool:
        """Whether the sampler holds z; see `comfy_spaces`."""
        from .comfy_spaces import holds_scaled

        return holds_scaled(self._patcher)

    @property
    def flow(self) -> bool:
        """Whether it is sampled by flow matching; see `comfy_spaces`."""
        from .comfy_spaces import is_flow

        return is_flow(self._patcher)

    def rerun(self) -> tuple[set[nn.Module], set[nn.Module]]:
        """The layers that keep much and may run again: blocks, and parts of those of them that may not."""
        return set(self._blocks), {block.ffn for block in self._blocks if hasattr(block, "ffn")}

    @contextmanager
    def observing(
        self,
        observer: AttentionObserver,
        before_tap: Callable[[], None],
        *,
        x: Tensor,
        transformer_options: dict[str, Any],
        kernel: Callable[[Kernel], Kernel] | None = None,
    ) -> Iterator[None]:
        """Hand the queries and keys of ``observer.taps`` to the observer while the block runs.

        Args:
            observer: told of each tap as the model reaches it.
            before_tap: called first at each tap; raises when the user cancels.
            x: what the call is given.
            transformer_options: of the call, its own copy: an attention override is put into it.
            kernel: unused; ComfyUI's override reaches every attention of these networks.
        """
        waiting: list[str] = []

        def watch(name: str) -> Callable[..., None]:
            def begin(*_: Any) -> None:
                waiting[:] = [name]

            return begin

        existing = transformer_options.get(ATTENTION)
        size = self.video(x)
        sites = self.sites

        def override(func: Kernel, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if waiting:
                tap = waiting.pop()
                before_tap()
                heads = kwargs["heads"] if "heads" in kwargs else args[0]
                observer.observe(tap, self._over_frames(tap, q, size), self._over_frames(tap, k, size), heads)
            return func(q, k, v, *args, **kwargs) if existing is None else existing(func, q, k, v, *args, **kwargs)

        transformer_options[ATTENTION] = override
        with ExitStack() as stack:
            for name in observer.taps:
                stack.callback(sites[name].register_forward_pre_hook(watch(name)).remove)
            yield

    def _over_frames(self, tap: str, tokens: Tensor, size: VideoSize) -> Tensor:
        """``[b * p, f, n * d]`` of a layer's queries or keys ``[b, s, n * d]``."""
        _, *patch = self._patch
        places = -(-size.height // patch[0]) * -(-size.width // patch[1])
        if tokens.ndim != 3 or tokens.shape[1] < size.frames * places:
            raise UnsupportedModelError(
                f"{tap} works on tokens of shape {list(tokens.shape)}, and the video has {size.frames} frames of "
                f"{places} places: take patches of the attention away"
            )
        image = self._family.image_tokens(tokens, size.frames * places)
        return rearrange(image, "b (f p) c -> (b p) f c", f=size.frames)

    @property
    def _blocks(self) -> list[nn.Module]:
        return self._family.blocks(self._network)

    @property
    def _patch(self) -> tuple[int, int, int]:
        return self._family.patch(self._network)
