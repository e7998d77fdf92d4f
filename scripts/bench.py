#!/usr/bin/env python3
"""Cost of guided steps beside unguided ones, measured through a real ComfyUI server.

Every run has one guided step and, right after it, an unguided one: their ratio is that of neighbours, whatever else
the machine does. What a guided step keeps for its gradient is counted in runs of their own, operation by operation.
Figures go to docs/performance/, one file per machine, and from there to docs/PERFORMANCE.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from bench_report import write_page
from comfy_server import ComfyServer, Graph, Node, ServerError
from demo_comfyui import Models, choose_models, has_accelerator
from find_comfyui import PACK, ComfyUI, ComfyUINotFound, check_interpreter, find_comfyui
from floor import floors

STORE = PACK / "docs" / "performance"
METER_PACK = Path(__file__).parent / "bench_pack"
MODES = ("speed", "memory")


@dataclass(frozen=True)
class Bench:
    """A running server, and what is measured on it."""

    server: ComfyServer
    models: Models
    frames: int

    def steps(self, size: int, mode: str, *, seed: int, memory: bool = False) -> list[dict[str, Any]]:
        """A guided and an unguided step: what each of them cost."""
        graph = Graph()
        parts = self._parts(graph, size)
        motion = self._motion(graph, parts, parts["model"])
        guided = graph.add(
            "MotionCloneApplyGuidance", model=parts["model"], motion_rep=motion, weight=2000.0, start_step=0,
            guided_steps=1, warm_up=0, cool_down=0, update_rule="published", memory=mode,
        )  # fmt: skip
        return self._sampled(graph, parts | {"model": guided}, cfg=8.5, steps=2, seed=seed, memory=memory)

    def conditional(self, size: int, *, seed: int) -> float:
        """Seconds of a conditional pass."""
        graph = Graph()
        (step,) = self._sampled(graph, self._parts(graph, size), cfg=1.0, steps=1, seed=seed)
        return step["seconds"]

    def extraction(self, size: int, *, seed: int) -> float:
        """Seconds of the pass that reads a motion."""
        graph = Graph()
        parts = self._parts(graph, size)
        motion = self._motion(graph, parts, self._metered(graph, parts["model"], "extraction"), seed=seed)
        graph.add("MotionCloneSaveRep", motion_rep=motion, filename_prefix=f"bench {size}")
        (step,) = self._measured(graph, "extraction")
        return step["seconds"]

    def motion_file(self) -> int:
        """Bytes of the last motion file that was written."""
        files = sorted(self.server.base.rglob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        return next(file.stat().st_size for file in reversed(files) if file.name.startswith("bench"))

    def _parts(self, graph: Graph, size: int) -> dict[str, Node]:
        checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name=self.models.checkpoint.name)
        module = graph.add("ADE_LoadAnimateDiffModel", model_name=self.models.motion_module.name)
        motion = graph.add("ADE_ApplyAnimateDiffModelSimple", motion_model=module)
        beta = "sqrt_linear (AnimateDiff)"
        model = graph.add("ADE_UseEvolvedSampling", model=checkpoint, m_models=motion, beta_schedule=beta)
        latent = graph.add("EmptyLatentImage", width=size, height=size, batch_size=self.frames)
        texts = {
            name: graph.add("CLIPTextEncode", clip=checkpoint[1], text=text)
            for name, text in (("positive", "a boat on the sea"), ("negative", ""))
        }
        return {"model": model, "latent_image": latent, **texts}

    def _motion(self, graph: Graph, parts: dict[str, Node], model: Node, *, seed: int = 0) -> Node:
        return graph.add(
            "MotionCloneExtract", model=model, conditioning=parts["negative"], latent=parts["latent_image"],
            t_alpha=400, k=1, blocks="up_blocks.1", seed=seed,
        )  # fmt: skip

    def _metered(self, graph: Graph, model: Node, name: str, *, memory: bool = False) -> Node:
        return graph.add("MotionCloneMeter", model=model, name=name, memory=memory)

    def _sampled(
        self, graph: Graph, parts: dict[str, Node], *, cfg: float, steps: int, seed: int, memory: bool = False
    ) -> list[dict[str, Any]]:
        model = self._metered(graph, parts["model"], "steps", memory=memory)
        settings = {"cfg": cfg, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        samples = graph.add("KSampler", **parts | {"model": model}, **settings, seed=seed, steps=steps)
        graph.add("SaveLatent", samples=samples, filename_prefix="bench")
        return self._measured(graph, "steps")

    def _measured(self, graph: Graph, name: str) -> list[dict[str, Any]]:
        result = self.server.run(graph, timeout=7200)
        if not result.ok:
            errors = result.exception_message or result.node_errors
            raise ServerError(f"the run ended with {result.status}: {errors}\n{self.server.log_tail()}")
        return json.loads((self.server.output_dir / f"{name}.json").read_text(encoding="utf-8"))["steps"]


def measured(bench: Bench, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each size and memory mode."""
    for size in args.sizes:
        for mode in args.modes:
            bench.steps(size, mode, seed=0)  # loads the models, and whatever the first run of a size makes
        passes = [(bench.extraction(size, seed=s), bench.conditional(size, seed=s)) for s in range(1, 1 + args.repeats)]
        pairs: dict[str, list[list[dict[str, Any]]]] = {mode: [] for mode in args.modes}
        for seed in range(1, 1 + args.repeats):
            for mode in args.modes:
                pairs[mode].append(bench.steps(size, mode, seed=seed))
        for mode in args.modes:
            yield {
                "size": size,
                "frames": args.frames,
                "mode": mode,
                "seconds": [[step["seconds"] for step in pair] for pair in pairs[mode]],
                "peak": [max(pair[i].get("peak", 0) for pair in pairs[mode]) for i in (0, 1)],
                "passes": passes,
                "motion_file": bench.motion_file(),
            }


def counted(bench: Bench, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What guided steps keep, for each size and memory mode."""
    for size in args.count_sizes:
        for mode in args.modes:
            guided, unguided = bench.steps(size, mode, seed=0, memory=True)
            yield {
                "size": size,
                "frames": args.frames,
                "mode": mode,
                "kept": guided["kept"],
                "peaks": [guided["live_peak"], unguided["live_peak"]],
                "by_layer": guided["kept_by_layer"],
            }


def run(found: ComfyUI, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    models = choose_models(found)
    linked = {"checkpoints": [models.checkpoint], "animatediff_models": [models.motion_module]}
    cpu = args.cpu or not has_accelerator(found)
    arguments = ["--use-pytorch-cross-attention", *args.server_args]
    rows: dict[str, list[dict[str, Any]]] = {"measured": [], "counted": []}
    with ComfyServer(found, models=linked, packs=[METER_PACK], cpu=cpu, extra_args=arguments) as server:
        bench = Bench(server, models, args.frames)
        for kind, produce in (("counted", counted), ("measured", measured)):
            for row in produce(bench, args):
                rows[kind].append(row)
                print(_line(kind, row), flush=True)
    return {
        "date": date.today().isoformat(),
        "machine": args.machine or platform.processor() or platform.machine(),
        "cpu": cpu,
        "comfyui": found.version,
        "arguments": arguments,
        **rows,
    }


def _line(kind: str, row: dict[str, Any]) -> str:
    what = f"{row['frames']} frames of {row['size']} x {row['size']}, {row['mode']}:"
    if kind == "counted":
        return f"{what} {row['kept'] / 2**20:.0f} MiB kept"
    ratio = statistics.median(guided / unguided for guided, unguided in row["seconds"])
    return f"{what} guided / unguided {ratio:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256], help="sides in pixels, timed")
    parser.add_argument("--count-sizes", type=int, nargs="*", default=[64, 128], help="sides whose memory is counted")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    parser.add_argument("--machine", default="", help="its name")
    parser.add_argument("--server-args", nargs="*", default=[], help="further arguments of ComfyUI")
    parser.add_argument("--report", action="store_true", help="only write the page")
    args = parser.parse_args()
    try:
        if not args.report:
            found = find_comfyui()
            check_interpreter(found)
            result = run(found, args)
            STORE.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"[^a-z0-9]+", "_", result["machine"].lower()).strip("_")
            (STORE / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        write_page(STORE, floors((128, 256, 512)))
    except (ComfyUINotFound, ServerError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
