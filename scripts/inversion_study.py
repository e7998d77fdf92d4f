#!/usr/bin/env python3
"""Measures on the embedded model how well inverting and sampling back returns a clip; writes docs/INVERSION.md.

Every finished batch is kept, so that a run that was cut off goes on where it was; ``--report`` writes the page from
what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from embedded.measuring import held_out_cases
from embedded.model import MODEL_FILE, EmbeddedModel, file_hash, load_model
from fidelity import ROOT, this_run
from fidelity_store import Record, cell_path, read_record, resumed, write_record
from motionclone_core.hosts.diffusers_animatediff import invert, sample
from motionclone_core.inversion import PUBLISHED_STEPS, inversion_timesteps
from tables import markdown

STORE = ROOT / "docs" / "inversion"
PAGE = ROOT / "docs" / "INVERSION.md"
STEPS = (50, 100, 200, PUBLISHED_STEPS)
CASES = 8
BATCH = 4


def measured(model: EmbeddedModel, cases: Sequence[int], steps: int, bar: tqdm) -> list[dict[str, Any]]:
    """A row for each reference: how far it comes back from, and what its inversion looks like."""
    scenes = [held_out_cases(case + 1, 0)[case].reference for case in cases]
    clean = torch.cat([model.encode(scene.render()) for scene in scenes])
    text = model.text(*(scene.words for scene in scenes))
    timesteps = inversion_timesteps(steps)
    kept = invert(model.host, clean, text, steps=steps, keep=timesteps[-1:], on_step=lambda _: bar.update())
    top = kept[timesteps[-1]]
    falling = {"timesteps": timesteps[::-1], "cfg": 1.0}
    back = sample(model.host, top, text, model.null_text, **falling, on_step=lambda *_: bar.update())
    return [
        {"case": case, "seed": 0, **_scores(model, *clips)}
        for case, *clips in zip(cases, clean, top, back, strict=True)
    ]


def _scores(model: EmbeddedModel, clean: Tensor, top: Tensor, back: Tensor) -> dict[str, float]:
    video, again = (model.decode(clip[None])[0].astype(float) for clip in (clean, back))
    error = float(torch.linalg.vector_norm(back - clean) / torch.linalg.vector_norm(clean))
    found = {"error": error, "pixels": float(np.abs(video - again).mean())}
    return {key: round(value, 6) for key, value in (found | {"deviation": float(top.std())}).items()}


def measure_all(model: EmbeddedModel, steps: Sequence[int], cases: int) -> None:
    """Every number of steps over all references."""
    for count in steps:
        setting = {"steps": count, "prompt": "the reference's caption"}
        origin = {"model": file_hash(MODEL_FILE), "precision": "float32", "setting": setting}
        path = cell_path(STORE, str(count))
        for first in range(0, cases, BATCH):
            record = resumed(path, origin)
            left = [case for case in range(first, min(first + BATCH, cases)) if (case, 0) not in record.done]
            if left:
                with tqdm(total=2 * count, desc=f"{count} steps, references {left}", mininterval=20) as bar:
                    write_record(path, record.with_rows(this_run(), measured(model, left, count, bar)))


def table(records: Mapping[int, Record]) -> str:
    """One line for each number of steps."""
    heads = ["steps", "relative error of the latents", "median", "largest", "pixels, of 255", "deviation at 999"]
    rows = []
    for steps, record in sorted(records.items()):
        errors, pixels, deviation = (
            np.array([row[key] for row in record.rows]) for key in ("error", "pixels", "deviation")
        )
        spread = f" ± {errors.std(ddof=1) / len(errors) ** 0.5:.4f}" if len(errors) > 1 else ""
        entries = [str(steps), f"{errors.mean():.4f}{spread}", f"{np.median(errors):.4f}", f"{errors.max():.4f}"]
        entries += [f"{pixels.mean():.2f}", f"{deviation.mean():.3f}"]
        rows.append([*entries, str(len(errors))])
    return markdown([*heads, "references"], rows)


def write_page() -> None:
    """docs/INVERSION.md, from what is measured."""
    found = {int(path.stem): read_record(path) for path in STORE.glob("*.jsonl")}
    records = {steps: record for steps, record in found.items() if record is not None and record.rows}
    if not records:
        raise SystemExit(f"{STORE} has no rows: measure first, without --report")
    runs = sorted({run for record in records.values() for run in record.runs})
    facts = [f"model: SHA-256 `{next(iter(records.values())).origin['model']}`", "precision: float32"]
    facts += [f"measured on {run}" for run in runs]
    page = _PAGE.format(facts="\n".join(f"- {fact}" for fact in facts), table=table(records))
    PAGE.write_text(page, encoding="utf-8")


_PAGE = """# Inversion: does a clip come back?

Written by `scripts/inversion_study.py`, which anyone can run again; rows that are there are kept. Held-out references
of the embedded model ([model card](../embedded/MODEL_CARD.md)) are inverted by DDIM under their own captions, and what
comes out is sampled back by Euler's method (DDIM) through the same noise levels, under the same captions, without
classifier-free guidance and without a motion.

{facts}

{table}

The error is `|back - clip| / |clip|` over all latents of a reference, mean ± its standard error over the references.
It is what inversion takes for granted that makes it: on the way up the network sees the latent of the level before and
is told the next one. More steps make the two more alike. The largest error is that of reference 1, which comes back
from 50 steps with a second thing in its first four frames, and otherwise as it was. *Pixels* is the mean difference of
the decoded clips; *deviation* is that of the inverted latents at timestep 999, 1 for pure noise.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--report", action="store_true", help="only write the page")
    args = parser.parse_args(arguments)
    STORE.mkdir(parents=True, exist_ok=True)
    if not args.report:
        measure_all(load_model(), args.steps, args.cases)
    write_page()


if __name__ == "__main__":
    main()
