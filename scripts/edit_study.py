#!/usr/bin/env python3
"""Measures on the embedded model what edits of motions do, and writes their part of docs/FIDELITY.md.

A run that was cut off goes on where it was; ``--report`` writes the page from what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from edit_cells import Clip, EditSetting, cells, clips, motion_of
from embedded.measuring import Result, generate, initial_noise
from embedded.model import MODEL_FILE, EmbeddedModel, load_model
from embedded.scoring import caption_correct, locate, locate_any
from fidelity import STORE as FIDELITY_STORE
from fidelity import facts_of, origin_of, write_page
from fidelity_store import cell_path, resumed, write_record

STORE = FIDELITY_STORE / "edits"
BATCH = 8


def sampled(model: EmbeddedModel, batch: Sequence[Clip], setting: EditSetting) -> list[Result]:
    """Sample clips under one setting."""
    # A mask guides a part of the clip, and each another one: see `measuring.EachGuidance`.
    if setting.mask and len(batch) > 1:
        return [result for clip in batch for result in sampled(model, [clip], setting)]
    motions = [motion_of(model, clip, setting) for clip in batch] if setting.weight else ()
    shape = {"size": setting.size, "frames": setting.frames}
    noise = torch.cat([initial_noise([clip.index], clip.seed, **shape) for clip in batch])
    captions = [clip.target.words for clip in batch]
    return generate(model, captions, noise, setting, motions=motions, windows=setting.windows)


def row_of(clip: Clip, result: Result) -> dict[str, Any]:
    """What is kept of a result: where its things are, and how far the caption is obeyed.

    A single thing is looked for by its colour. Of two, both often come out in one of their colours; they are followed
    whatever colour they have.
    """
    asked, number = clip.target.timed([0] * len(result.video)), len(clip.target.things)
    found = locate(result.video, asked) if number == 1 else locate_any(result.video, number)
    caption = caption_correct(result.video, asked)
    return {
        "case": clip.index,
        "seed": clip.seed,
        "paths": np.round(found.paths.astype(float), 2).tolist(),
        "seen": round(float(found.found.mean()), 4),
        "shape": float(np.mean(caption.shape_right)),
        "colour": float(np.mean(caption.colour_right)),
    }


def measure(
    model: EmbeddedModel, name: str, setting: EditSetting, wanted: Sequence[Clip], store: Path, facts: dict[str, Any]
) -> None:
    """Sample the clips of one cell that are not in the store yet.

    Args:
        model: the embedded model.
        name: of the cell.
        setting: how to sample.
        wanted: its clips.
        store: folder of the records.
        facts: see `fidelity.measure`.

    Raises:
        SystemExit: the store has rows of the cell that were measured otherwise.
    """
    path = cell_path(store, name)
    record = resumed(path, origin_of(setting, facts))
    left = [clip for clip in wanted if (clip.index, clip.seed) not in record.done]
    for start in range(0, len(left), BATCH):
        batch = left[start : start + BATCH]
        rows = [row_of(clip, result) for clip, result in zip(batch, sampled(model, batch, setting), strict=True)]
        record = record.with_rows(facts["run"], rows)
        write_record(path, record)


def measure_all(model: EmbeddedModel, chosen: Mapping[str, EditSetting], args: argparse.Namespace) -> None:
    """Every cell, one after the other."""
    model.unet.to(getattr(torch, args.precision))
    facts = facts_of(args)
    with tqdm(total=len(chosen)) as bar:
        for name, setting in chosen.items():
            bar.set_description(name)
            chosen_clips = clips(setting.clips, args.cases, first=args.first)
            measure(model, name, setting, chosen_clips, args.store, facts)
            bar.update()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="*", help="shell pattern of cells, such as 'two/*'")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--first", type=int, default=0, help="first reference; above 0 no page is written")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--report", action="store_true", help="only write the page")
    args = parser.parse_args(arguments)
    args.model = MODEL_FILE
    args.store.mkdir(parents=True, exist_ok=True)
    if not args.report:
        chosen = {name: setting for name, setting in cells().items() if fnmatchcase(name, args.cells)}
        if not chosen:
            raise SystemExit(f"no cell matches {args.cells!r}: there are {', '.join(cells())}")
        measure_all(load_model(), chosen, args)
    if not args.first and args.store == STORE:
        # The page's other sections show 64 references.
        write_page(argparse.Namespace(cases=64, precision=args.precision, store=FIDELITY_STORE, model=MODEL_FILE))


if __name__ == "__main__":
    main()
