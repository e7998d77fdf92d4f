#!/usr/bin/env python3
"""Draws what motion guidance does on the tiny diffusion transformers: a clip in other dress, unguided and guided."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edit_picture import drawn
from embedded.measuring import Case, held_out_cases
from embedded.model import load_model
from embedded.scoring import locate
from motionclone_core.visualisation.canvas import write_picture
from motionclone_core.visualisation.sheets import Panel, contact_sheet
from transformer_report import FLOOR, GUIDED, TITLES
from transformer_study import FAMILIES, FRAMES, cells, sampled

OUTPUT = Path(__file__).parent.parent / "demo_output"
SIDE = 192
SHOWN = (0, 5, 10, 14, 19, 24)
NOTE = "blue: where the thing is; white, dashed: the reference's path"


def panels(case: Case, videos: dict[str, dict[str, NDArray[np.uint8]]]) -> list[Panel]:
    """The reference, and what each family makes of its caption without guidance and with it."""
    out = [Panel("reference", drawn(case.reference.render(), case.reference.paths, side=SIDE), case.reference.caption)]
    for family, of in videos.items():
        for cell, label in ((FLOOR, "unguided"), (GUIDED, "guided")):
            found = locate(of[cell], case.wanted).paths
            video = drawn(of[cell], found, case.wanted.paths, side=SIDE)
            out.append(Panel(f"{TITLES[family]}, {label}", video, case.target.caption))
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=int, default=1, help="number of a held-out clip")
    parser.add_argument("--output", type=Path, default=OUTPUT / "transformers.png")
    args = parser.parse_args(arguments)
    model = load_model()
    case = held_out_cases(args.reference + 1, 0, frames=FRAMES)[-1]
    videos = {}
    for family in FAMILIES:
        chosen = {name: cells(family)[name] for name in (FLOOR, GUIDED)}
        results = sampled(model, family, [case], chosen)
        videos[family] = {name: result.video for name, (result,) in results.items()}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_picture(contact_sheet(panels(case, videos), SHOWN, note=NOTE), args.output)


if __name__ == "__main__":
    main()
