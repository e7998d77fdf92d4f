#!/usr/bin/env python3
"""Cost of guided steps beside unguided ones, measured through a real ComfyUI server.

Every run has one guided step and, right after it, an unguided one (and between them, where that is measured, one that
shares its gradient): their ratio is that of neighbours, whatever else the machine does. What a guided step keeps for
its gradient is counted in runs of their own, operation by operation.
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
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from bench_report import write_page
from comfy_server import ComfyServer, Graph, Node, ServerError
from demo_comfyui import Models, choose_models, has_accelerator
from find_comfyui import PACK, ComfyUI, ComfyUINotFound, check_interpreter, find_comfyui
from floor import floors
from motionclone_core.paths import write_whole
from random_models import ensure_models

STORE = PACK / "docs" / "performance"
METER_PACK = Path(__file__).parent / "bench_pack"
MODES = ("speed", "memory")
# By default: what a CPU has the time for, and what people sample on a GPU.
SIZES = {"cpu": ([128, 256], [64, 128]), "gpu": ([256, 512], [256, 512])}
WINDOW, OVERLAP = 16, 4


@dataclass(frozen=True)
class Case:
    """What is sampled: clips longer than a window in windows, with or without a SparseCtrl on the first frame."""

    size: int
    mode: str
    frames: int = WINDOW
    control: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """As rows tell it."""
        return {"size": self.size, "mode": self.mode, "frames": self.frames, "control": self.control}


@dataclass(frozen=True)
class Bench:
    """A running server, and what is measured on it."""

    server: ComfyServer
    models: Models
    sparse_control: Path

    def steps(self, case: Case, *, seed: int, memory: bool = False, sharing: int = 0) -> dict[str, Any]:
        """What a guided step, those that share its gradient and an unguided one cost; how many weights they need."""
        graph = Graph()
        parts = self._parts(graph, case)
        motion = self._motion(graph, parts, parts["model"])
        guided = graph.add(
            "MotionCloneApplyGuidance", model=parts["model"], motion_rep=motion, weight=2000.0, start_step=0,
            guided_steps=1 + sharing, warm_up=0, cool_down=0, update_rule="published", memory=case.mode,
            reuse=1 + sharing,
        )  # fmt: skip
        return self._sampled(graph, parts | {"model": guided}, cfg=8.5, steps=2 + sharing, seed=seed, memory=memory)

    def conditional(self, case: Case, *, seed: int) -> float:
        """Seconds of a conditional pass."""
        graph = Graph()
        (step,) = self._sampled(graph, self._parts(graph, case), cfg=1.0, steps=1, seed=seed)["steps"]
        return step["seconds"]

    def extraction(self, case: Case, *, seed: int) -> float:
        """Seconds of the pass that reads a motion."""
        graph = Graph()
        parts = self._parts(graph, case)
        motion = self._motion(graph, parts, self._metered(graph, parts["model"], "extraction"), seed=seed)
        graph.add("MotionCloneSaveMotionRep", motion_rep=motion, filename_prefix="bench", folder="output")
        (step,) = self._measured(graph, "extraction")["steps"]
        return step["seconds"]

    def motion_file(self) -> int:
        """Bytes of the last motion file that was written."""
        files = (self.server.output_dir / "motion_reps").glob("bench*.safetensors")
        return max(files, key=lambda file: file.stat().st_mtime_ns).stat().st_size

    def _parts(self, graph: Graph, case: Case) -> dict[str, Node]:
        checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name=self.models.checkpoint.name)
        module = graph.add("ADE_LoadAnimateDiffModel", model_name=self.models.motion_module.name)
        motion = graph.add("ADE_ApplyAnimateDiffModelSimple", motion_model=module)
        beta = {"model": checkpoint, "m_models": motion, "beta_schedule": "sqrt_linear (AnimateDiff)"}
        if case.frames > WINDOW:
            size = {"context_length": WINDOW, "context_overlap": OVERLAP}
            beta["context_options"] = graph.add("ADE_StandardStaticContextOptions", **size)
        model = graph.add("ADE_UseEvolvedSampling", **beta)
        latent = graph.add("EmptyLatentImage", width=case.size, height=case.size, batch_size=case.frames)
        texts = {
            name: graph.add("CLIPTextEncode", clip=checkpoint[1], text=text)
            for name, text in (("positive", "a boat on the sea"), ("negative", ""))
        }
        if case.control:
            texts = self._controlled(graph, texts, latent, checkpoint[2])
        return {"model": model, "latent_image": latent, **texts}

    def _controlled(self, graph: Graph, texts: dict[str, Node], latent: Node, vae: Any) -> dict[str, Any]:
        control = graph.add(
            "ACN_SparseCtrlLoaderAdvanced", sparsectrl_name=self.sparse_control.name, use_motion=True,
            motion_strength=1.0, motion_scale=1.0,
        )  # fmt: skip
        picture = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0x808080)
        hint = graph.add("ACN_SparseCtrlRGBPreprocessor", image=picture, vae=vae, latent_size=latent)
        applied = graph.add(
            "ACN_AdvancedControlNetApply_v2", **texts, control_net=control, image=hint, strength=1.0,
            start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
        return {"positive": applied[0], "negative": applied[1]}

    def _motion(self, graph: Graph, parts: dict[str, Node], model: Node, *, seed: int = 0) -> Node:
        return graph.add(
            "MotionCloneExtract", model=model, conditioning=parts["negative"], latent=parts["latent_image"],
            t_alpha=400, k=1, blocks="up_blocks.1", seed=seed,
        )  # fmt: skip

    def _metered(self, graph: Graph, model: Node, name: str, *, memory: bool = False) -> Node:
        return graph.add("MotionCloneMeter", model=model, name=name, memory=memory)

    def _sampled(
        self, graph: Graph, parts: dict[str, Node], *, cfg: float, steps: int, seed: int, memory: bool = False
    ) -> dict[str, Any]:
        model = self._metered(graph, parts["model"], "steps", memory=memory)
        settings = {"cfg": cfg, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        samples = graph.add("KSampler", **parts | {"model": model}, **settings, seed=seed, steps=steps)
        graph.add("SaveLatent", samples=samples, filename_prefix="bench")
        return self._measured(graph, "steps")

    def _measured(self, graph: Graph, name: str) -> dict[str, Any]:
        result = self.server.run(graph, timeout=7200)
        if not result.ok:
            errors = result.exception_message or result.node_errors
            raise ServerError(f"the run ended with {result.status}: {errors}\n{self.server.log_tail()}")
        return json.loads((self.server.output_dir / f"{name}.json").read_text(encoding="utf-8"))


def timed_cases(args: argparse.Namespace) -> list[list[Case]]:
    """What is timed; cases of one list take turns."""
    sizes = [[Case(size, mode) for mode in args.modes] for size in args.sizes]
    return [*sizes, *([Case(args.window_size, "memory", frames)] for frames in args.window_frames)]


def counted_cases(args: argparse.Namespace) -> list[Case]:
    """What is counted."""
    sizes = [Case(size, mode) for size in args.count_sizes for mode in args.modes]
    windows = [Case(args.window_size, "memory", frames) for frames in args.window_frames]
    controlled = [] if args.no_control else [replace(case, control=True) for case in sizes]
    return list(dict.fromkeys([*sizes, *controlled, *windows]))


def measured(bench: Bench, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each timed case."""
    for turns in timed_cases(args):
        first = turns[0]
        for case in turns:
            bench.steps(case, seed=0)  # loads the models, and whatever the first run of a size makes
        seeds = range(1, 1 + args.repeats)
        passes = [(bench.extraction(first, seed=seed), bench.conditional(first, seed=seed)) for seed in seeds]
        pairs: dict[Case, list[list[dict[str, Any]]]] = {case: [] for case in turns}
        for seed in seeds:
            for case in turns:
                pairs[case].append(bench.steps(case, seed=seed)["steps"])
        for case in turns:
            yield case.facts | {
                "seconds": [[step["seconds"] for step in pair] for pair in pairs[case]],
                "peak": [max(pair[i].get("peak", 0) for pair in pairs[case]) for i in (0, 1)],
                "passes": passes,
                "motion_file": bench.motion_file(),
            }


def counted(bench: Bench, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What guided steps keep."""
    for case in counted_cases(args):
        report = bench.steps(case, seed=0, memory=True)
        guided, unguided = report["steps"]
        yield case.facts | {
            "weights": report["weights"],
            "kept": guided["kept"],
            "peaks": [guided["live_peak"], unguided["live_peak"]],
            "by_layer": guided["kept_by_layer"],
        }


def shared(bench: Bench, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds of a guided step, one that shares its gradient, and an unguided one."""
    for turns in timed_cases(args)[: len(args.sizes)]:
        for case in turns:
            bench.steps(case, seed=0)
            runs = [bench.steps(case, seed=seed, sharing=1)["steps"] for seed in range(1, 1 + args.repeats)]
            yield case.facts | {"seconds": [[step["seconds"] for step in steps] for steps in runs]}


KINDS = {"counted": counted, "measured": measured, "shared": shared}


def with_row(rows: list[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run and one more, which takes the place of that of its case."""
    case = {key: row[key] for key in ("frames", "control", "size", "mode")}
    others = [other for other in rows if any(other[key] != value for key, value in case.items())]
    return sorted([*others, row], key=lambda row: [row[key] for key in case])


def run(found: ComfyUI, args: argparse.Namespace) -> None:
    """Measure everything that was asked for; what is done is kept if the rest is cut off."""
    models, sparse_control = choose_models(found), ensure_models(found).sparse_control
    linked = {"checkpoints": [models.checkpoint], "animatediff_models": [models.motion_module]}
    linked["controlnet"] = [sparse_control]
    cpu = args.cpu or not has_accelerator(found)
    timed, counted = SIZES["cpu" if cpu else "gpu"]
    args.sizes = timed if args.sizes is None else args.sizes
    args.count_sizes = counted if args.count_sizes is None else args.count_sizes
    arguments = ["--use-pytorch-cross-attention", *args.server_args]
    machine = args.machine or platform.processor() or platform.machine()
    file = STORE / f"{re.sub(r'[^a-z0-9]+', '_', machine.lower()).strip('_')}.json"
    facts = {"machine": machine, "cpu": cpu, "comfyui": found.version}
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rows: dict[str, list[dict[str, Any]]] = {kind: before.get(kind, []) for kind in KINDS}
    with ComfyServer(found, models=linked, packs=[METER_PACK], cpu=cpu, extra_args=arguments) as server:
        bench = Bench(server, models, sparse_control)
        for kind in args.kinds:
            for row in KINDS[kind](bench, args):
                rows[kind] = with_row(rows[kind], row | {"date": date.today().isoformat()})
                print(_line(kind, row), flush=True)
                write_whole(file, (json.dumps(facts | {"arguments": arguments, **rows}, indent=1) + "\n").encode())


def _line(kind: str, row: dict[str, Any]) -> str:
    what = f"{row['frames']} frames of {row['size']} x {row['size']}, {row['mode']}"
    what += ", SparseCtrl:" if row["control"] else ":"
    if kind == "counted":
        return f"{what} {row['kept'] / 2**20:.0f} MiB kept"
    if kind == "shared":
        return f"{what} sharing / unguided {statistics.median(s / unguided for _, s, unguided in row['seconds']):.3f}"
    ratio = statistics.median(guided / unguided for guided, unguided in row["seconds"])
    return f"{what} guided / unguided {ratio:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", help="sides in pixels, timed")
    parser.add_argument("--count-sizes", type=int, nargs="*", help="sides whose memory is counted")
    parser.add_argument("--window-size", type=int, default=64, help="side of the clips that are sampled in windows")
    parser.add_argument("--window-frames", type=int, nargs="*", default=[16, 32, 64, 128], help="their lengths")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=(*MODES, "auto"))
    parser.add_argument("--no-control", action="store_true", help="without SparseCtrl (ComfyUI-Advanced-ControlNet)")
    kinds = "memory, time, and time of steps that share a gradient"
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS, help=kinds)
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
            STORE.mkdir(parents=True, exist_ok=True)
            run(found, args)
        write_page(STORE, floors((64, 128, 256, 512)))
    except (ComfyUINotFound, ServerError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
