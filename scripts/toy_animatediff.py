"""A toy AnimateDiff that runs in milliseconds through ComfyUI's real sampling stack.

Its denoiser is exact for a small set of clips, blobs that move in eight directions with four looks: the mean
of the clips, each weighed by how likely the noisy latent is to come from it. Two temporal attention layers read
the denoised clip. Guidance by the motion of one clip should thus draw samples to clips that move the same way.

Needs ComfyUI's interpreter and its folder on the path; nothing of AnimateDiff-Evolved.

Shapes used here:
    n   clips      f   frames      h, w   latent cells      c   channels, 4
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES, SIDE, DIRECTIONS, HEADS = 8, 8, 8, 2
CONDITIONING = [[torch.zeros(1, 77, 768), {}]]
_LOOKS = torch.tensor(
    [[3.0, -2.0, 1.5, 1.0], [-3.0, 1.0, 2.0, -1.0], [1.0, 3.0, -2.0, 2.0], [-1.0, -2.0, -3.0, 1.0]],
    dtype=torch.float64,
)
_TRAVEL, _BLOB = 5.0, 1.2  # latent cells
_POSITIONS = 8  # channels of the positional encoding
_SMALLEST_VARIANCE = 0.02


def clips() -> tuple[Tensor, Tensor]:
    """All clips, ``[n, f, c, h, w]`` in model space with unit variance, and the direction of each in radians."""
    cells = torch.arange(SIDE, dtype=torch.float64)
    videos, directions = [], []
    for direction in range(DIRECTIONS):
        angle = 2 * math.pi * direction / DIRECTIONS
        for look in _LOOKS:
            steps = (torch.arange(FRAMES, dtype=torch.float64) / (FRAMES - 1) - 0.5) * _TRAVEL
            x, y = (SIDE - 1) / 2 + steps * math.cos(angle), (SIDE - 1) / 2 + steps * math.sin(angle)
            squared = (cells[:, None] - y[:, None, None]) ** 2 + (cells - x[:, None, None]) ** 2
            videos.append(look[:, None, None] * torch.exp(-squared / (2 * _BLOB**2))[:, None])
            directions.append(angle)
    stacked = torch.stack(videos)
    return stacked / stacked.std(), torch.tensor(directions, dtype=torch.float64)


class ToyAttention(nn.Module):
    """A temporal self-attention layer as far as a host looks at one."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, self.is_cross_attention = HEADS, False
        self.to_q, self.to_k = (nn.Linear(channels, channels, bias=False) for _ in range(2))
        for layer in (self.to_q, self.to_k):
            layer.weight.data = torch.randn(channels, channels, generator=generator) * 1.2 / channels**0.5
        self.actual_attention = lambda q, k, v, heads, mask=None: v

    def forward(self, x: Tensor) -> None:
        self.actual_attention(self.to_q(x), self.to_k(x), x, self.heads, None)


class ToyMotionModel(nn.Module):
    """Two attention layers where AnimateDiff-Evolved keeps ``up_blocks.1``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.attention = nn.ModuleList(ToyAttention(channels, generator) for _ in range(2))
        self.mm_info = SimpleNamespace(sd_type="toy", mm_name="toy")
        self.encoding_max_len = 32
        block = SimpleNamespace(attention_blocks=list(self.attention))
        module = SimpleNamespace(temporal_transformer=SimpleNamespace(transformer_blocks=[block]))
        self.down_blocks = self.mid_block = None
        self.up_blocks = [SimpleNamespace(motion_modules=[]), SimpleNamespace(motion_modules=[module])]


class ToyUNet(nn.Module):
    """Predicts the noise by the exact denoiser."""

    def __init__(self, dtype: torch.dtype, **_: Any) -> None:
        super().__init__()
        self.dtype = dtype
        self.unused = nn.Parameter(torch.zeros(1))
        self.data, _ = clips()
        self.motion = ToyMotionModel(9 * 4 + _POSITIONS)
        self.model_sampling: Any = None

    def forward(self, x: Tensor, timesteps: Tensor, **_: Any) -> Tensor:
        sigma = self.model_sampling.sigma(timesteps).double()[0]
        video = (x.double() * (1 + sigma**2).sqrt()).unflatten(0, (-1, FRAMES))
        distance = (video[:, None] - self.data).square().sum(dim=(2, 3, 4, 5))
        weights = torch.softmax(-distance / (2 * (sigma**2 + _SMALLEST_VARIANCE)), dim=1)
        denoised = torch.einsum("bn,nfchw->bfchw", weights, self.data)
        features = _features(denoised)
        for layer in self.motion.attention:
            layer(features)
        return ((video - denoised) / sigma).flatten(0, 1).float()


def _features(video: Tensor) -> Tensor:
    """Each cell's 3 x 3 surroundings and a positional encoding, ``[b * h * w, f, 44]``, float32."""
    batch = video.shape[0]
    patches = F.unfold(video.flatten(0, 1), 3, padding=1).unflatten(0, (batch, FRAMES))
    patches = patches.permute(0, 3, 1, 2).flatten(0, 1)
    frames = torch.arange(FRAMES, dtype=torch.float64)
    encoding = torch.stack([torch.sin(frames * 1.3**i) for i in range(_POSITIONS)], dim=-1) * 0.3
    return torch.cat([patches, encoding.expand(patches.shape[0], -1, -1)], dim=-1).float()


def toy_model() -> comfy.model_patcher.ModelPatcher:
    """A MODEL with AnimateDiff's noise schedule, patched as AnimateDiff-Evolved would patch it."""
    config = comfy.supported_models.SD15({})
    config.unet_config = {"dtype": torch.float32}
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.EPS, unet_model=ToyUNet)
    alphas = torch.cumprod(1.0 - torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64), 0)
    model.model_sampling.set_sigmas(((1 - alphas) / alphas).sqrt().float())
    unet = model.diffusion_model
    unet.model_sampling = model.model_sampling
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, cpu, cpu)
    patcher.set_additional_models("ADE", [comfy.model_patcher.ModelPatcher(unet.motion, cpu, cpu)])
    return patcher
