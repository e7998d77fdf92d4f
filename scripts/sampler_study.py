#!/usr/bin/env python3
"""Which of ComfyUI's samplers follow a motion as well as Euler does; writes docs/SAMPLERS.md.

Run it with ComfyUI's interpreter. Each sampler draws the same number of videos from the toy of
`toy_animatediff`, guided by the motion of one clip after another, whether the pack allows the sampler or
not. Reported are the mean cosine between the direction of the drawn clip and that of the reference (0 is
chance, 1 is always the same direction), and the mean energy at the last guided step.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
from datetime import date
from pathlib import Path

from find_comfyui import PACK, find_comfyui

FOUND = find_comfyui()
sys.path[:0] = [str(PACK), str(FOUND.path)]
OPTIONS = argparse.ArgumentParser(description=__doc__)
OPTIONS.add_argument("--videos", type=int, default=64, help="videos for each sampler and schedule")
OPTIONS.add_argument("--samplers", nargs="*", help="only these")
OPTIONS.add_argument("--schedules", nargs="*", default=["motionclone"], choices=["motionclone", "normal"])
OPTIONS.add_argument("--weight", type=float, default=8000.0)
OPTIONS.add_argument("--output", type=Path, default=PACK / "docs" / "SAMPLERS.md")
ARGS = OPTIONS.parse_args()
sys.argv = sys.argv[:1]  # ComfyUI reads it, too
import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True
import comfy.samplers  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402

from motionclone_core.extraction import RepresentationBuilder  # noqa: E402
from motionclone_core.guidance import MotionGuidance  # noqa: E402
from motionclone_core.hosts import comfy_extraction, comfy_runtime, comfy_sampling  # noqa: E402
from motionclone_core.representation import MotionRepresentation, Provenance  # noqa: E402
from motionclone_core.schedule import GuidanceWindow  # noqa: E402
from motionclone_core.taps import DEFAULT_BLOCKS, select_taps  # noqa: E402
from toy_animatediff import CONDITIONING, FRAMES, SIDE, clips, toy_model  # noqa: E402

SCHEDULES = {"motionclone": (30, 15), "normal": (24, 10)}  # steps, guided steps
RATIO, CFG, T_ALPHA = 0.5, 3.0, 100
LATENT_SCALE = 0.18215
# Chooses its own steps by an error estimate that guidance unsettles: one video did not end within minutes.
ENDLESS = ("dpm_adaptive",)


def extract(model: object, clip: torch.Tensor) -> MotionRepresentation:
    """The motion of one clip, ``[f, c, h, w]``."""
    host = comfy_runtime.AnimateDiffHost(model)
    taps = select_taps(host.sites, DEFAULT_BLOCKS)
    builder = RepresentationBuilder(taps, k=1, frames=FRAMES, latent_size=(SIDE, SIDE))
    noise = torch.randn(clip.shape, generator=torch.manual_seed(1))
    comfy_extraction.run_once(
        model, builder.observer, latent=(clip / LATENT_SCALE).float(), noise=noise, timestep=T_ALPHA,
        conditioning=CONDITIONING, seed=1,
    )  # fmt: skip
    return builder.representation(Provenance("toy", host.identity.architecture, "", T_ALPHA, 1))


def draw(
    model: object, sampler: str, schedule: str, guidance: MotionGuidance, seed: int
) -> tuple[torch.Tensor, float]:
    """One video, ``[f, c, h, w]`` in model space, and the energy of its last guided step."""
    steps, guided = SCHEDULES[schedule]
    if schedule == "motionclone":
        sigmas = comfy_sampling.uneven_sigmas(model, steps=steps, guided_steps=guided, ratio=RATIO)
    else:
        sigmas = comfy_sampling.scheduler_sigmas(model, scheduler=schedule, sampler=sampler, steps=steps)
    latent = {"samples": torch.zeros(FRAMES, 4, SIDE, SIDE)}
    runs: list[comfy_runtime.RunSummary] = []
    guided_model = comfy_runtime.with_guidance(model, guidance, on_end=runs.append)
    drawn = comfy_sampling.sample(
        guided_model, sampler=sampler, sigmas=sigmas, cfg=CFG, positive=CONDITIONING,
        negative=CONDITIONING, latent=latent, seed=seed,
    )  # fmt: skip
    energies = runs[-1].energies
    return drawn["samples"].double() * LATENT_SCALE, energies[1] if energies else math.nan


def study(model: object, sampler: str, schedule: str, weight: float, videos: int) -> str:
    """One row of the table."""
    data, directions = clips()
    cosines, last = [], []
    _, guided = SCHEDULES[schedule]
    for seed in range(videos):
        reference = (4 * seed + 1) % len(data)
        window = GuidanceWindow(0, guided, 0, 0)
        guidance = MotionGuidance(extract(model, data[reference]), weight, window)
        video, energy = draw(model, sampler, schedule, guidance, seed)
        nearest = (data - video).square().sum(dim=(1, 2, 3, 4)).argmin()
        cosines.append(math.cos(directions[nearest] - directions[reference]))
        last.append(energy)
    spread = statistics.stdev(cosines) / math.sqrt(videos)
    return f"{statistics.mean(cosines):+.2f} ± {spread:.2f} | {statistics.mean(last):.4f}"


def main() -> int:
    comfy.utils.PROGRESS_BAR_ENABLED = False
    comfy_sampling.require_sampler = lambda sampler: None  # refused ones are measured as well
    comfy_runtime.require_sampler = comfy_sampling.require_sampler
    known = [n for n in comfy.samplers.SAMPLER_NAMES if not n.endswith("_gpu") and n not in ENDLESS]
    names = ARGS.samplers or known
    rows = []
    with torch.inference_mode():
        model = toy_model()
        cases = [("euler", 0.0), *((name, ARGS.weight) for name in names)]
        for schedule in ARGS.schedules:
            for name, weight in cases:
                try:
                    row = study(model, name, schedule, weight, ARGS.videos)
                except Exception as error:  # a sampler that fails is a row, too
                    row = f"fails: {type(error).__name__} {str(error)[:60]} |"
                rows.append(f"| {schedule} | {name}{' unguided' if not weight else ''} | {row} |")
                print(rows[-1], flush=True)
    ARGS.output.parent.mkdir(exist_ok=True)
    ARGS.output.write_text(page(rows), encoding="utf-8")
    return 0


def page(rows: list[str]) -> str:
    head = (
        "# Samplers under motion guidance\n\n"
        f"{ARGS.videos} videos for each row, weight {ARGS.weight:g}, cfg {CFG:g}. "
        f"ComfyUI {FOUND.version}, torch {torch.__version__}, {os.cpu_count()} cores {platform.machine()}, "
        f"{date.today().isoformat()}; `scripts/sampler_study.py` measures it again and says what the toy is.\n\n"
        "| scheduler | sampler | cosine to the reference's direction | last energy |\n"
        "| --- | --- | --- | --- |\n"
    )
    left_out = f"\nLeft out: {', '.join(ENDLESS)}, whose runs do not end under guidance.\n"
    return head + "\n".join(rows) + "\n" + left_out


if __name__ == "__main__":
    sys.exit(main())
