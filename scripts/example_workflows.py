#!/usr/bin/env python3
"""Writes the example workflows in ``example_workflows/`` in both forms, laid out for reading.

A workflow is a function: its docstring is the note that it begins with, its body says column by column what stands
in it and what that is wired to. The descriptions of the
node classes come from a running ComfyUI, so that widgets and sockets are those of the packs that are installed.
``clone_motion`` is not among them: it was laid out by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_server import ComfyServer
from find_comfyui import PACK, ComfyUINotFound, find_comfyui
from sheet import GREY, Placed, Sheet, Socket, unwrapped
from workflow import to_prompt

FOLDER = PACK / "example_workflows"
BLUE, GREEN, RED = ("#223", "#335"), ("#232", "#353"), ("#322", "#533")
MODELS, REFERENCE, CLONE, RESULT = "#3f789e", "#3f789e", "#b58b2a", "#88A888"

GUOYWW = "https://huggingface.co/guoyww/animatediff/resolve/main/"
CONTROLS = "https://huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/"
FILES = {
    "realisticVisionV51_v51VAE.safetensors": ("checkpoints", "https://civitai.com/api/download/models/130072"),
    "v3_sd15_mm.ckpt": ("animatediff_models", f"{GUOYWW}v3_sd15_mm.ckpt"),
    "v3_sd15_adapter.ckpt": ("loras", f"{GUOYWW}v3_sd15_adapter.ckpt"),
    "v3_sd15_sparsectrl_rgb.ckpt": ("controlnet", f"{GUOYWW}v3_sd15_sparsectrl_rgb.ckpt"),
    "v3_sd15_sparsectrl_scribble.ckpt": ("controlnet", f"{GUOYWW}v3_sd15_sparsectrl_scribble.ckpt"),
    "control_v11p_sd15_canny_fp16.safetensors": ("controlnet", f"{CONTROLS}control_v11p_sd15_canny_fp16.safetensors"),
}
CHECKPOINT, MODULE, ADAPTER, RGB, SCRIBBLE, CANNY = FILES
WAN_2_1 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/"
WAN_2_2 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/"
T5, VOID = (f"https://huggingface.co/{name}/resolve/main/" for name in (
    "comfyanonymous/flux_text_encoders", "Comfy-Org/void-model",
))  # fmt: skip
COGVIDEOX_FILES = {
    "t5xxl_fp16.safetensors": ("text_encoders", f"{T5}t5xxl_fp16.safetensors"),
    "cogvideox_vae.safetensors": ("vae", f"{VOID}vae/cogvideox_vae.safetensors"),
}
WAN_FILES = {
    f"{name}.safetensors": (folder, f"{place}{folder}/{name}.safetensors")
    for place, folder, name in (
        (WAN_2_1, "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled"),
        (WAN_2_1, "vae", "wan_2.1_vae"),
        (WAN_2_1, "diffusion_models", "wan2.1_t2v_1.3B_fp16"),
        (WAN_2_2, "diffusion_models", "wan2.2_t2v_high_noise_14B_fp8_scaled"),
        (WAN_2_2, "diffusion_models", "wan2.2_t2v_low_noise_14B_fp8_scaled"),
    )
}
# There is no address of a file that ComfyUI takes as it is.
COGVIDEOX = "cogvideox_2b_fp16.safetensors"
UMT5, WAN_VAE, WAN, HIGH, LOW = WAN_FILES
EVERY_FILE = FILES | COGVIDEOX_FILES | WAN_FILES
PROMPT = "A wooden sailing boat on a calm sea at sunset, warm light, highly detailed, cinematic"
NEGATIVE = "ugly, deformed, noisy, blurry, distorted, low quality, text, watermark"
FRAMES, SIDE = 16, 512


# --- what workflows share ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """What every workflow begins with."""

    model: Socket
    vae: Socket
    empty: Socket
    positive: Socket
    negative: Socket
    words: tuple[Socket, ...] = ()


def explained(sheet: Sheet, models: str, packs: Sequence[str] = (), *, height: float = 640) -> None:
    """The note that a workflow begins with."""
    sheet.column("Start here", GREY[0])
    others = "".join(f"- [{pack}](https://github.com/Kosinkadink/ComfyUI-{pack})\n" for pack in packs)
    text = f"{sheet.text}\n\n## Models\n\n{models}\n\n## Custom nodes\n\n"
    sheet.note("Start here", f"{text}- ComfyUI-MotionClone: the blue ones\n{others}", height)


def in_table(files: Sequence[str]) -> str:
    """Models with their folders."""
    rows = "\n".join(f"| [{name}]({FILES[name][1]}) | *models/ {FILES[name][0]}* |" for name in files)
    return f"| file | folder |\n| --- | --- |\n{rows}"


def by_folder(files: Sequence[str]) -> str:
    """Models of long names, below their folders."""
    folders = dict.fromkeys(EVERY_FILE[name][0] for name in files)
    lists = {folder: [name for name in files if EVERY_FILE[name][0] == folder] for folder in folders}
    return "\n\n".join(
        f"*models/ {folder}*\n\n" + "\n".join(f"- [{name}]({EVERY_FILE[name][1]})" for name in names)
        for folder, names in lists.items()
    )


def begin(
    sheet: Sheet, *files: str, adapter: bool = False, worded: tuple[tuple[str, str], ...] = (), **loader: Any
) -> Parts:
    """The notes, the models and the prompts; or prompts with words, of the new video and of the reference."""
    packs = ["AnimateDiff-Evolved", *(["Advanced-ControlNet"] if files else [])]
    explained(sheet, in_table((CHECKPOINT, MODULE, *([ADAPTER] if adapter else []), *files)), packs)
    sheet.column("1 Models", MODELS)
    checkpoint = sheet.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
    model = checkpoint[0]
    if adapter:
        settings = {"lora_name": ADAPTER, "strength_model": 1.0}
        model = sheet.add("LoraLoaderModelOnly", "The adapter of AnimateDiff v3", model=model, **settings)[0]
    if "context_options" in loader:
        loader["context_options"] = sheet.add("ADE_StandardStaticContextOptions", **loader["context_options"])
    settings = {"model_name": MODULE, "beta_schedule": "sqrt_linear (AnimateDiff)"}
    model = sheet.add("ADE_AnimateDiffLoaderGen1", model=model, **settings, **loader)[0]
    if worded:
        sheet.below("2 Prompts", MODELS)
        return _worded(sheet, model, checkpoint, worded)
    positive, negative, empty = prompts(sheet, checkpoint[1])
    return Parts(model, checkpoint[2], empty, positive, negative)


def _worded(sheet: Sheet, model: Socket, checkpoint: Placed, worded: tuple[tuple[str, str], ...]) -> Parts:
    """Prompts with words; the reference's own stands in the place of the empty text."""
    titles = ("New prompt, and its subject", "The reference, and its subject")
    new, own = (
        sheet.add("MotionCloneWords", title, tint=BLUE, clip=checkpoint[1], text=text, words=words)
        for title, (text, words) in zip(titles, worded, strict=True)
    )
    negative = sheet.add("CLIPTextEncode", "Negative prompt", tint=RED, clip=checkpoint[1], text=NEGATIVE)[0]
    return Parts(model, checkpoint[2], own[0], new[0], negative, (new[1], own[1]))


def prompts(sheet: Sheet, clip: Socket) -> Iterator[Socket]:
    """What the video shows, what it does not, and no words."""
    sheet.below("2 Prompts", MODELS)
    for title, tint, words in (
        ("Prompt: what the video shows", GREEN, PROMPT),
        ("Negative prompt", RED, NEGATIVE),
        ("Empty text: read the motion alone", None, ""),
    ):
        yield sheet.add("CLIPTextEncode", title, tint=tint, clip=clip, text=words)[0]


def begin_transformer(
    sheet: Sheet, network: str, text: tuple[str, str], vae: str, *, others: Sequence[str] = (), shift: float = 0.0
) -> Parts:
    """The notes, a diffusion transformer that ComfyUI runs natively, and the prompts.

    Args:
        sheet: to put them on.
        network: file of the transformer.
        text: file and type of its text encoder.
        vae: file of its VAE.
        others: further files that the note is to name.
        shift: of its noise schedule; 0 leaves it alone.
    """
    named = [file for file in (network, *others, text[0], vae) if file in EVERY_FILE]
    explained(sheet, by_folder(named), height=780)
    sheet.column("1 Models", MODELS)
    model = transformer(sheet, network, shift=shift)
    clip = sheet.add("CLIPLoader", clip_name=text[0], type=text[1])
    loaded = sheet.add("VAELoader", vae_name=vae)
    positive, negative, empty = prompts(sheet, clip[0])
    return Parts(model, loaded[0], empty, positive, negative)


def transformer(sheet: Sheet, file: str, title: str = "", *, shift: float = 0.0) -> Socket:
    """A diffusion transformer."""
    model = sheet.add("UNETLoader", title, unet_name=file, weight_dtype="default")[0]
    return sheet.add("ModelSamplingSD3", model=model, shift=shift)[0] if shift else model


def read_video(
    sheet: Sheet, parts: Parts, size: tuple[int, int], frames: int, fps: int, *, t_alpha: int = 400
) -> tuple[Placed, Placed, Placed]:
    """The same as `read` for a transformer: as many frames, at a size and a rate of its own."""
    sheet.column("3 Reference", REFERENCE)
    settings = {"start": 0.0, "length": round(frames / fps, 2), "frames": frames, "width": size[0], "height": size[1]}
    clip = sheet.add("MotionCloneLoadReferenceVideo", tint=BLUE, video="reference.mp4", tall=560, **settings)
    measured = sheet.add("GetImageSize", "Size and number of frames", image=clip[0])
    inputs = {"width": measured[0], "height": measured[1], "length": measured[2]}
    latent = sheet.add("EmptyHunyuanLatentVideo", "Empty latent: like the reference", **inputs)
    sheet.column("4 Motion", CLONE)
    inputs = {"model": parts.model, "conditioning": parts.empty, "images": clip[0], "vae": parts.vae}
    # As many entries as did best on the tiny transformers (docs/TRANSFORMERS.md).
    return clip, latent, sheet.add("MotionCloneExtract", tint=BLUE, t_alpha=t_alpha, k=2, **inputs)


def reference(sheet: Sheet, title: str = "", *, video: str = "reference.mp4", frames: int = FRAMES) -> Placed:
    """The clip that is followed."""
    settings = {"start": 0.0, "length": frames / 8, "frames": frames, "width": SIDE, "height": SIDE}
    return sheet.add("MotionCloneLoadReferenceVideo", title, tint=BLUE, video=video, tall=560, **settings)


def extracted(sheet: Sheet, parts: Parts, clip: Placed, *, conditioning: Socket | None = None, k: int = 1) -> Placed:
    """The motion of a clip."""
    inputs = {"model": parts.model, "conditioning": conditioning or parts.empty, "images": clip[0], "vae": parts.vae}
    return sheet.add("MotionCloneExtract", tint=BLUE, k=k, blocks="up_blocks.1", **inputs)


def latent_like(sheet: Sheet, clip: Placed) -> Placed:
    """An empty latent of the reference's size."""
    size = sheet.add("GetImageSize", "Size and number of frames", image=clip[0])
    inputs = {"width": size[0], "height": size[1], "batch_size": size[2]}
    return sheet.add("EmptyLatentImage", "Empty latent: like the reference", **inputs)


def read(sheet: Sheet, parts: Parts, *, k: int = 1) -> tuple[Placed, Placed, Placed]:
    """A reference, an empty latent of its size, and its motion, in two columns."""
    sheet.column("3 Reference", REFERENCE)
    clip = reference(sheet)
    latent = latent_like(sheet, clip)
    sheet.column("4 Motion", CLONE)
    return clip, latent, extracted(sheet, parts, clip, k=k)


def sampled(
    sheet: Sheet, parts: Parts, motion: Any, latent: Any, *, preset: str = "camera", positive: Any = None,
    negative: Any = None, hint: str = "", number: int = 5, **inputs: Any,
) -> Placed:  # fmt: skip
    """Guided sampling, in a column of its own."""
    sheet.column(f"{number} Clone", CLONE)
    inputs |= {"positive": positive or parts.positive, "negative": negative or parts.negative}
    sampler = sheet.add(
        "MotionCloneGuidedKSampler", tint=BLUE, model=parts.model, motion_rep=motion, latent_image=latent,
        preset=preset, scheduler="motionclone", sampler_name="euler", tall=900, **inputs,
    )  # fmt: skip
    if hint:
        sheet.note("Settings", hint, 300)
    return sampler


def finish(
    sheet: Sheet, parts: Parts, motion: Any, latent: Any, clip: Placed, *, number: int = 5, **changes: Any
) -> Placed:
    """Sampling and the animation; the frames."""
    sampler = sampled(sheet, parts, motion, latent, number=number, **changes)
    sheet.column(f"{number + 1} Result", RESULT)
    video = sheet.add("VAEDecode", samples=sampler[0], vae=parts.vae)
    saved(sheet, video, clip)
    return video


def saved(sheet: Sheet, video: Any, clip: Placed) -> None:
    """The animation, as fast as the reference."""
    settings = {"filename_prefix": f"MotionClone/{sheet.name}", "lossless": False, "quality": 85, "method": "default"}
    sheet.add("SaveAnimatedWEBP", "Save animation", images=video, fps=clip[1], tall=620, **settings)


# --- the workflows -------------------------------------------------------------------------------------------


def sparse(sheet: Sheet, file: str, frames: str) -> Placed:
    """A SparseCtrl and the frames that its pictures stand for."""
    where = sheet.add("ACN_SparseCtrlIndexMethodNode", "Frames that are given (0 is the first)", indexes=frames)
    settings = {"use_motion": True, "motion_strength": 1.0, "motion_scale": 1.0}
    return sheet.add("ACN_SparseCtrlLoaderAdvanced", sparsectrl_name=file, sparse_method=where, **settings)


def controlled(sheet: Sheet, title: str, texts: tuple[Any, Any], control: Any, pictures: Any, **changes: Any) -> Placed:
    """Both texts with a ControlNet on them."""
    settings = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, **changes}
    inputs = {"positive": texts[0], "negative": texts[1], "control_net": control, "image": pictures}
    return sheet.add("ACN_AdvancedControlNetApply_v2", title, **inputs, **settings)


def image_to_video(sheet: Sheet) -> None:
    """# Image to video

    A picture of yours moves as the reference does. SparseCtrl holds the first frame to the picture; the motion comes
    from the reference.

    1. **Load Reference Video**: a clip with one clear motion.
    2. **Load Image**: the picture that is to move.
    3. Write what it shows. Run.

    The motion is read beside the reference's own first frame, as the authors did: reading and sampling then see the
    same kind of thing. More frames can be given: name them in *SparseCtrl Index Method*, such as `0, 15`, and give as
    many pictures.
    """
    parts = begin(sheet, RGB, adapter=True)
    sheet.column("3 Reference", REFERENCE)
    clip = reference(sheet)
    latent = latent_like(sheet, clip)
    first = sheet.add("ImageFromBatch", "Its first frame", image=clip[0], batch_index=0, length=1)
    own = sheet.add("ACN_SparseCtrlRGBPreprocessor", image=first, vae=parts.vae, latent_size=latent)
    sheet.column("4 Picture", REFERENCE)
    control = sparse(sheet, RGB, "0")
    picture = sheet.add("LoadImage", "Picture that is to move", image="picture.png", tall=330)
    hint = sheet.add("ACN_SparseCtrlRGBPreprocessor", image=picture[0], vae=parts.vae, latent_size=latent)
    sheet.column("5 Motion", CLONE)
    null = controlled(sheet, "Empty text beside the reference's frame", (parts.empty, parts.empty), control, own)
    motion = extracted(sheet, parts, clip, conditioning=null[0])
    texts = controlled(sheet, "Prompts beside the picture", (parts.positive, parts.negative), control, hint)
    finish(
        sheet, parts, motion, latent, clip, preset="image to video", positive=texts[0], negative=texts[1], number=6,
        hint="**image to video** is the published setting: 100 steps, 40 of them guided. *custom* uses what is set.",
    )  # fmt: skip


def sketch_to_video(sheet: Sheet) -> None:
    """# Sketch to video

    A sketch becomes a video that moves as the reference does.

    1. **Load Reference Video**: a clip with one clear motion.
    2. **Load Image**: a sketch, white lines on black. With black lines on white put *Invert Image* behind it.
    3. Write what it shows. Run.

    The motion is read beside lines of the reference's own first frame (*Canny*; a scribble preprocessor does as
    well).
    """
    parts = begin(sheet, SCRIBBLE, adapter=True)
    sheet.column("3 Reference", REFERENCE)
    clip = reference(sheet)
    latent = latent_like(sheet, clip)
    first = sheet.add("ImageFromBatch", "Its first frame", image=clip[0], batch_index=0, length=1)
    lines = sheet.add("Canny", "Lines of it", image=first, low_threshold=0.2, high_threshold=0.5)
    sheet.column("4 Sketch", REFERENCE)
    control = sparse(sheet, SCRIBBLE, "0")
    sketch = sheet.add("LoadImage", "Sketch: white on black", image="sketch.png", tall=330)
    sheet.column("5 Motion", CLONE)
    null = controlled(sheet, "Empty text beside the reference's lines", (parts.empty, parts.empty), control, lines)
    motion = extracted(sheet, parts, clip, conditioning=null[0])
    texts = controlled(sheet, "Prompts beside the sketch", (parts.positive, parts.negative), control, sketch[0])
    finish(
        sheet, parts, motion, latent, clip, preset="sketch", positive=texts[0], negative=texts[1], number=6,
        hint="**sketch** is the published setting: 200 steps, 120 of them guided. *custom* uses what is set here.",
    )  # fmt: skip


def controlnet(sheet: Sheet) -> None:
    """# Motion beside a ControlNet

    A ControlNet says where things are, the motion how they move. Here the edges of the reference hold the layout in
    the first part of the run: their strength falls over the frames (*Latent Keyframe Timing*), and ends with the
    noisiest 40 % of the noise schedule.

    Any ControlNet can take its place, several can follow one another, and pictures of their own can take the place of
    the reference's edges. No gradient goes through a ControlNet.
    """
    parts = begin(sheet, CANNY)
    sheet.column("3 Reference", REFERENCE)
    clip = reference(sheet)
    latent = latent_like(sheet, clip)
    edges = sheet.add("Canny", "Edges of every frame", image=clip[0], low_threshold=0.2, high_threshold=0.5)
    sheet.column("4 Control", CLONE)
    load = sheet.add("ControlNetLoader", control_net_name=CANNY)
    frames = sheet.add(
        "LatentKeyframeTiming", batch_index_from=0, batch_index_to_excl=FRAMES, strength_from=1.0, strength_to=0.3,
        interpolation="linear",
    )  # fmt: skip
    texts = controlled(
        sheet, "Prompts beside the edges", (parts.positive, parts.negative), load, edges, strength=0.6,
        end_percent=0.4, latent_kf_override=frames,
    )  # fmt: skip
    motion = extracted(sheet, parts, clip)
    finish(sheet, parts, motion, latent, clip, positive=texts[0], negative=texts[1])


def long_video(sheet: Sheet) -> None:
    """# A long video

    64 frames in sliding windows of 16. The motion is read in the windows that the video is sampled in, and where
    windows overlap their pushes are fused as AnimateDiff-Evolved fuses what they predict. Memory is that of one
    window, whatever the length.

    1. **Load Reference Video**: about eight seconds with one clear motion.
    2. Write the prompt. Run.

    The same *AnimateDiff Loader*, with its *Context Options*, feeds both **Extract Motion Representation** and the
    sampler. Other context options, fuse methods and views work as well.
    """
    context = {"context_length": 16, "context_overlap": 4, "fuse_method": "pyramid"}
    parts = begin(sheet, context_options=context)
    sheet.column("3 Reference", REFERENCE)
    clip = reference(sheet, frames=4 * FRAMES)
    latent = latent_like(sheet, clip)
    sheet.column("4 Motion", CLONE)
    motion = extracted(sheet, parts, clip)
    finish(sheet, parts, motion, latent, clip)


def other_shape(sheet: Sheet) -> None:
    """# Another length, another shape

    A motion of 16 frames of 512 x 512 leads 24 frames of 768 x 432: it is stretched over the frame, and **Retime
    Motion** plays it to and fro, a third faster.

    The motion can also come from a file: put **Load Motion Rep** in the place of reference and extraction. *Save
    Motion Rep* keeps one.
    """
    parts = begin(sheet)
    sheet.column("3 Reference", REFERENCE)
    clip = reference(sheet)
    sheet.column("4 Motion", CLONE)
    motion = extracted(sheet, parts, clip)
    settings = {"frames": 24, "speed": 1.33, "offset": 0.0, "reverse": False, "repeat": "ping-pong"}
    longer = sheet.add("MotionCloneRetimeMotion", tint=BLUE, motion_rep=motion, **settings)
    sheet.add("MotionCloneSaveMotionRep", tint=BLUE, motion_rep=motion, filename_prefix="reference", folder="output")
    size = {"width": 768, "height": 432, "batch_size": 24}
    latent = sheet.add("EmptyLatentImage", "Its own size and length", **size)
    finish(sheet, parts, longer, latent, clip)


def region(sheet: Sheet) -> None:
    """# A motion in its place

    The motion is made smaller, moved to the right, and counts inside a mask alone: the rest of the picture is free.

    1. **Load Reference Video**: a clip with one clear motion.
    2. **Load Image (as Mask)**: white where the motion is to be followed. A mask with one picture for each frame
       works as well.
    3. Run.

    The mask lies where **Place Motion** has put the motion: outside of it nothing is guided. Without that node,
    *invert* keeps the camera of a clip and leaves its subject out.
    """
    parts = begin(sheet)
    clip, latent, motion = read(sheet, parts)
    placed = sheet.add("MotionClonePlaceMotion", tint=BLUE, motion_rep=motion, x=0.1, y=0.0, scale=0.8)
    mask = sheet.add("LoadImageMask", "Where the motion counts", image="mask.png", channel="red", tall=330)
    masked = sheet.add("MotionCloneMaskMotion", tint=BLUE, motion_rep=placed, mask=mask, invert=False, feather=0.05)
    finish(sheet, parts, masked, latent, clip)


def mixed_motions(sheet: Sheet) -> None:
    """# Two motions in one video

    Inside the mask the video follows the first reference, outside it the second: a thing that moves, and a camera.

    1. Two clips of the same length.
    2. **Load Image (as Mask)**: white where the first one counts.
    3. Run.

    **Combine Motions** adds up their pushes, each by its strength; any number can be combined, with or without masks,
    and each with a curve of its strength over the steps.
    """
    parts = begin(sheet)
    sheet.column("3 References", REFERENCE)
    one = reference(sheet, "First: a thing that moves")
    other = reference(sheet, "Second: a camera that moves", video="camera.mp4")
    latent = latent_like(sheet, one)
    sheet.column("4 Motions", CLONE)
    motions = [extracted(sheet, parts, clip) for clip in (one, other)]
    mask = sheet.add("LoadImageMask", "Where the first one counts", image="mask.png", channel="red", tall=330)
    sheet.column("5 Mix", CLONE)
    first, second = (
        sheet.add("MotionCloneMaskMotion", title, tint=BLUE, motion_rep=motion, mask=mask, invert=invert, feather=0.05)
        for title, motion, invert in (("Inside", motions[0], False), ("Outside", motions[1], True))
    )
    settings = {"strength_1": 1.0, "strength_2": 1.0}
    both = sheet.add("MotionCloneCombineMotions", tint=BLUE, motion_1=first, motion_2=second, **settings)
    finish(sheet, parts, both, latent, one, number=6)


def object_motion(sheet: Sheet) -> None:
    """# Object motion

    What the prompt names goes the way of the thing in the reference.

    1. **Load Reference Video**: one thing that goes its way before a ground that stands still, in about two seconds.
    2. **Preview Motion Representation** shows what was read of it: hot where something moves, with arrows where it can
       be told which way. If the thing is cold, choose other seconds or a clearer clip.
    3. Write the prompt: a thing that could move so. Run.

    The preset *object* is the published one: 300 steps, 180 of them guided. Try with *fast*, which takes 30, and *k* 2.
    """
    parts = begin(sheet)
    clip, latent, motion = read(sheet, parts)
    settings = {"taps": "*", "arrows": True, "opacity": 0.85, "fps": 8.0, "tall": 620}
    sheet.add("MotionClonePreviewMotion", tint=BLUE, motion_rep=motion, images=clip[0], **settings)
    finish(sheet, parts, motion, latent, clip, preset="object")


def evaluate(sheet: Sheet) -> None:
    """# How well does it follow?

    The result is scored against its reference, and the tracks of both are drawn side by side: in one colour where
    they move alike, white where a track has no partner.

    1. **Load Reference Video**: a clip with one clear motion.
    2. Write the prompt. Run, and read **Motion Score**.

    *Energy over the steps* says how far the video was from the motion while it was guided: it should fall.

    *motion fidelity* is 1 for the same motion, about 0 if they have nothing in common. A frozen video is perfectly
    consistent: read *temporal consistency* beside *motion magnitude*.

    For the textual alignment load *model.safetensors* of openai/clip-vit-large-patch14 with both **Load CLIP** and
    **Load CLIP Vision**, and wire them and the prompt to **Motion Score**. The CLIP of an SD 1.5 checkpoint cannot be
    compared with pictures.
    """
    parts = begin(sheet)
    clip, latent, motion = read(sheet, parts)
    sampler = sampled(sheet, parts, motion, latent)
    sheet.column("6 Result", RESULT)
    video = sheet.add("VAEDecode", samples=sampler[0], vae=parts.vae)
    saved(sheet, video, clip)
    sheet.column("7 Score", RESULT)
    score = sheet.add("MotionCloneScore", tint=BLUE, reference=clip[0], video=video, tall=520)
    sheet.add("PreviewAny", "Report", source=score[6], tall=220)
    sheet.add("PreviewImage", "Energy over the steps", images=sampler[2], tall=320)
    sheet.column("8 Tracks", RESULT)
    sheet.add("PreviewImage", "Tracks, frame by frame", images=score[7], tall=420)


def best_of_seeds(sheet: Sheet) -> None:
    """# The best of several seeds

    Seeds differ in how well they follow. **Motion Seeds** runs the sampler once for each of *count* seeds, all of them
    are decoded and scored, and **Best Motion** hands on the one that follows the reference best. The others are kept
    until the next run, as ComfyUI keeps what nodes gave.

    1. **Load Reference Video**: a clip with one clear motion.
    2. Write the prompt. Run: it takes as long as *count* runs.

    *fast* keeps the runs short; for it *k* is 2 where the motion is read. A seed is the best for these steps alone.
    """
    parts = begin(sheet)
    clip, latent, motion = read(sheet, parts, k=2)
    seeds = sheet.add("MotionCloneSeeds", tint=BLUE, seed=1, count=4)
    sampler = sampled(sheet, parts, motion, latent, preset="fast", seed=seeds)
    sheet.column("6 Choose", CLONE)
    videos = sheet.add("VAEDecode", "All runs", samples=sampler[0], vae=parts.vae)
    settings = {"by": "motion fidelity", "seeds": seeds, "tall": 260}
    best = sheet.add("MotionCloneBest", tint=BLUE, reference=clip[0], videos=videos, **settings)
    sheet.add("PreviewAny", "Scores of all", source=best[3], tall=220)
    sheet.column("7 Result", RESULT)
    saved(sheet, best[0], clip)


def first_version(sheet: Sheet) -> None:
    """# The first version of MotionClone

    Motion, and where the subject is. The reference is inverted under its own prompt and read at every guided step; an
    unguided video of the same seed and prompt is sampled alongside, and what it shows of the new subject is put where
    the reference's subject is.

    1. **Load Reference Video**: a clip with one subject that moves.
    2. Write what the reference shows, and the word for its subject; then the new prompt, and the word for the new one.
       For the camera's motion leave both words empty.
    3. Run, and look at **Preview Semantic Masks**: is the reference's subject inside the outline? If it is not, choose
       another word, or draw a mask for **Semantic Guidance**.

    These are the published settings: 200 steps, 120 of them guided. It takes long; the inversion is kept on disk.
    """
    worded = ((PROMPT, "boat"), ("A red car on a country road, in the morning", "car"))
    parts = begin(sheet, worded=worded)
    sheet.column("3 Reference", REFERENCE)
    clip = reference(sheet)
    latent = latent_like(sheet, clip)
    sheet.column("4 Inversion", CLONE)
    steps = {"steps": 200, "guided_steps": 0, "ratio": 0.3}
    even = sheet.add("MotionCloneScheduler", "Even steps", tint=BLUE, model=parts.model, **steps)
    guided = sheet.add("SplitSigmas", "Those that are guided", sigmas=even, step=120)
    inputs = {"model": parts.model, "conditioning": parts.empty, "images": clip[0], "vae": parts.vae}
    inverted = sheet.add("MotionCloneInvert", tint=BLUE, steps=200, sigmas=guided[0], **inputs)
    settings = {"blocks": "up_blocks.1, up_blocks.2", "every_level": True, "words": parts.words[1]}
    motion = sheet.add("MotionCloneExtract", tint=BLUE, inversion=inverted, **inputs, **settings)
    sheet.column("5 Semantics", CLONE)
    semantics = sheet.add("MotionCloneSemanticGuidance", tint=BLUE, words=parts.words[0])
    shown = {"motion_rep": motion, "images": clip[0], "semantics": semantics, "tall": 560}
    sheet.add("MotionClonePreviewMasks", tint=BLUE, **shown)
    finish(sheet, parts, motion, latent, clip, preset="first version", semantics=semantics, number=6)


def cogvideox(sheet: Sheet) -> None:
    """# CogVideoX

    Text to video with CogVideoX, as ComfyUI runs it natively: the new video follows the motion of a reference.

    1. **Load Diffusion Model**: a CogVideoX text-to-video model in ComfyUI's own form, in *models/ diffusion_models*
       (here *cogvideox_2b_fp16.safetensors*; its weights are named *blocks.0.q.weight* and so on). A file with
       diffusers' names, *transformer_blocks.0...*, is not one. ComfyUI 0.8 has no CogVideoX: update it.
    2. **Load Reference Video**: 49 frames. A latent frame is four frames, after a first one, so take 4 n + 1.
    3. Write the prompt. Run.

    **MotionClone Guided KSampler** samples CogVideoX rightly under every sampler that it takes. ComfyUI's **KSampler**
    does so behind **ModelSamplingDiscrete** (*v_prediction*, *zsnr* on), with **Apply Motion Guidance** after it.

    *t_alpha* 800 and *weight* 1000 did well on the small CogVideoX that this pack is measured on.
    """
    text = ("t5xxl_fp16.safetensors", "cogvideox")
    parts = begin_transformer(sheet, COGVIDEOX, text, "cogvideox_vae.safetensors")
    clip, latent, motion = read_video(sheet, parts, (720, 480), 49, 8, t_alpha=800)
    sheet.column("5 Clone", CLONE)
    settings = {"preset": "custom", "steps": 50, "guided_steps": 25, "ratio": 0.4, "cfg": 6.0, "sampler_name": "euler"}
    settings |= {"update_rule": "normalised", "warm_up": 0, "cool_down": 10, "weight": 1000.0}
    inputs = {"positive": parts.positive, "negative": parts.negative, "latent_image": latent}
    sampler = sheet.add(
        "MotionCloneGuidedKSampler", tint=BLUE, model=parts.model, motion_rep=motion, tall=900, **inputs, **settings
    )
    result(sheet, parts, sampler, clip)


def wan(sheet: Sheet) -> None:
    """# Wan 2.1

    Text to video with Wan 2.1, as ComfyUI runs it natively: the new video follows the motion of a reference.

    1. **Load Reference Video**: 81 frames. A latent frame is four frames, after a first one, so take 4 n + 1.
    2. Write the prompt. Run.

    **Apply Motion Guidance** gives a model for any sampler node. *guided_steps* counts the steps of the **KSampler**,
    from its first one. Only those cost more: take fewer if it is too slow, or *reuse* a gradient for two or three.

    Wan is a flow: *t_alpha* is the noise level at which the reference is read, in thousandths.
    *weight* 1000 did well on the small Wan that this pack is measured on, which keeps its shapes under it.

    Pictures to videos: an image-to-video model, and **WanImageToVideo** twice. One gets the new first picture and goes
    to the sampler; the other one gets the reference's first frame and the empty text, and goes to
    **Extract Motion Representation**.
    """
    parts = begin_transformer(sheet, WAN, (UMT5, "wan"), WAN_VAE, shift=8.0)
    clip, latent, motion = read_video(sheet, parts, (832, 480), 81, 16)
    sheet.column("5 Clone", CLONE)
    guided = applied(sheet, parts.model, motion, guided_steps=20, cool_down=8, weight=1000.0)
    inputs = {"positive": parts.positive, "negative": parts.negative, "latent_image": latent}
    settings = {"steps": 30, "cfg": 6.0, "sampler_name": "euler", "scheduler": "simple"}
    sampler = sheet.add("KSampler", model=guided, tall=420, **inputs, **settings)
    result(sheet, parts, sampler, clip)


def wan22(sheet: Sheet) -> None:
    """# Wan 2.2 with two experts

    Wan 2.2 14B has one model for high noise and one for low noise. A motion is decided where the noise is high: the
    high-noise model reads it and is guided, the low-noise model paints the rest as it always does.

    1. **Load Reference Video**: 81 frames (4 n + 1).
    2. Write the prompt. Run.

    *t_alpha* is the noise level at which the reference is read, in thousandths. The high-noise model was trained above
    875: so it is read at 900, not at 400 as elsewhere.

    The first **KSamplerAdvanced** takes the first 10 of 20 steps, and all of them are guided: *guided_steps* counts
    the steps of the sampler that the guided model goes to.
    """
    both = {"others": (LOW,), "shift": 5.0}
    parts = begin_transformer(sheet, HIGH, (UMT5, "wan"), WAN_VAE, **both)
    clip, latent, motion = read_video(sheet, parts, (832, 480), 81, 16, t_alpha=900)
    sheet.column("5 Clone: high noise", CLONE)
    guided = applied(sheet, parts.model, motion, guided_steps=10, cool_down=4, weight=1000.0)
    settings = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple", "tall": 460}
    settings |= {"positive": parts.positive, "negative": parts.negative}
    first = sheet.add(
        "KSamplerAdvanced", "The first half, guided", model=guided, latent_image=latent, add_noise="enable",
        start_at_step=0, end_at_step=10, return_with_leftover_noise="enable", **settings,
    )  # fmt: skip
    sheet.column("6 Low noise", CLONE)
    low = transformer(sheet, LOW, shift=both["shift"])
    second = sheet.add(
        "KSamplerAdvanced", "The second half", model=low, latent_image=first, add_noise="disable",
        start_at_step=10, end_at_step=10000, return_with_leftover_noise="disable", **settings,
    )  # fmt: skip
    result(sheet, parts, second, clip, number=7)


def applied(sheet: Sheet, model: Socket, motion: Placed, **settings: Any) -> Placed:
    """A guided transformer."""
    settings |= {"update_rule": "normalised", "warm_up": 0, "tall": 400}
    return sheet.add("MotionCloneApplyGuidance", tint=BLUE, model=model, motion_rep=motion, **settings)


def result(sheet: Sheet, parts: Parts, sampler: Placed, clip: Placed, *, number: int = 6) -> None:
    """The animation of a transformer's latents."""
    sheet.column(f"{number} Result", RESULT)
    saved(sheet, sheet.add("VAEDecode", samples=sampler[0], vae=parts.vae), clip)


WORKFLOWS = (
    object_motion, image_to_video, sketch_to_video, controlnet, long_video, other_shape, region, mixed_motions,
    evaluate, best_of_seeds, first_version, cogvideox, wan, wan22,
)  # fmt: skip


def main() -> int:
    try:
        with ComfyServer(find_comfyui()) as server:
            known = server.object_info()
    except ComfyUINotFound as error:
        print(error, file=sys.stderr)
        return 1
    for described in WORKFLOWS:
        sheet = Sheet(described.__name__, unwrapped(described.__doc__ or ""), known, EVERY_FILE)
        described(sheet)
        document = sheet.document()
        for folder, form in ((FOLDER, document), (FOLDER / "api", to_prompt(document, known))):
            text = json.dumps(form, indent=2, ensure_ascii=False)
            (folder / f"{sheet.name}.json").write_text(f"{text}\n", encoding="utf-8")
        print(FOLDER / f"{sheet.name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
