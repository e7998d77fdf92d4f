#!/usr/bin/env python3
"""Measures motion guidance on the tiny diffusion transformers, inside ComfyUI, and writes docs/TRANSFORMERS.md.

Each cell samples held-out clips under one setting; ComfyUI's interpreter does that (transformer_worker.py), decoding
and scoring is done here. A run that was cut off goes on where it was; ``--report`` writes the page from what there is.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from embedded.grouping import grouped, ungrouped
from embedded.measuring import Case, Result, held_out_cases, score, seed_for
from embedded.model import NULL_CAPTION, EmbeddedModel, file_hash, load_model, word_ids
from fidelity import this_run
from fidelity_store import cell_path, described, resumed, write_record
from find_comfyui import PACK, find_comfyui
from motionclone_core.paths import write_whole
from motionclone_core.schedule import PRESETS, Preset
from transformer_report import page, section

STORE = PACK / "docs" / "transformers"
PAGE = PACK / "docs" / "TRANSFORMERS.md"
FAMILIES = ("cogvideox", "wan")
FILES = {family: PACK / "embedded" / f"{family}_drawn.safetensors" for family in FAMILIES}
TEXT_WIDTH = {"cogvideox": 64, "wan": 4096}
BLOCKS = {"cogvideox": 8, "wan": 7}
FRAMES = 25
BATCH = 8


@dataclass(frozen=True)
class TransformerSetting(Preset):
    """How a cell samples.

    Attributes:
        blocks: which blocks are read; empty is the family's own choice.
        t_alpha: timestep of the extraction.
        sampler: of ComfyUI.
        shift: of a flow's noise schedule; 0 is the model's own.
        other_motion: guide by the motion of another clip, the control.
        captioned: read the reference under its own caption.
    """

    blocks: str = ""
    t_alpha: int = 400
    sampler: str = "euler"
    shift: float = 0.0
    other_motion: bool = False
    captioned: bool = False


# By trial on references 64 and later, which no table shows.
_FAST = TransformerSetting(**{**asdict(PRESETS["fast"]), "cfg": 6.0, "weight": 1000.0})
CHOSEN = {"cogvideox": replace(_FAST, t_alpha=800), "wan": replace(_FAST, shift=3.0)}


def cells(family: str) -> dict[str, TransformerSetting]:
    """The settings by the names of their cells."""
    chosen = CHOSEN[family]
    found = {
        # Whatever guidance alone reads.
        "main/no guidance": replace(_FAST, weight=0.0, shift=chosen.shift),
        "main/guided": chosen,
        "main/another clip's motion": replace(chosen, other_motion=True),
    }
    count = BLOCKS[family]
    found |= {f"blocks/{i}": replace(chosen, blocks=f"blocks.{i}") for i in range(count)}
    several = {"first half": range(count // 2), "last half": range(count // 2, count), "all": range(count)}
    for name, these in several.items():
        found[f"several/{name}"] = replace(chosen, blocks=", ".join(f"blocks.{i}" for i in these))
    found |= {f"weight/{w}": replace(chosen, weight=float(w)) for w in (500, 1000, 2000, 4000) if w != chosen.weight}
    found |= {f"k/{k}": replace(chosen, k=k) for k in (1, 2, 7) if k != chosen.k}
    found |= {f"t_alpha/{t}": replace(chosen, t_alpha=t) for t in (200, 400, 600, 800, 900) if t != chosen.t_alpha}
    found |= {f"ratio/{ratio}": replace(chosen, ratio=ratio) for ratio in (0.3, 0.6) if ratio != chosen.ratio}
    return found


def inputs_of(model: EmbeddedModel, cases: Sequence[Case]) -> dict[str, Tensor]:
    """What the worker needs of some cases."""

    def latents(scenes: Sequence[Any]) -> Tensor:
        return torch.stack([grouped(model.encode(scene.render())[0]) for scene in scenes])

    return {
        "reference": latents([case.reference for case in cases]),
        "other": latents([case.other for case in cases]),
        "words": torch.tensor([word_ids(case.target.words) for case in cases]),
        "reference_words": torch.tensor([word_ids(case.reference.words) for case in cases]),
        "null": torch.tensor(word_ids(NULL_CAPTION)),
        "seeds": torch.tensor([seed_for(case.index, case.seed, "initial noise") for case in cases]),
    }


def sampled(
    model: EmbeddedModel, family: str, cases: Sequence[Case], settings: Mapping[str, TransformerSetting]
) -> dict[str, list[Result]]:
    """The videos of some cases under each of some settings."""
    found = find_comfyui()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(inputs_of(model, cases), folder / "clips.safetensors")
        each = [{"name": n, "setting": asdict(s), "clips": [c.index for c in cases]} for n, s in settings.items()]
        job = {"family": family, "file": str(FILES[family]), "comfyui": str(found.path), "cells": each}
        (folder / "job.json").write_text(json.dumps(job | {"text_width": TEXT_WIDTH[family]}), encoding="utf-8")
        worker = Path(__file__).with_name("transformer_worker.py")
        command = [str(found.python), str(worker), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the worker failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
        return {
            name: [_decoded(model, latents) for _, latents in sorted(_rows(folder / f"{i}.safetensors"))]
            for i, name in enumerate(settings)
        }


def _rows(file: Path) -> list[tuple[int, Tensor]]:
    return [(int(row), latents) for row, latents in load_file(file).items()]


def _decoded(model: EmbeddedModel, latents: Tensor) -> Result:
    frames = ungrouped(latents.nan_to_num(0.0, 0.0, 0.0))[None]
    (video,) = model.decode(frames)
    finite = bool(latents.isfinite().all())
    return Result(video, tuple(float(x) if finite else float("nan") for x in latents.aminmax()))


def measure(
    model: EmbeddedModel, family: str, chosen: Mapping[str, TransformerSetting], args: argparse.Namespace
) -> None:
    """Sample and score what the store has not yet."""
    cases = held_out_cases(args.first + args.cases, 0, frames=FRAMES)[args.first :]
    origins = {name: _origin(family, setting) for name, setting in chosen.items()}
    paths = {name: cell_path(args.store, f"{family}/{name}") for name in chosen}
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        records = {name: resumed(path, origins[name]) for name, path in paths.items()}
        left = {n: s for n, s in chosen.items() if not {(c.index, c.seed) for c in batch} <= records[n].done}
        if not left:
            continue
        for name, results in sampled(model, family, batch, left).items():
            scored = [(case, score(case, result)) for case, result in zip(batch, results, strict=True)]
            rows = [{"case": case.index, "seed": case.seed, **asdict(one)} for case, one in scored]
            write_record(paths[name], records[name].with_rows(args.run, rows))
            print(name, *(f"{row['path_error']:.2f}" for row in rows), flush=True)


def write_page(store: Path) -> None:
    """docs/TRANSFORMERS.md from what is in the store."""
    sections = []
    for family, file in FILES.items():
        if file.is_file():
            origins = {name: _origin(family, setting) for name, setting in cells(family).items()}
            sections.append(section(family, store, origins, _card(family), _spoken(CHOSEN[family])))
    write_whole(PAGE, page(sections).encode())


def _origin(family: str, setting: TransformerSetting) -> dict[str, Any]:
    return {"model": file_hash(FILES[family])[:16], "setting": described(setting)}


def _card(family: str) -> dict[str, str]:
    file = FILES[family]
    with safe_open(file, "pt") as opened:
        card, names = opened.metadata(), list(opened.keys())
        shapes = {name: opened.get_slice(name).get_shape() for name in names}
    own = {name: shape for name, shape in shapes.items() if not name.startswith("captions")}
    blocks = len({name.split(".")[1] for name in own if name.startswith("blocks.")})
    width = own["patch_embed.proj.weight" if family == "cogvideox" else "patch_embedding.weight"][0]
    count = sum(math.prod(shape) for shape in own.values())
    size = f"{file.stat().st_size / 2**20:.1f}"
    facts = {"file": file.name, "hash": file_hash(file), "size": size, "parameters": str(count)}
    return {**card, **facts, "blocks": str(blocks), "width": str(width)}


def _spoken(setting: TransformerSetting) -> str:
    shift = f", shift {setting.shift:g}" if setting.shift else ""
    return (
        f"As chosen: {setting.steps} steps of {setting.sampler}{shift}, CFG {setting.cfg:g}; the first "
        f"{setting.guided_steps} guided, in the noisiest {100 * setting.ratio:.0f} % of the schedule, cooling "
        f"down over {setting.cool_down}; rule `{setting.update_rule}`, weight {setting.weight:g}, k {setting.k}, "
        f"t_alpha {setting.t_alpha}, blocks {setting.blocks or 'auto'}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=list(FILES), help=", ".join(FILES))
    parser.add_argument("--cells", default="*", help="shell pattern of cells, such as 'main/*'")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--first", type=int, default=0, help="first reference; above 0 no page is written")
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--store", type=Path, default=STORE)
    args = parser.parse_args(arguments)
    args.store.mkdir(parents=True, exist_ok=True)
    args.run = this_run()
    for family in [] if args.report else args.families:
        chosen = {name: setting for name, setting in cells(family).items() if fnmatchcase(name, args.cells)}
        if not chosen:
            raise SystemExit(f"no cell matches {args.cells!r}: there are {', '.join(cells(family))}")
        measure(load_model(), family, chosen, args)
    if not args.first and args.store == STORE:
        write_page(STORE)


if __name__ == "__main__":
    main()
