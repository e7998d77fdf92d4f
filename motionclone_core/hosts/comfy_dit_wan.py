"""Wan 2.1 and 2.2, text or image to video."""

from __future__ import annotations

from torch import Tensor, nn

from .base import UnsupportedModelError


class Wan:
    """See `comfy_dit.Family`."""

    name = "wan"
    title = "Wan 2.1 / 2.2"
    default_blocks = (0.4, 0.5)  # docs/TRANSFORMERS.md
    group = 4

    def recognises(self, network: nn.Module) -> bool:
        """The plain network: variants with further inputs (VACE, camera, sound) have classes of their own."""
        return type(network).__name__ == "WanModel" and type(network).__module__.endswith("wan.model")

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        return list(network.blocks)

    def heads(self, block: nn.Module) -> int:
        return block.self_attn.num_heads

    def query_weight(self, block: nn.Module) -> Tensor:
        return block.self_attn.q.weight

    def patch(self, network: nn.Module) -> tuple[int, int, int]:
        return tuple(network.patch_size)

    def image_tokens(self, tokens: Tensor, count: int) -> Tensor:
        """All of them.

        Raises:
            UnsupportedModelError: there are others, of reference pictures.
        """
        if tokens.shape[1] != count:
            raise UnsupportedModelError(
                f"the model attends to {tokens.shape[1]} tokens, and the video has {count}: motion guidance does not "
                f"work with Wan's reference latents; take the node that adds them out of this graph"
            )
        return tokens


FAMILY = Wan()
