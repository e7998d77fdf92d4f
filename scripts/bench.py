#!/usr/bin/env python3
"""Cost of a guided step beside an unguided one, measured through a real ComfyUI server.

Both runs use the same model, size and number of steps; what comes before the sampler is cached by ComfyUI, so
that the time of a prompt is that of its steps. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from comfy_server import ComfyServer, Graph, Node, ServerError
from demo_comfyui import Models, choose_models, has_accelerator
from find_comfyui import ComfyUINotFound, check_interpreter, find_comfyui


def common(graph: Graph, models: Models, args: argparse.Namespace) -> dict[str, Node]:
    """Everything but the sampler; the reference is the latent of an empty picture."""
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name=models.checkpoint.name)
    module = graph.add("ADE_LoadAnimateDiffModel", model_name=models.motion_module.name)
    motion = graph.add("ADE_ApplyAnimateDiffModelSimple", motion_model=module)
    model = graph.add("ADE_UseEvolvedSampling", model=checkpoint, m_models=motion, beta_schedule="autoselect")
    latent = graph.add("EmptyLatentImage", width=args.size, height=args.size, batch_size=args.frames)
    texts = {
        name: graph.add("CLIPTextEncode", clip=checkpoint[1], text=text)
        for name, text in (("positive", "a boat on the sea"), ("negative", ""))
    }
    return {"model": model, "latent_image": latent, **texts}


def guided_model(graph: Graph, parts: dict[str, Node], args: argparse.Namespace) -> Node:
    """The model under guidance at every step."""
    extract = graph.add(
        "MotionCloneExtract",
        model=parts["model"], conditioning=parts["negative"], latent=parts["latent_image"],
        t_alpha=400, k=1, blocks="up_blocks.1", seed=0,
    )  # fmt: skip
    return graph.add(
        "MotionCloneApplyGuidance",
        model=parts["model"], motion_rep=extract, weight=2000.0, start_step=0, guided_steps=args.steps,
        warm_up=0, cool_down=0, update_rule="published",
    )  # fmt: skip


def seconds_per_step(
    server: ComfyServer, models: Models, args: argparse.Namespace, *, guided: bool, steps: int, seed: int
) -> float:
    """Runs one prompt and returns its time divided by its steps.

    Raises:
        ServerError: the prompt failed.
    """
    graph = Graph()
    parts = common(graph, models, args)
    if guided:
        parts["model"] = guided_model(graph, parts, args)
    settings = {"cfg": 8.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    samples = graph.add("KSampler", **parts, **settings, seed=seed, steps=steps)
    graph.add("SaveLatent", samples=samples, filename_prefix="bench")
    start = time.perf_counter()
    result = server.run(graph, timeout=3600)
    if not result.ok:
        errors = result.exception_message or result.node_errors
        raise ServerError(f"the run ended with {result.status}: {errors}\n{server.log_tail()}")
    return (time.perf_counter() - start) / steps


def measure(args: argparse.Namespace) -> None:
    """Prints the cost of both kinds of step, measured in turn, and the median of their ratios."""
    found = find_comfyui()
    check_interpreter(found)
    models = choose_models(found)
    linked = {"checkpoints": [models.checkpoint], "animatediff_models": [models.motion_module]}
    cpu = args.cpu or not has_accelerator(found)
    device = "CPU" if cpu else "GPU"
    print(f"ComfyUI {found.version}, {device}, {args.frames} frames of {args.size} x {args.size}")
    with ComfyServer(found, models=linked, cpu=cpu) as server:
        for guided in (False, True):
            # Loads the models and fills ComfyUI's cache of outputs.
            seconds_per_step(server, models, args, guided=guided, steps=1, seed=0)
        pairs = []
        for seed in range(1, args.repeats + 1):
            plain, guided = (
                seconds_per_step(server, models, args, guided=kind, steps=args.steps, seed=seed)
                for kind in (False, True)
            )
            pairs.append((plain, guided))
            print(
                f"unguided {plain:.2f} s, guided {guided:.2f} s a step, ratio {guided / plain:.3f}",
                flush=True,
            )
    plain, guided = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(guided / plain for plain, guided in pairs)
    print(
        f"median of {len(pairs)}: unguided {plain:.2f} s, guided {guided:.2f} s, ratio of a pair {ratio:.3f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--steps", type=int, default=3, help="steps of a timed run")
    parser.add_argument("--repeats", type=int, default=3, help="timed pairs of runs")
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    try:
        measure(parser.parse_args())
    except (ComfyUINotFound, ServerError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
