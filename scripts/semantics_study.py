#!/usr/bin/env python3
"""Measures semantic guidance on clips of two things, of which one is named, and writes docs/SEMANTICS.md.

A run that was cut off goes on where it was; ``--report`` writes the page from what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from embedded.drawing import Scene
from embedded.measuring import Case, Result, generate, held_out_cases, noise_of, seed_for
from embedded.model import MODEL_FILE, EmbeddedModel, load_model
from embedded.scoring import caption_correct, locate
from fidelity import facts_of, origin_of
from fidelity_store import cell_path, resumed, write_record
from find_comfyui import PACK
from motionclone_core.headless import extract
from motionclone_core.metrics import path_error, velocity_cosine
from motionclone_core.semantics import Semantics, Words
from semantics_report import SemanticSetting, cells, write_page

STORE = PACK / "docs" / "semantics"
PAGE = PACK / "docs" / "SEMANTICS.md"
# Colour and shape of the first thing that a caption names.
NAMED = (0, 1)


def cases_of_two(count: int, first: int) -> list[Case]:
    """Held-out cases whose references show two things, from a number on; one thing is to be shown."""
    found: Iterator[Case] = (c for c in held_out_cases(4 * (first + count), 0) if len(c.reference.things) == 2)
    return [replace(case, target=case.target.alone(0)) for case in found if case.index >= first][:count]


def wanted_of(case: Case) -> Scene:
    """The new thing on the way of the reference's first; the other one is a distractor."""
    return case.reference.alone(0).dressed_as(case.target)


def semantics_of(case: Case, setting: SemanticSetting) -> Semantics | None:
    """What pulls a clip to its unguided one; None is off."""
    if not setting.semantics:
        return None
    words = case.target.words[:2] if setting.named else ()
    chosen = Words(case.target.caption, words, NAMED if setting.named else ())
    return Semantics(
        chosen,
        {"up_blocks.1": setting.semantics},
        alone=setting.alone,
        reference_threshold=setting.threshold,
        appearance_threshold=setting.threshold,
        sigma=setting.sigma,
    )


def sampled(model: EmbeddedModel, case: Case, setting: SemanticSetting) -> Result:
    """One clip: semantic guidance leads one at a time."""
    motions = []
    if setting.weight:
        reading = extract(
            model.host,
            model.encode(case.reference.render()),
            model.text(case.reference.words) if setting.named else model.null_text,
            blocks=setting.blocks,
            k=setting.k,
            t_alpha=setting.t_alpha,
            noise_seed=seed_for(case.index, case.seed, "extraction"),
            words=NAMED if setting.named else (),
        )
        motions.append(reading)
    leading = {"motions": motions, "semantics": semantics_of(case, setting)}
    (result,) = generate(model, [case.target.words], noise_of([case]), setting, **leading)
    return result


def row_of(case: Case, result: Result) -> dict[str, Any]:
    """What is kept of a result: of the named thing, and of both."""
    wanted = wanted_of(case)
    found, caption = locate(result.video, wanted), caption_correct(result.video, wanted)
    row = {
        "case": case.index,
        "seed": case.seed,
        "shape": np.mean(caption.shape_right),
        "colour": np.mean(caption.colour_right),
        "ground": caption.ground_right,
        "to_other": path_error(found.paths, case.reference.alone(1).paths),
        "path_error": path_error(found.paths, wanted.paths),
        "velocity_cosine": velocity_cosine(found.paths, wanted.paths),
    }
    return row | {key: round(float(value), 5) for key, value in row.items() if key not in ("case", "seed")}


def measure(
    model: EmbeddedModel, name: str, setting: SemanticSetting, wanted: Sequence[Case], args: argparse.Namespace
) -> None:
    """Sample the clips of one cell that are not in the store yet."""
    facts = facts_of(args)
    path = cell_path(args.store, name)
    record = resumed(path, origin_of(setting, facts))
    for case in wanted:
        if (case.index, case.seed) not in record.done:
            record = record.with_rows(facts["run"], [row_of(case, sampled(model, case, setting))])
            write_record(path, record)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="*", help="shell pattern of cells, such as 'main/*'")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--first", type=int, default=0, help="first reference; above 0 no page is written")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--store", type=type(STORE), default=STORE)
    parser.add_argument("--report", action="store_true", help="only write the page")
    args = parser.parse_args(arguments)
    args.model = MODEL_FILE
    args.store.mkdir(parents=True, exist_ok=True)
    chosen: Mapping[str, SemanticSetting] = {n: s for n, s in cells().items() if fnmatchcase(n, args.cells)}
    if not chosen:
        raise SystemExit(f"no cell matches {args.cells!r}: there are {', '.join(cells())}")
    if not args.report:
        model = load_model()
        model.unet.to(getattr(torch, args.precision))
        wanted = cases_of_two(args.cases, args.first)
        with tqdm(total=len(chosen) * len(wanted)) as bar:
            for case in wanted:
                for name, setting in chosen.items():
                    bar.set_description(f"{case.index}, {name}")
                    measure(model, name, setting, [case], args)
                    bar.update()
    if not args.first and args.store == STORE:
        write_page(PAGE, STORE, {name: origin_of(setting, facts_of(args)) for name, setting in cells().items()})


if __name__ == "__main__":
    main()
