#!/usr/bin/env python3
"""Runs an example workflow through a real ComfyUI server and copies the animation into ``demo_output/``.

It uses the first SD 1.5 checkpoint and motion module that the found ComfyUI has, or, lacking them, random
weights of the real shapes (the result is then coloured noise, but every node has run). Where there is no GPU,
or no real model, size, frames and steps are cut down to what a CPU does in minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_server import ComfyServer, Prompt, Result, ServerError
from draw_clip import draw_clip
from find_comfyui import PACK, ComfyUI, ComfyUINotFound, check_interpreter, find_comfyui
from random_models import ensure_models
from workflow import is_graph_form, to_prompt

WORKFLOW = PACK / "example_workflows" / "api" / "clone_motion.json"
OUTPUT = PACK / "demo_output"
ANIMATIONS = {".webp", ".gif", ".mp4", ".webm", ".mov", ".apng"}

# Shapes that tell an SD 1.5 checkpoint and an SD 1.5 motion module from all others.
SD15_SHAPES = {
    "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3],
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [320, 768],
}
_COUNTS_OF_FRAMES = {"frames", "batch_size", "context_length", "context_overlap", "batch_index_to_excl"}
_PLACES_IN_A_RUN, _END = {"start_at_step", "end_at_step"}, 10000
MOTION_SHAPES = {"down_blocks.3.motion_modules.1.temporal_transformer.proj_in.weight": [1280, 1280]}


@dataclass(frozen=True)
class Models:
    """What the demo runs on."""

    checkpoint: Path
    motion_module: Path
    random: bool


@dataclass(frozen=True)
class Cut:
    """What a run is cut down to."""

    frames: int
    side: int
    steps: int
    guided_steps: int

    def of(self, name: str, value: Any) -> Any:
        """A node's value, cut down."""
        if name in _COUNTS_OF_FRAMES:
            made = max(1, round(value * self.frames / 16))
            # Of latent frames that are four, after a first one.
            return made // 4 * 4 + 1 if name == "frames" and value % 4 == 1 else made
        if name in _PLACES_IN_A_RUN:
            return value if value in (0, _END) else self.guided_steps
        return max(8, round(value * self.side / 512 / 8) * 8) if name in ("width", "height") else value


def choose_models(found: ComfyUI) -> Models:
    """The real models of this ComfyUI, or random ones."""
    modules = (found.path / "models" / "animatediff_models", found.animatediff / "models")
    checkpoint = next(_fitting([found.path / "models" / "checkpoints"], SD15_SHAPES), None)
    motion = next(_fitting(modules, MOTION_SHAPES), None) or next(_named_like_motion_modules(modules), None)
    if checkpoint and motion:
        return Models(checkpoint, motion, random=False)
    files = ensure_models(found)
    return Models(files.checkpoint, files.motion_module, random=True)


def _fitting(folders: list[Path] | tuple[Path, ...], shapes: dict[str, list[int]]) -> Iterator[Path]:
    for folder in folders:
        for file in sorted(folder.rglob("*.safetensors")):
            header = _safetensors_header(file)
            if all(header.get(name, {}).get("shape") == shape for name, shape in shapes.items()):
                yield file


def _named_like_motion_modules(folders: tuple[Path, ...]) -> Iterator[Path]:
    """Pickled modules are not opened here: ``v3_sd15_mm.ckpt`` and its elders go by their names."""
    for folder in folders:
        yield from (f for f in sorted(folder.rglob("*.ckpt")) if "mm" in f.stem and "sd" in f.stem)


def _safetensors_header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > 100_000_000:
            return {}
        try:
            return json.loads(stream.read(size))
        except ValueError:
            return {}


def has_accelerator(found: ComfyUI) -> bool:
    """Whether ComfyUI's own torch sees a GPU."""
    code = "from torch import cuda, backends as b; exit(not (cuda.is_available() or b.mps.is_available()))"
    done = subprocess.run([str(found.python), "-c", code], capture_output=True, check=False)
    return done.returncode == 0


def adapt(
    prompt: Prompt, models: Models, video: str, cut: Cut | None, *, others: Mapping[str, str] | None = None
) -> Prompt:
    """The workflow with these models and this video in it, cut down if asked.

    Args:
        prompt: the workflow.
        models: the checkpoint and the motion module.
        video: the reference's name in ComfyUI's input folder.
        cut: what 16 frames of 512 x 512 become; all else in proportion.
        others: names of further files, by those that the workflow gives them.
    """
    edits: dict[str, Any] = {
        "ckpt_name": models.checkpoint.name, "model_name": models.motion_module.name, "video": video,
    }  # fmt: skip
    if cut:
        edits |= {"preset": "custom", "steps": cut.steps, "guided_steps": cut.guided_steps}
        edits |= {"warm_up": 1, "cool_down": 1}
    adapted: Prompt = json.loads(json.dumps(prompt))
    for node in adapted.values():
        for name, value in node["inputs"].items():
            # A list is a link: that number comes from another node, which is edited itself.
            if not isinstance(value, list):
                value = edits.get(name, value if cut is None else cut.of(name, value))
                node["inputs"][name] = (others or {}).get(value, value) if isinstance(value, str) else value
    return adapted


def run_demo(found: ComfyUI, args: argparse.Namespace, say: Callable[[str], None] = print) -> list[Path]:
    """Runs the workflow and returns the copied files.

    Raises:
        ServerError: the server or the workflow failed.
        ValueError: the workflow needs the graph editor, or a node that this ComfyUI does not have.
    """
    models = choose_models(found)
    gpu = has_accelerator(found) and not args.cpu
    cut = None
    if models.random or not gpu:
        cut = Cut(frames=8, side=128, steps=6, guided_steps=3) if models.random else Cut(8, 256, 12, 6)
    say(f"ComfyUI {found.version} at {found.path}, on the {'GPU' if gpu else 'CPU'}")
    kind = "random weights (the pictures will be coloured noise)" if models.random else "its own models"
    say(f"models: {kind}: {models.checkpoint.name}, {models.motion_module.name}")
    say(f"cut down to {cut}" if cut else "at the workflow's own size")
    linked = {"checkpoints": [models.checkpoint], "animatediff_models": [models.motion_module]}
    with tempfile.TemporaryDirectory() as folder, ComfyServer(found, models=linked, cpu=not gpu) as server:
        video = args.video or draw_clip(Path(folder) / "drawn_clip.mp4", 24)
        say(f"reference: {video if args.video else 'drawn: a disc that crosses a textured background'}")
        document = json.loads(args.workflow.read_text(encoding="utf-8"))
        prompt = to_prompt(document, server.object_info()) if is_graph_form(document) else document
        say(f"running {args.workflow.name}; the log is {server.log_path}")
        result = server.run(adapt(prompt, models, server.add_input(video), cut), timeout=args.timeout)
        return _collect(server, result)


def _collect(server: ComfyServer, result: Result) -> list[Path]:
    if not result.ok:
        detail = f"{result.node_type} {result.exception_type}: {result.exception_message}".strip()
        errors = json.dumps(result.node_errors, indent=1) if result.node_errors else ""
        raise ServerError(f"the workflow ended with {result.status}: {detail}\n{errors}\n{server.log_tail()}")
    files = [f for f in result.files() if f.get("type") == "output"]
    animations = [f for f in files if Path(f["filename"]).suffix.lower() in ANIMATIONS]
    OUTPUT.mkdir(exist_ok=True)
    copies = []
    for file in animations or files:
        copy = OUTPUT / Path(file["filename"]).name
        copy.write_bytes(server.view(file))
        copies.append(copy)
    return copies


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, help="reference video; one is drawn if this is left out")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="workflow, in either form")
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds (3600)")
    args = parser.parse_args()
    for file in filter(None, (args.video, args.workflow)):
        if not file.is_file():
            parser.error(f"no such file: {file}")
    try:
        found = find_comfyui()
        check_interpreter(found)
        copies = run_demo(found, args)
    except (ComfyUINotFound, ServerError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(f"made {copy}" for copy in copies) or "the workflow ran and saved no file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
