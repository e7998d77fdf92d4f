"""ComfyUI's CLIP as a measure: how well frames show what a text says, how alike neighbouring frames are.

Text and pictures can be compared only after both projections of one CLIP. ComfyUI applies the one of pictures
always. The one of texts it skips where Stable Diffusion does not use it, and many files lack it: those of SD 1.5 and
the ``clip_l.safetensors`` published for SD3 and Flux. ComfyUI then leaves that layer as the memory was, so it must be
found out whether it was loaded.

Shapes: f frames, h, w height and width in pixels, d width of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..score import ClipScore

# Frames that go through the vision model at once.
CHUNK = 16
# Below this, frames have rarely anything to do with the text, or the files are not of one CLIP.
_UNLIKELY = 0.08
_FILES = (
    "load model.safetensors of openai/clip-vit-large-patch14, which holds both of its towers, with Load CLIP and with "
    "Load CLIP Vision"
)


@dataclass(frozen=True)
class TextEmbedding:
    """A prompt as CLIP sees it.

    Attributes:
        vector: of length 1, [d].
        whole: whether all of the prompt was read; CLIP reads 77 tokens, two of which mark start and end.
        tokens: how many CLIP reads.
    """

    vector: torch.Tensor
    whole: bool
    tokens: int


def clip_score(images: torch.Tensor, *, clip: Any = None, clip_vision: Any = None, prompt: str = "") -> ClipScore:
    """Textual alignment and CLIP's temporal consistency, as far as there are models to ask.

    Args:
        images: [f, h, w, 3 or 4], 0 to 1.
        clip: a CLIP for the prompt; needs ``clip_vision``.
        clip_vision: a CLIP_VISION for the frames; alone it gives the consistency.
        prompt: what the frames should show.

    Raises:
        ValueError: a part is missing, or text and pictures cannot be compared.
    """
    if clip is not None and clip_vision is None:
        raise ValueError("clip is connected and clip_vision is not: connect both, or neither")
    if clip is not None and not prompt.strip():
        raise ValueError("clip is connected and the prompt is empty: write what the video should show")
    if clip_vision is None:
        return ClipScore()
    frames = image_embeddings(clip_vision, images)
    consistency = clip_consistency(frames)
    if clip is None:
        return ClipScore(None, consistency)
    text = text_embedding(clip, prompt, width=frames.shape[1])
    alignment = textual_alignment(frames, text.vector)
    return ClipScore(alignment, consistency, tuple(_notes(text, alignment)))


def _notes(text: TextEmbedding, alignment: float) -> Iterator[str]:
    if not text.whole:
        yield f"CLIP reads {text.tokens} tokens: only the beginning of the prompt counts."
    if alignment < _UNLIKELY:
        yield (
            f"A textual alignment below {_UNLIKELY:g} is rare: are both CLIP files of one model, and does the text's "
            "hold its projection?"
        )


# --- the two measures ---------------------------------------------------------------------------------------


def textual_alignment(frames: torch.Tensor, text: torch.Tensor) -> float:
    """Mean cosine of every frame and a text, -1 to 1 (the paper's Table 1, after CLIP, Radford et al. 2021).

    Args:
        frames: of length 1 each, [f, d].
        text: of length 1, [d].
    """
    return float((frames @ text.to(frames)).mean())


def clip_consistency(frames: torch.Tensor) -> float:
    """Mean cosine of neighbouring frames, -1 to 1; the paper's temporal consistency. A frozen video has 1.

    Args:
        frames: of length 1 each, [f, d].

    Raises:
        ValueError: there are fewer than 2.
    """
    if len(frames) < 2:
        raise ValueError(f"{len(frames)} frame has no neighbours: give 2 or more")
    return float((frames[1:] * frames[:-1]).sum(-1).mean())


# --- pictures -----------------------------------------------------------------------------------------------


@torch.no_grad()
def image_embeddings(clip_vision: Any, images: torch.Tensor) -> torch.Tensor:
    """CLIP's embeddings of frames, of length 1 each, float32 on the CPU [f, d].

    As CLIP was trained the short side is scaled to the model's size and what hangs over is cut off.

    Args:
        clip_vision: of ComfyUI's Load CLIP Vision.
        images: [f, h, w, 3 or 4], 0 to 1.

    Raises:
        ValueError: the model is not a CLIP with its projection, or an embedding is not finite.
    """
    projection = getattr(clip_vision.model, "visual_projection", None)
    if not _is_learned(getattr(projection, "weight", None)):
        raise ValueError(f"this vision model has no projection to the space of CLIP's texts: {_FILES}")
    chunks = images[..., :3].split(CHUNK)
    return _unit(torch.cat([clip_vision.encode_image(chunk)["image_embeds"].float().cpu() for chunk in chunks]))


def _unit(embeddings: torch.Tensor) -> torch.Tensor:
    lengths = embeddings.norm(dim=-1, keepdim=True)
    bad = int((~(lengths.isfinite() & (lengths > 0))).sum())
    if bad:
        raise ValueError(
            f"{bad} of {lengths.numel()} embeddings of CLIP are not finite or 0: run it in a wider type, such as fp32"
        )
    return embeddings / lengths


# --- text ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def text_embedding(clip: Any, prompt: str, *, width: int) -> TextEmbedding:
    """CLIP's projected embedding of a prompt.

    A CLIP may have several towers; the one whose embeddings are as wide as those of the frames is taken. Weights such
    as ``(boat:1.2)`` do not count, textual inversions do. Of a long prompt the first part is read, as in published
    scores.

    Args:
        clip: a CLIP of ComfyUI.
        prompt: any text.
        width: d of the frames' embeddings.

    Raises:
        ValueError: the CLIP has no tower with its projection, or none of this width.
    """
    tokens = clip.tokenize(prompt)
    towers = _towers(clip, tokens)
    projected = {name: tower for name, tower in towers.items() if _has_projection(clip, tower)}
    if not projected:
        found = "towers without their text projection" if towers else "no text tower of CLIP"
        raise ValueError(f"this clip has {found}, so its texts cannot be compared with pictures: {_FILES}")
    fitting = [name for name, tower in projected.items() if len(_weight(tower)) == width]
    if not fitting:
        widths = " and ".join(str(len(_weight(tower))) for tower in projected.values())
        raise ValueError(
            f"the text's embedding has {widths} numbers, the frames' have {width}: clip and clip_vision must be of "
            f"one CLIP; {_FILES}"
        )
    sections = tokens[fitting[0]]
    section = [(token, 1.0) for token, *_ in sections[0]]
    with _projecting(clip, projected[fitting[0]]) as tower:
        pooled = tower.encode_token_weights([section])[1]
    return TextEmbedding(_unit(pooled.float().cpu())[0], len(sections) == 1, len(section))


def _towers(clip: Any, tokens: Any) -> dict[str, Any]:
    """The text towers of CLIP by the names that their tokens have: ``l``, ``g``, ``h``."""
    named = {name: getattr(clip.cond_stage_model, f"clip_{name}", None) for name in tokens}
    networks = {name: getattr(tower, "transformer", None) for name, tower in named.items()}
    return {name: named[name] for name, network in networks.items() if hasattr(network, "text_projection")}


def _weight(tower: Any) -> torch.Tensor:
    return tower.transformer.text_projection.weight


def _has_projection(clip: Any, tower: Any) -> bool:
    weight = _weight(tower)
    return _is_learned(weight) and _in_its_file(clip, tuple(weight.shape)) is not False


def _is_learned(weight: torch.Tensor | None) -> bool:
    """Whether numbers were loaded: memory as it was is mostly 0, or huge, or not finite; a stand-in is diagonal."""
    if weight is None or weight.ndim != 2:
        return False
    values = weight.detach().float()
    return bool(values.isfinite().all() and values.abs().max() < 1e3 and (values != 0).float().mean() > 0.5)


def _in_its_file(clip: Any, shape: tuple[int, ...]) -> bool | None:
    """Whether a file that this CLIP was loaded from holds a text projection of this shape; None if that is not known.

    Memory as it was can hold another layer's weights, which look learned. ComfyUI 0.8 does not remember the files;
    later versions do, and those of safetensors say what they hold.
    """
    loaded = getattr(clip.patcher, "cached_patcher_init", None)
    paths = loaded[1][0] if loaded else ()
    paths = [paths] if isinstance(paths, str) else list(paths)
    if not paths or not all(str(path).endswith(".safetensors") for path in paths):
        return None
    try:
        return any(shape in _projections_of(path) for path in paths)
    except (OSError, SafetensorError):  # moved since
        return None


def _projections_of(path: str) -> set[tuple[int, ...]]:
    with safe_open(path, framework="pt") as file:
        return {tuple(file.get_slice(key).get_shape()) for key in file.keys() if "text_projection" in key}  # noqa: SIM118


@contextmanager
def _projecting(clip: Any, tower: Any) -> Iterator[Any]:
    """The tower on its device and set to project what it pools; set back afterwards."""
    clip.load_model()
    clip.cond_stage_model.reset_clip_options()
    options = {"layer": None, "projected_pooled": True, "execution_device": clip.patcher.load_device}
    try:
        tower.set_clip_options(options)
        yield tower
    finally:
        clip.cond_stage_model.reset_clip_options()
