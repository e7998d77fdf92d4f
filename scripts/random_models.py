#!/usr/bin/env python3
"""Random weights of the real shapes: SD 1.5, an AnimateDiff v3 motion module, both SparseCtrls, a ControlNet.

They load like the real files and compute finite numbers, which is all that a numerical check needs, and they
have to be downloaded from nowhere. 5.7 GB in fp16, made once (about a minute) and kept in
``MOTIONCLONE_MODELS``, else ``~/.cache/motionclone``. What `OTHERS` lists is made when a test asks for it, up to
1.5 GB each; the networks of `SMALL`, whose sizes ComfyUI reads off their files, take some 10 MB. The shapes come
from ComfyUI's own classes, so the work is done by ComfyUI's interpreter; started with another one, this script
hands over to it.

A tensor depends on its name and shape only, not on the version of ComfyUI or the order of the keys.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from find_comfyui import ComfyUI, ComfyUINotFound, check_interpreter, find_comfyui

if TYPE_CHECKING:
    import torch

FORMAT = 1  # raise it whenever a number in the files would change
SEED = 20240608

MOTION_WIDTHS = (320, 640, 1280, 1280)  # of the UNet's levels, from fine to coarse

UNET_CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "legacy": False,
}
# Segmind's Vega: the blocks of SDXL with the fewest transformers in them.
SDXL_CONFIG = {
    **UNET_CONFIG,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": -1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_heads": -1,
    "num_head_channels": 64,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
VAE_CONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}

# Plain fan-in scaling would leave the temporal attention almost uniform, the latents of every picture nearly
# the same and the predicted noise small. These factors bring each near the size that trained weights give.
GAINS = (
    (r"attention_blocks\.\d\.to_[qk]\.weight$", 2.5),
    (r"token_embedding\.weight$", 20.0),
    (r"position_embedding\.weight$", 5.0),
    (r"first_stage_model\.quant_conv\.weight$", 10.0),
    (r"first_stage_model\.decoder\.conv_out\.weight$", 2.0),
    (r"(^|diffusion_model\.)out\.2\.weight$", 2.0),
    # Of transformers: a text is to count, and a block to change what goes through it.
    (r"text_proj\.weight$|text_embedding\.\d\.weight$", 4.0),
    (r"time_embedding\.\d\.weight$|time_embedding_linear_\d\.weight$", 4.0),
    (r"time_projection\.1\.weight$|norm\d\.linear\.weight$", 3.0),
    (r"\.modulation$", 20.0),
    (r"\.norm_[qk]\.weight$", 1.5),
    (r"decoder\.head\.2\.weight$", 3.0),
)

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class MotionKind:
    """What tells one kind of motion module from another.

    Attributes:
        frames: length of the position encoding; None where the file holds none.
        widths: of the levels.
        middle: whether there is a module in the middle block.
        inputs: channels that the UNet's first layer is to take; 4 where it is left alone.
        hotshot: whether the keys are named as HotshotXL names them.
        encoder: whether there is AnimateLCM-I2V's encoder of pictures.
        marked: whether there is a key that AnimateDiff-Evolved knows FancyVideo by.
    """

    frames: int | None = 32
    widths: tuple[int, ...] = MOTION_WIDTHS
    middle: bool = False
    inputs: int = 4
    hotshot: bool = False
    encoder: bool = False
    marked: bool = False


V3 = MotionKind()
OTHERS = {
    "v1_sd15_mm": MotionKind(frames=24),
    "v2_sd15_mm": MotionKind(middle=True),
    "lcm_sd15_mm": MotionKind(frames=None),
    "lcm_i2v_sd15_mm": MotionKind(frames=None, encoder=True),
    "pia_sd15_mm": MotionKind(inputs=9),
    "fancyvideo_sd15_mm": MotionKind(inputs=9, marked=True),
    "sdxl_mm": MotionKind(widths=MOTION_WIDTHS[:3]),
    "hotshotxl_mm": MotionKind(frames=24, widths=MOTION_WIDTHS[:3], hotshot=True),
}
SDXL_UNET = "sdxl_vega_unet"
CLIP_L = "clip_vit_large_patch14"
"""Both towers of CLIP with their projections in one file, as OpenAI's; ComfyUI knows no smaller ones."""

WAN_CONFIG = {"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 4, "out_dim": 16}
COGVIDEOX_CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "num_layers": 4,
    "in_channels": 16,
    "out_channels": 16,
    "time_embed_dim": 128,
    "text_embed_dim": 4096,
    "use_rotary_positional_embeddings": True,
}
WAN_VAE_CONFIG = {"dim": 16, "z_dim": 16, "temperal_downsample": [False, True, True]}
WAN, WAN_I2V, WAN_I2V_CLIP, WAN_5B, VACE, COGVIDEOX, COGVIDEOX_1_5, COGVIDEOX_I2V, WAN_VAE = (
    "wan_t2v", "wan_i2v", "wan_i2v_clip", "wan_5b", "wan_vace", "cogvideox", "cogvideox_1_5",
    "cogvideox_i2v", "wan_vae",
)  # fmt: skip
SMALL = {
    WAN: ("comfy.ldm.wan.model", "WanModel", WAN_CONFIG | {"model_type": "t2v", "in_dim": 16}),
    # As Wan 2.2 14B has it, whose pictures come as latents alone.
    WAN_I2V: ("comfy.ldm.wan.model", "WanModel", WAN_CONFIG | {"model_type": "t2v", "in_dim": 36}),
    # As Wan 2.1 has it, which sees them through CLIP as well.
    WAN_I2V_CLIP: ("comfy.ldm.wan.model", "WanModel", WAN_CONFIG | {"model_type": "i2v", "in_dim": 36}),
    # As the smaller Wan 2.2, for another VAE.
    WAN_5B: (
        "comfy.ldm.wan.model",
        "WanModel",
        WAN_CONFIG | {"model_type": "t2v", "in_dim": 48, "out_dim": 48},
    ),
    VACE: (
        "comfy.ldm.wan.model",
        "VaceWanModel",
        WAN_CONFIG | {"model_type": "vace", "in_dim": 16, "vace_layers": 1, "vace_in_dim": 96},
    ),
    COGVIDEOX: ("comfy.ldm.cogvideo.model", "CogVideoXTransformer3DModel", COGVIDEOX_CONFIG),
    # Whose tokens are two latent frames.
    COGVIDEOX_1_5: (
        "comfy.ldm.cogvideo.model",
        "CogVideoXTransformer3DModel",
        COGVIDEOX_CONFIG | {"patch_size_t": 2},
    ),
    # Which sees a picture's latents beside the video's.
    COGVIDEOX_I2V: (
        "comfy.ldm.cogvideo.model",
        "CogVideoXTransformer3DModel",
        COGVIDEOX_CONFIG | {"in_channels": 32},
    ),
    WAN_VAE: ("comfy.ldm.wan.vae", "WanVAE", WAN_VAE_CONFIG),
}
"""Networks of small shapes, by the name of their file: ComfyUI's class for each, and how it is made."""
TEXT_TYPES = {"wan": "sd3", "cogvideox": "sd3"}
"""What to load CLIP-L as in place of a text encoder of these types: it is then as wide."""


@dataclass(frozen=True)
class ModelFiles:
    """Where the files lie."""

    checkpoint: Path
    motion_module: Path
    sparse_control: Path
    """The SparseCtrl of pictures."""
    scribble_control: Path
    """The SparseCtrl of sketches."""
    controlnet: Path

    def exist(self) -> bool:
        return all(getattr(self, part.name).is_file() for part in fields(self))


def model_files() -> ModelFiles:
    """The paths in the cache, whether or not the files are there yet."""
    return ModelFiles(
        checkpoint=model_file("sd15"),
        motion_module=model_file("v3_sd15_mm"),
        sparse_control=model_file("v3_sd15_sparsectrl_rgb"),
        scribble_control=model_file("v3_sd15_sparsectrl_scribble"),
        controlnet=model_file("sd15_controlnet"),
    )


def model_file(name: str) -> Path:
    """The path in the cache of a file, by the name that sets it apart."""
    named = os.environ.get("MOTIONCLONE_MODELS")
    folder = Path(named).expanduser().absolute() if named else Path("~/.cache/motionclone").expanduser()
    return folder / f"random_{name}_format{FORMAT}.safetensors"


def published_names(files: ModelFiles) -> dict[str, dict[str, Path]]:
    """ComfyUI's folders, and in each the files that stand for published ones, by the names of those."""
    return {
        "checkpoints": {"realisticVisionV51_v51VAE.safetensors": files.checkpoint},
        "animatediff_models": {"v3_sd15_mm.ckpt": files.motion_module},
        "controlnet": {
            "v3_sd15_sparsectrl_rgb.ckpt": files.sparse_control,
            "v3_sd15_sparsectrl_scribble.ckpt": files.scribble_control,
            "control_v11p_sd15_canny_fp16.safetensors": files.controlnet,
        },
    }


def published_transformers(found: ComfyUI) -> dict[str, dict[str, Path]]:
    """The same of diffusion transformers, made if need be. Their text encoders have no small ones: CLIP-L stands in,
    which `TEXT_TYPES` makes as wide as theirs."""
    small, clip = ensure_small(found), ensure_other(found, CLIP_L)
    high, low = (f"wan2.2_t2v_{noise}_noise_14B_fp8_scaled.safetensors" for noise in ("high", "low"))
    return {
        "diffusion_models": {
            "cogvideox_2b_fp16.safetensors": small.get(COGVIDEOX, small[WAN]),
            "wan2.1_t2v_1.3B_fp16.safetensors": small[WAN],
            high: small[WAN],
            low: small[WAN],
        },
        "vae": dict.fromkeys(("cogvideox_vae.safetensors", "wan_2.1_vae.safetensors"), small[WAN_VAE]),
        "text_encoders": dict.fromkeys(
            ("t5xxl_fp16.safetensors", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"), clip
        ),
    }


def published_links(found: ComfyUI, folder: Path, *, adapter: Path | None = None) -> dict[str, list[Path]]:
    """Links to random weights by the names that the example workflows ask for, in ComfyUI's folders.

    Args:
        found: makes the weights that are not there.
        folder: where the links are put.
        adapter: stands for AnimateDiff's adapter LoRA; without it a file does that no run can load.
    """
    files = ensure_models(found)
    kinds = published_names(files) | {"loras": {"v3_sd15_adapter.ckpt": adapter or files.motion_module}}
    kinds |= published_transformers(found)
    for name, file in (pair for names in kinds.values() for pair in names.items()):
        (folder / name).symlink_to(file)
    return {kind: [folder / name for name in names] for kind, names in kinds.items()}


def ensure_models(found: ComfyUI) -> ModelFiles:
    """The files, made with the interpreter of ``found`` if they are not in the cache.

    Raises:
        subprocess.CalledProcessError: they could not be made; the output says why.
    """
    files = model_files()
    if not files.exist():
        _make_with(found)
    return files


def ensure_other(found: ComfyUI, name: str) -> Path:
    """The file of `SDXL_UNET`, of `CLIP_L` or of one of `OTHERS`, made likewise.

    Raises:
        subprocess.CalledProcessError: it could not be made; the output says why.
    """
    if not model_file(name).is_file():
        _make_with(found, name)
    return model_file(name)


def ensure_small(found: ComfyUI) -> dict[str, Path]:
    """The files of `SMALL`, by their names; CogVideoX only of a ComfyUI that has it.

    Raises:
        subprocess.CalledProcessError: they could not be made; the output says why.
    """
    names = [name for name in SMALL if name not in (COGVIDEOX, COGVIDEOX_1_5, COGVIDEOX_I2V) or has_cogvideox(found)]
    missing = [name for name in names if not model_file(name).is_file()]
    if missing:
        _make_with(found, *missing)
    return {name: model_file(name) for name in names}


def has_cogvideox(found: ComfyUI) -> bool:
    """Whether this ComfyUI runs CogVideoX natively."""
    return (found.path / "comfy" / "ldm" / "cogvideo").is_dir()


def _make_with(found: ComfyUI, *names: str) -> None:
    here = {"COMFYUI_PATH": str(found.path), "COMFYUI_PYTHON": str(found.python)}
    subprocess.run([str(found.python), __file__, "--make", *names], env={**os.environ, **here}, check=True)


def motion_module_shapes(kind: MotionKind = V3) -> Shapes:
    """Names and shapes of a motion module: 2 sites a down block, 3 an up block."""
    shapes: Shapes = {}
    for level, width in enumerate(kind.widths):
        for site in range(2):
            shapes |= _site_shapes(f"down_blocks.{level}.motion_modules.{site}", width, frames=kind.frames)
        for site in range(3):
            block = f"up_blocks.{len(kind.widths) - 1 - level}"
            shapes |= _site_shapes(f"{block}.motion_modules.{site}", width, frames=kind.frames)
    if kind.middle:
        shapes |= _site_shapes("mid_block.motion_modules.0", kind.widths[-1], frames=kind.frames)
    if kind.inputs != UNET_CONFIG["in_channels"]:
        shapes |= _affine("conv_in", kind.widths[0], kind.inputs, 3, 3)
    if kind.encoder:
        shapes |= _picture_encoder_shapes(kind.widths)
    if kind.marked:
        shapes["FancyVideo"] = (1,)
    return {_hotshot_name(name): shape for name, shape in shapes.items()} if kind.hotshot else shapes


def _hotshot_name(name: str) -> str:
    name = re.sub(r"motion_modules\.(\d)\.temporal_transformer", r"temporal_attentions.\1", name)
    return name.replace("pos_encoder.pe", "pos_encoder.positional_encoding")


def _picture_encoder_shapes(widths: tuple[int, ...]) -> Shapes:
    """Of AnimateLCM-I2V: two blocks a level, the first of which widens what comes from the level before."""
    shapes = _affine("img_encoder.conv_in", widths[0], UNET_CONFIG["in_channels"], 3, 3)
    for level, width in enumerate(widths):
        before = widths[max(0, level - 1)]
        if before != width:
            shapes |= _affine(f"img_encoder.body.{2 * level}.in_conv", width, before, 1, 1)
        for block in (2 * level, 2 * level + 1):
            shapes |= _affine(f"img_encoder.body.{block}.block1", width, width, 3, 3)
            shapes |= _affine(f"img_encoder.body.{block}.block2", width, width, 1, 1)
    return shapes


def _site_shapes(site: str, c: int, *, attentions: int = 2, frames: int | None = V3.frames) -> Shapes:
    root = f"{site}.temporal_transformer"
    block = f"{root}.transformer_blocks.0"
    shapes: Shapes = {
        **_affine(f"{root}.norm", c),
        **_affine(f"{root}.proj_in", c, c),
        **_affine(f"{block}.ff.net.0.proj", 8 * c, c),
        **_affine(f"{block}.ff.net.2", c, 4 * c),
        **_affine(f"{block}.ff_norm", c),
        **_affine(f"{root}.proj_out", c, c),
    }
    for index in range(attentions):
        attention = f"{block}.attention_blocks.{index}"
        shapes |= {f"{attention}.to_{letter}.weight": (c, c) for letter in "qkv"}
        shapes |= _affine(f"{attention}.to_out.0", c, c)
        shapes |= _affine(f"{block}.norms.{index}", c)
        if frames is not None:
            shapes[f"{attention}.pos_encoder.pe"] = (1, frames, c)
    return shapes


def _affine(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _make_comfy_importable(comfyui: Path) -> None:
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    args.cpu = True  # without it ComfyUI asks for a GPU while it is imported


def checkpoint_shapes(comfyui: Path) -> Shapes:
    """Names and shapes of an SD 1.5 checkpoint, read off ComfyUI's own classes on the meta device."""
    _make_comfy_importable(comfyui)
    import comfy.clip_model
    import comfy.ops
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    ops = comfy.ops.disable_weight_init
    clip_config = json.loads((comfyui / "comfy" / "sd1_clip_config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": UNetModel(**UNET_CONFIG, operations=ops),
            "first_stage_model.": AutoencoderKL(ddconfig=VAE_CONFIG, embed_dim=4),
            "cond_stage_model.transformer.": comfy.clip_model.CLIPTextModel(clip_config, None, "meta", ops),
        }
    named = {p + k: tuple(v.shape) for p, part in parts.items() for k, v in part.state_dict().items()}
    # SD 1.5 checkpoints have no text projection, and ComfyUI would not look for it under this name.
    return {k: s for k, s in named.items() if "text_projection" not in k}


def sdxl_shapes(comfyui: Path) -> Shapes:
    """Names and shapes of a UNet that ComfyUI takes for SDXL's, as a diffusion model's file holds them."""
    _make_comfy_importable(comfyui)
    import comfy.ops
    import torch
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        network = UNetModel(**SDXL_CONFIG, operations=comfy.ops.disable_weight_init)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def clip_shapes(comfyui: Path) -> Shapes:
    """Names and shapes of CLIP ViT-L/14, read off ComfyUI's own classes on the meta device."""
    _make_comfy_importable(comfyui)
    import comfy.clip_model
    import comfy.ops
    import torch

    ops = comfy.ops.disable_weight_init
    text, vision = (
        json.loads((comfyui / "comfy" / name).read_text(encoding="utf-8"))
        for name in ("sd1_clip_config.json", "clip_vision_config_vitl.json")
    )
    with torch.device("meta"):
        towers = (
            comfy.clip_model.CLIPTextModel(text, None, "meta", ops),
            comfy.clip_model.CLIPVisionModelProjection(vision, None, "meta", ops),
        )
    return {key: tuple(value.shape) for tower in towers for key, value in tower.state_dict().items()}


def small_shapes(comfyui: Path, name: str) -> Shapes:
    """Names and shapes of one of `SMALL`, read off ComfyUI's own class on the meta device."""
    _make_comfy_importable(comfyui)
    import comfy.ops
    import torch

    module, kind, config = SMALL[name]
    options = {} if name == WAN_VAE else {"dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
    with torch.device("meta"):
        network = getattr(import_module(module), kind)(**config, **options)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def controlnet_shapes(comfyui: Path, *, hint_channels: int = 3) -> Shapes:
    """Names and shapes of a ControlNet for SD 1.5, read off ComfyUI's own class on the meta device."""
    _make_comfy_importable(comfyui)
    import comfy.ops
    import torch
    from comfy.cldm.cldm import ControlNet

    config = {key: value for key, value in UNET_CONFIG.items() if "out" not in key}
    with torch.device("meta"):
        network = ControlNet(**config, hint_channels=hint_channels, operations=comfy.ops.disable_weight_init)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def sparse_control_shapes(comfyui: Path, *, sketches: bool = False) -> Shapes:
    """Names and shapes of a SparseCtrl: SD 1.5's encoder as diffusers names it, and motion modules of one attention.

    One more channel of the hint says which frames are given. Pictures come as latents and go through one layer;
    sketches come as pictures, and go through those of a ControlNet.
    """
    _make_comfy_importable(comfyui)
    import comfy.utils

    names = {ldm: diffusers for diffusers, ldm in comfy.utils.unet_to_diffusers(UNET_CONFIG).items()}
    layers = ("conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out")
    for part in ("weight", "bias"):
        names |= {f"zero_convs.{i}.0.{part}": f"controlnet_down_blocks.{i}.{part}" for i in range(12)}
        for i, layer in enumerate(layers):
            names[f"input_hint_block.{2 * i}.{part}"] = f"controlnet_cond_embedding.{layer}.{part}"
        names[f"middle_block_out.0.{part}"] = f"controlnet_mid_block.{part}"
    shapes = {names[key]: shape for key, shape in controlnet_shapes(comfyui, hint_channels=4).items()}
    if not sketches:
        shapes = {key: shape for key, shape in shapes.items() if "cond_embedding" not in key}
        shapes |= _affine("controlnet_cond_embedding", MOTION_WIDTHS[0], 5, 3, 3)
    for level, width in enumerate(MOTION_WIDTHS):
        for site in range(2):
            shapes |= _site_shapes(f"down_blocks.{level}.motion_modules.{site}", width, attentions=1)
    return shapes


def random_weights(shapes: Shapes) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor in fp16: scaled by its fan-in, norms as the identity, biases zero, sinusoidal positions."""
    import torch

    for name, shape in shapes.items():
        if "pos_encoder" in name:
            value = _sinusoids(*shape)
        elif len(shape) == 1 or name.endswith(".gamma"):
            value = torch.full(shape, _gain(name)) if name.endswith(("weight", "gamma")) else torch.zeros(shape)
        else:
            generator = torch.Generator().manual_seed(SEED ^ zlib.crc32(name.encode()))
            bound = _gain(name) / math.sqrt(math.prod(shape[1:]))
            value = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        yield name, value.half().contiguous()


def _gain(name: str) -> float:
    return next((gain for pattern, gain in GAINS if re.search(pattern, name)), 1.0)


def _sinusoids(batch: int, frames: int, width: int) -> torch.Tensor:
    """The position encoding of "Attention Is All You Need" (section 3.5), shape (batch, frames, width)."""
    import torch

    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(frames)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(1, frames, width).repeat(batch, 1, 1)


def write_safetensors(path: Path, shapes: Shapes) -> None:
    """Fills and writes one file; a reader never sees half of it."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(dict(random_weights(shapes)), part, metadata={"random_weights_format": str(FORMAT)})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def make_models(comfyui: Path) -> None:
    """Writes whichever of the files is not in the cache. Runs under ComfyUI's interpreter."""
    files = model_files()
    shapes = {
        files.motion_module: motion_module_shapes,
        files.checkpoint: partial(checkpoint_shapes, comfyui),
        files.sparse_control: partial(sparse_control_shapes, comfyui),
        files.scribble_control: partial(sparse_control_shapes, comfyui, sketches=True),
        files.controlnet: partial(controlnet_shapes, comfyui),
    }
    for path, shapes_of in shapes.items():
        if not path.is_file():
            write_safetensors(path, shapes_of())


def make_other(comfyui: Path, name: str) -> None:
    """Writes the file of `SDXL_UNET`, `CLIP_L` or one of `SMALL` or `OTHERS`. Runs under ComfyUI's interpreter."""
    read_off = {SDXL_UNET: sdxl_shapes, CLIP_L: clip_shapes}
    read_off |= {small: partial(small_shapes, name=small) for small in SMALL}
    shapes = read_off[name](comfyui) if name in read_off else motion_module_shapes(OTHERS[name])
    write_safetensors(model_file(name), shapes)


def main() -> int:
    try:
        found = find_comfyui()
        check_interpreter(found)
    except ComfyUINotFound as error:
        print(error, file=sys.stderr)
        return 1
    if sys.argv[1:2] == ["--make"]:
        for name in sys.argv[2:]:
            make_other(found.path, name)
        if not sys.argv[2:]:
            make_models(found.path)
        return 0
    files = ensure_models(found)
    for part in fields(files):
        print(f"{part.name}: {getattr(files, part.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
