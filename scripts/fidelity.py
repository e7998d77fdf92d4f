#!/usr/bin/env python3
"""Measures how well the embedded model follows held-out motions, cell by cell, and writes docs/FIDELITY.md.

A cell is one setting over all cases. Every finished batch is kept, so that a run that was cut off goes on where
it was; cells of the same setting share their rows. ``--report`` writes the page from what there is.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import ablation_cells
import edit_cells
from embedded.measuring import (
    FAST,
    LIMITED,
    PUBLISHED,
    SCHEDULERS,
    Case,
    Setting,
    ceiling,
    held_out_cases,
    run,
    score,
)
from embedded.model import MODEL_FILE, EmbeddedModel, ModelFileError, card_of, file_hash, load_model
from fidelity_report import write_report
from fidelity_store import cell_path, described, resumed, write_record
from motionclone_core.schedule import equal_push

ROOT = Path(__file__).parent.parent
STORE = ROOT / "docs" / "fidelity"
PAGE = "FIDELITY.md"
BATCH = 16


def cells() -> dict[str, Setting | None]:
    """Every cell by name; the part before the slash is its table."""
    main: dict[str, Setting | None] = {
        "main/no guidance": replace(PUBLISHED, weight=0.0),
        "main/guided": LIMITED,
        "main/guided, without the limit": PUBLISHED,
        "main/ceiling": None,
        "fast/no guidance": replace(FAST, weight=0.0),
        "fast/published weight": _with_steps(FAST.steps),
        "fast/fast": FAST,
        "fast/another clip's motion": replace(FAST, other_motion=True),
        "fast/plain control": replace(FAST, k=16),
        "fast/published weight, plain control": replace(_with_steps(FAST.steps), k=16),
    }
    sweeps: dict[str, dict[object, Setting]] = {
        "k": {k: replace(FAST, k=k) for k in (1, 2, 4, 16)},
        "t_alpha": {t: replace(FAST, t_alpha=t) for t in (200, 400, 600, 800)},
        "block": {b: replace(FAST, blocks=b) for b in BLOCKS},
        "weight": {w: replace(FAST, weight=float(w)) for w in (500, 1000, 2000, 4000)},
        "sampler": {name or "euler (ddim)": replace(FAST, scheduler=name) for name in ("", *SCHEDULERS)},
        "steps": {n: _with_steps(n) for n in STEPS},
        "steps, equal push": {n: _fast_with_steps(n) for n in (15, 20, 30, 50)},
    }
    return main | {f"{axis}/{value}": s for axis, settings in sweeps.items() for value, s in settings.items()}


BLOCKS = ("down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2")
STEPS = (20, 30, 50, 100)


def _with_steps(steps: int) -> Setting:
    guided = steps // 2
    ramp = round(guided / 5)
    return replace(LIMITED, steps=steps, guided_steps=guided, warm_up=ramp, cool_down=ramp)


def _fast_with_steps(steps: int) -> Setting:
    """``fast`` with as great a part of the steps guided and cooling down, and the same push in all."""
    guided, cool_down = (round(steps * part / FAST.steps) for part in (FAST.guided_steps, FAST.cool_down))
    setting = replace(FAST, steps=steps, guided_steps=guided, cool_down=cool_down)
    return replace(setting, weight=round(equal_push(FAST.weight, FAST.window, setting.window), 1))


def sources(cells: Mapping[str, Setting | None]) -> dict[str, str]:
    """Whose rows each cell shows: the first cell of the same setting."""
    return {name: next(first for first, s in cells.items() if s == setting) for name, setting in cells.items()}


def origin_of(setting: Setting | None, facts: dict[str, Any]) -> dict[str, Any]:
    """What rows of one record share."""
    return {"model": facts["model"], "precision": facts["precision"], "setting": setting and described(setting)}


def measure(
    model: EmbeddedModel, name: str, setting: Setting | None, cases: Sequence[Case], store: Path, facts: dict[str, Any]
) -> None:
    """Sample and score the cases of one cell that are not in the store yet; without a setting, the ceiling.

    Args:
        model: the embedded model.
        name: of the cell.
        setting: how to sample.
        cases: of one seed, in one batch.
        store: folder of the records.
        facts: ``model`` and ``precision``, which rows of one record share, and ``run``.

    Raises:
        SystemExit: the store has rows of the cell that were measured otherwise.
    """
    origin = origin_of(setting, facts)
    path = cell_path(store, name)
    record = resumed(path, origin)
    left = [case for case in cases if (case.index, case.seed) not in record.done]
    if not left:
        return
    results = run(model, left, setting) if setting else ceiling(model, left)
    rows = []
    for case, result in zip(left, results, strict=True):
        scores = asdict(score(case, result, setting and setting.limit))
        rows.append({"case": case.index, "seed": case.seed} | {key: round(value, 5) for key, value in scores.items()})
    # Another run may have added rows meanwhile.
    write_record(path, resumed(path, origin).with_rows(facts["run"], rows))


def measure_all(model: EmbeddedModel, chosen: Mapping[str, Setting | None], args: argparse.Namespace) -> None:
    """Every cell over a few cases, then over more: a run that is cut off has something of all.

    Args:
        model: the embedded model; its network is cast to the precision asked for.
        chosen: cells by name.
        args: ``cases``, ``seeds``, ``precision``, ``store`` and ``model``, as the command line gives them.
    """
    facts = facts_of(args)
    # The network alone: energy, gradient and sampler stay in float32.
    model.unet.to(getattr(torch, args.precision))
    end = args.first + args.cases
    starts = [(first, seed) for first in range(args.first, end, BATCH) for seed in range(args.seeds)]
    with tqdm(total=len(starts) * len(chosen)) as bar:
        for first, seed in starts:
            for name, setting in chosen.items():
                bar.set_description(f"seed {seed}, {name}")
                clip = {} if setting is None else {"size": setting.size, "frames": setting.frames}
                cases = held_out_cases(min(end, first + BATCH), seed, **clip)[first:]
                measure(model, name, setting, cases, args.store, facts)
                bar.update()


def facts_of(args: argparse.Namespace) -> dict[str, Any]:
    """See `measure`."""
    return {"model": file_hash(args.model), "precision": args.precision, "run": this_run()}


def chosen_cells(pattern: str, part: str) -> dict[str, Setting | None]:
    """The cells whose rows those that match a pattern show; of these every n-th, for runs side by side.

    Raises:
        SystemExit: nothing matches, or the part is none.
    """
    every, shown = cells(), sources(cells())
    names = list(dict.fromkeys(shown[name] for name in every if fnmatchcase(name, pattern)))
    if not names:
        raise SystemExit(f"no cell matches {pattern!r}: there are {', '.join(every)}")
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", part)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise SystemExit(f"part {part!r} is none: give one such as 1/2, and 2/2 in a second run")
    return {name: every[name] for name in names[number - 1 :: count]}


def write_page(args: argparse.Namespace) -> None:
    """docs/FIDELITY.md, from what is measured as it would be today.

    Args:
        args: ``cases``, ``precision``, ``store`` and ``model``, as the command line gives them.
    """
    facts = facts_of(args)
    origins, edits, ablation = (
        {name: origin_of(setting, facts) for name, setting in named().items()}
        for named in (cells, edit_cells.cells, ablation_cells.cells)
    )
    kinds = {case.index: case.kind for case in held_out_cases(args.cases, 0)}
    latents = card_of(args.model)["latents"]
    write_report(args.store.parent / PAGE, args.store, sources(cells()), origins, latents, kinds, edits, ablation)


def this_run() -> str:
    """When and on what."""
    return (
        f"{date.today().isoformat()}, {_processor()}, {os.cpu_count()} cores, no GPU, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="*", help="shell pattern of cells, such as 'main/*'")
    parser.add_argument("--part", default="1/1", help="'1/2' and '2/2' share the cells; --report then writes the page")
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--first", type=int, default=0, help="first reference; above 0 no page is written")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--store", type=Path, default=STORE, help="the page is written beside this folder")
    parser.add_argument("--model", type=Path, default=MODEL_FILE)
    parser.add_argument("--report", action="store_true", help="only write the page")
    args = parser.parse_args(arguments)
    if min(args.cases, args.seeds) < 1:
        parser.error(f"--cases {args.cases} and --seeds {args.seeds}: choose 1 or more of both")
    if args.first < 0:
        parser.error(f"--first {args.first}: references are counted from 0")
    args.store.mkdir(parents=True, exist_ok=True)
    try:
        model = load_model(args.model)
    except (FileNotFoundError, ModelFileError) as error:
        raise SystemExit(str(error)) from error
    if not args.report:
        measure_all(model, chosen_cells(args.cells, args.part), args)
    if args.report or (args.part == "1/1" and not args.first):
        write_page(args)


if __name__ == "__main__":
    main()
