#!/usr/bin/env python3
"""Measures how well the embedded model follows held-out motions, cell by cell, and writes docs/FIDELITY.md.

A cell is one setting over all cases. Every finished batch is kept, so that a run that was cut off goes on where
it was. ``--report`` writes the page from what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from tqdm import tqdm

from embedded.measuring import (
    FAST,
    PUBLISHED,
    SCHEDULERS,
    Case,
    Setting,
    ceiling,
    held_out_cases,
    run,
    score,
)
from embedded.model import MODEL_FILE, EmbeddedModel, file_hash, load_model
from fidelity_report import cell_path, rows_of, write_report
from motionclone_core.paths import write_whole
from motionclone_core.schedule import PRESETS, equal_push

ROOT = Path(__file__).parent.parent
STORE = ROOT / "docs" / "fidelity"
PAGE = ROOT / "docs" / "FIDELITY.md"
BATCH = 16


def cells() -> dict[str, Setting | None]:
    """Every cell by name; the part before the slash is its table."""
    main: dict[str, Setting | None] = {
        "main/no guidance": replace(PUBLISHED, guided_steps=0),
        "main/guided": PUBLISHED,
        "main/another clip's motion": replace(PUBLISHED, other_motion=True),
        "main/plain control": replace(PUBLISHED, k=16),
        "main/ceiling": None,
        "fast/no guidance": replace(FAST, guided_steps=0),
        "fast/published weight": replace(FAST, weight=PUBLISHED.weight),
        "fast/fast": FAST,
        "fast/another clip's motion": replace(FAST, other_motion=True),
    }
    sweeps: dict[str, dict[object, Setting]] = {
        "k": {k: replace(FAST, k=k) for k in (1, 2, 4, 8, 16)},
        "t_alpha": {t: replace(FAST, t_alpha=t) for t in (200, 400, 600, 800)},
        "block": {b: replace(FAST, blocks=b) for b in BLOCKS},
        "weight": {w: replace(FAST, weight=_as_fast(w)) for w in (500, 1000, 2000, 4000, 8000)},
        "steps": {n: _with_steps(n) for n in (20, 30, 50, 100, 200)},
        "sampler": {name or "euler (ddim)": replace(FAST, scheduler=name) for name in ("", *SCHEDULERS)},
    }
    return main | {f"{axis}/{value}": s for axis, settings in sweeps.items() for value, s in settings.items()}


BLOCKS = ("down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2")


def _as_fast(weight: float) -> float:
    """The weight of the fast preset that pushes as far as ``weight`` does in the published steps."""
    return equal_push(weight, PRESETS["camera"].window, PRESETS["fast"].window)


def _with_steps(steps: int) -> Setting:
    guided = steps // 2
    ramp = max(1, round(guided / 5))
    return replace(PUBLISHED, steps=steps, guided_steps=guided, warm_up=ramp, cool_down=ramp)


def measure(
    model: EmbeddedModel, name: str, setting: Setting | None, cases: Sequence[Case], store: Path, precision: str
) -> None:
    """Sample and score the cases of one cell that are not in the store yet; without a setting, the ceiling."""
    path, rows = cell_path(store, name), rows_of(cell_path(store, name))
    done = {(row["case"], row["seed"]) for row in rows}
    left = [case for case in cases if (case.index, case.seed) not in done]
    for batch in tqdm(list(_batches(left)), desc=name, leave=False):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            results = run(model, batch, setting) if setting else ceiling(model, batch)
        seconds = (time.perf_counter() - began) / len(batch)
        for case, result in zip(batch, results, strict=True):
            row = {"case": case.index, "seed": case.seed, "seconds": round(seconds, 3)}
            scores = asdict(score(case, result.video, result.extremes))
            rows.append(row | {key: round(value, 5) for key, value in scores.items()})
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _batches(cases: Sequence[Case]) -> Iterator[list[Case]]:
    for seed in sorted({case.seed for case in cases}):
        of_seed = [case for case in cases if case.seed == seed]
        yield from (of_seed[i : i + BATCH] for i in range(0, len(of_seed), BATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="*", help="shell pattern of cells, such as 'main/*'")
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--model", type=Path, default=MODEL_FILE)
    parser.add_argument("--report", action="store_true", help="only write the page")
    args = parser.parse_args()
    args.store.mkdir(parents=True, exist_ok=True)
    chosen = {name: s for name, s in cells().items() if fnmatchcase(name, args.cells)}
    if not args.report:
        model = load_model(args.model)
        for seed in range(args.seeds):
            cases = held_out_cases(args.cases, seed)
            for name, setting in tqdm(chosen.items(), desc=f"seed {seed}"):
                measure(model, name, setting, cases, args.store, args.precision)
    write_report(PAGE, args.store, list(cells()), facts(args))


def facts(args: argparse.Namespace) -> dict[str, str]:
    """What the page's head says about how it was measured."""
    return {
        "date": date.today().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, no GPU used",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, {args.precision}",
        "model": f"{args.model.name}, SHA-256 {file_hash(args.model)[:16]}...",
        "cases": f"{args.cases} held-out references, each with a caption of other things; {args.seeds} seeds",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
