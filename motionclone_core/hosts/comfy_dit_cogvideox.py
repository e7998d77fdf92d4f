"""CogVideoX, text or image to video: text and image tokens in one sequence, the text first."""

from __future__ import annotations

from torch import Tensor, nn


class CogVideoX:
    """See `comfy_dit.Family`."""

    name = "cogvideox"
    title = "CogVideoX"
    default_blocks = (0.75, 1.0)  # docs/TRANSFORMERS.md
    group = 4

    def recognises(self, network: nn.Module) -> bool:
        return type(network).__name__ == "CogVideoXTransformer3DModel"

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        return list(network.blocks)

    def heads(self, block: nn.Module) -> int:
        return block.num_heads

    def query_weight(self, block: nn.Module) -> Tensor:
        return block.q.weight

    def patch(self, network: nn.Module) -> tuple[int, int, int]:
        return network.patch_size_t or 1, network.patch_size, network.patch_size

    def image_tokens(self, tokens: Tensor, count: int) -> Tensor:
        return tokens[:, tokens.shape[1] - count :]


FAMILY = CogVideoX()
