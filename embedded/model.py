"""The embedded model: its parts, and how they are built from one file.

Three networks: a caption encoder of our own, AutoencoderTiny between pictures and latents, and
UNetMotionModel, which is AnimateDiff's network at any width; the last two are classes of diffusers.

Shapes used here:
    b   clips      f   frames      h, w   pixels      c   latent channels      y, x   latent cells
    l   words      d   width of a word
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from motionclone_core.hosts.diffusers_animatediff import DiffusersAnimateDiff
from motionclone_core.paths import write_whole

from .drawing import COLOURS, GROUNDS, PATTERNS, SHAPES

MODEL_FILE = Path(__file__).parent / "animatediff_drawn.safetensors"
HASH_FILE = MODEL_FILE.with_suffix(".sha256")
FORMAT = "motionclone-embedded-1"

LATENT_CHANNELS = 4
# Pixels of a latent cell's side; and of the coarsest cell's that the network works on.
CELL, COARSEST_CELL = 4, 16
CAPTION_LENGTH = 6
_NULL = "-"
NULL_CAPTION = (_NULL,) * CAPTION_LENGTH
VOCABULARY = (_NULL, "nothing", *COLOURS, *SHAPES, *PATTERNS, *GROUNDS)

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "down_block_types": ("DownBlockMotion", "CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion"),
    "up_block_types": ("CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion", "UpBlockMotion"),
    "block_out_channels": (32, 64, 128),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "norm_num_groups": 8,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": True,
}
AUTOENCODER_CONFIG: dict[str, Any] = {
    "encoder_block_out_channels": (24, 24, 24),
    "decoder_block_out_channels": (24, 24, 24),
    "num_encoder_blocks": (1, 1, 2),
    "num_decoder_blocks": (2, 1, 1),
    "latent_channels": LATENT_CHANNELS,
}


class ModelFileError(ValueError):
    """The model's file is missing, damaged, or another than the one that this version was measured with."""


def word_ids(words: Sequence[str]) -> list[int]:
    """The places of words in the vocabulary.

    Raises:
        ValueError: a word is not in it, or there are not `CAPTION_LENGTH`.
    """
    if len(words) != CAPTION_LENGTH:
        raise ValueError(f"a caption has {CAPTION_LENGTH} words, got {len(words)}")
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not in the vocabulary: {', '.join(VOCABULARY[1:])}")
    return [VOCABULARY.index(word) for word in words]


class CaptionEncoder(nn.Module):
    """Word ids ``[b, l]`` to embeddings ``[b, l, d]``: a table and a place, nothing else."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY), width)
        self.places = nn.Parameter(torch.randn(CAPTION_LENGTH, width) * 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        return self.words(ids) + self.places


def build_unet() -> nn.Module:
    """UNetMotionModel with fresh weights."""
    from diffusers import UNetMotionModel
    from diffusers.models.attention_processor import AttnProcessor

    unet = UNetMotionModel(**UNET_CONFIG)
    # Sixteen frames are too few for the fused attention of a CPU: written out it takes half the time.
    unet.set_attn_processor(AttnProcessor())
    return unet


def build_autoencoder() -> nn.Module:
    """AutoencoderTiny with fresh weights."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(**AUTOENCODER_CONFIG)


class EmbeddedModel(nn.Module):
    """The whole model; fresh weights until some are loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = build_unet()
        self.autoencoder = build_autoencoder()
        self.captions = CaptionEncoder(UNET_CONFIG["cross_attention_dim"])

    @property
    def host(self) -> DiffusersAnimateDiff:
        """The video network as the core sees it."""
        return DiffusersAnimateDiff(self.unet)

    @torch.no_grad()
    def encode(self, video: NDArray[np.uint8]) -> Tensor:
        """Pictures ``[f, h, w, 3]`` RGB to a clean latent ``[1, c, f, y, x]``; it was trained on 64 x 64.

        Raises:
            ValueError: the pictures are not uint8, or their sides are no multiples of 16.
        """
        fits = video.ndim == 4 and video.shape[3] == 3 and all(side % COARSEST_CELL == 0 for side in video.shape[1:3])
        if video.dtype != np.uint8 or not fits:
            raise ValueError(
                f"the embedded model takes uint8 pictures [f, h, w, 3] whose sides are multiples of {COARSEST_CELL}, "
                f"got {video.dtype} {list(video.shape)}"
            )
        x = torch.from_numpy(video).to(self.captions.places).permute(0, 3, 1, 2) / 127.5 - 1
        return self.autoencoder.encoder(x).transpose(0, 1)[None]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[NDArray[np.uint8]]:
        """Latents ``[b, c, f, y, x]`` to one video ``[f, h, w, 3]`` RGB a clip.

        Raises:
            ValueError: a latent holds NaN or infinity.
        """
        if not bool(latents.isfinite().all()):
            raise ValueError("the latents hold values that are not numbers")
        videos = []
        for latent in latents.to(self.captions.places):
            x = self.autoencoder.decoder(latent.transpose(0, 1)).clamp(-1, 1)
            videos.append(((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
        return videos

    @torch.no_grad()
    def text(self, *captions: Sequence[str]) -> Tensor:
        """Captions of words (`drawing.Scene.words`) to embeddings ``[b, l, d]``."""
        ids = torch.tensor([word_ids(words) for words in captions], device=self.captions.places.device)
        return self.captions(ids)

    @property
    def null_text(self) -> Tensor:
        """The empty prompt, ``[1, l, d]``."""
        return self.text(NULL_CAPTION)


def save_model(model: EmbeddedModel, path: Path, card: dict[str, str]) -> str:
    """Write the weights in float16 with the card's entries as metadata; returns the file's SHA-256."""
    weights = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, save(weights, {"format": FORMAT, "card": json.dumps(card, sort_keys=True)}))
    return file_hash(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def card_of(path: Path = MODEL_FILE) -> dict[str, str]:
    """What `save_model` was told of a file: steps, hours, loss, range of the training clips' latents and the like.

    Raises:
        ModelFileError: there is no such file, it is damaged, or it has no card.
    """
    metadata, _ = _opened(path)
    try:
        return json.loads(metadata["card"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ModelFileError(
            f"{path.name} has no card that says how it was trained: export it anew with scripts/train_embedded.py"
        ) from error


def measured_hash() -> str:
    """SHA-256 of the model that this version was measured with.

    Raises:
        ModelFileError: the file that says it is missing or garbled.
    """
    text = HASH_FILE.read_text(encoding="ascii", errors="replace") if HASH_FILE.is_file() else ""
    found = re.match(r"\s*([0-9a-f]{64})\b", text)
    if not found:
        raise ModelFileError(
            f"{HASH_FILE.name} is missing, or begins with {text[:64]!r} instead of the 64 digits of the model's "
            f"SHA-256: check it out again"
        )
    return found[1]


def load_model(path: Path = MODEL_FILE, *, sha256: str = "", device: str = "cpu") -> EmbeddedModel:
    """The trained model, in float32, its weights constant.

    Args:
        path: a file that `save_model` wrote.
        sha256: what its hash has to be; by default `measured_hash` for the shipped file, and any for others.
        device: where to put it.

    Raises:
        ModelFileError: there is no such file, it is damaged, or its hash differs.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no model at {path}: it is part of the repository, check it out again")
    shipped = MODEL_FILE.is_file() and path.samefile(MODEL_FILE)
    found = file_hash(path)
    wanted = sha256 or (measured_hash() if shipped else found)
    if found != wanted:
        raise ModelFileError(
            f"{path.name} has the SHA-256 {found}, this version was measured with {wanted}: check the file "
            f"out again, or train and export it anew with scripts/train_embedded.py"
        )
    model = EmbeddedModel()
    model.load_state_dict({name: tensor.float() for name, tensor in _read(path, model).items()})
    return model.requires_grad_(False).eval().to(device)


def _read(path: Path, model: EmbeddedModel) -> dict[str, Tensor]:
    metadata, weights = _opened(path)
    found = metadata.get("format")
    if found != FORMAT:
        raise ModelFileError(f"{path.name} has the format {found}, this version reads {FORMAT}")
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in weights.items()}:
        raise ModelFileError(f"{path.name} holds other layers than this version builds: check it out again")
    return weights


def _opened(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A file's metadata and tensors."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path.name} is damaged or missing ({error}): check it out again") from error
