#!/usr/bin/env python3
"""Measures on the embedded model what the paper's ablation varies and scripts/fidelity.py does not.

Those are a precise prompt in the extraction, DDIM inversion, and k under the published setting. Every finished cell is
kept, so that a run that was cut off goes on where it was; ``--report`` writes the page from what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from ablation_cells import cells
from embedded.measuring import held_out_cases
from embedded.model import MODEL_FILE, load_model
from fidelity import STORE as FIDELITY_STORE
from fidelity import facts_of, measure, write_page

STORE = FIDELITY_STORE / "ablation"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="*", help="shell pattern of cells, such as 'reading/*'")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--report", action="store_true", help="only write the page")
    args = parser.parse_args(arguments)
    args.model, args.store = MODEL_FILE, FIDELITY_STORE
    chosen = {name: setting for name, setting in cells().items() if fnmatchcase(name, args.cells)}
    if not chosen:
        raise SystemExit(f"no cell matches {args.cells!r}: there are {', '.join(cells())}")
    if not args.report:
        model, facts = load_model(), facts_of(args)
        model.unet.to(getattr(torch, args.precision))
        STORE.mkdir(parents=True, exist_ok=True)
        for seed in range(args.seeds):
            for name, setting in chosen.items():
                measure(model, name, setting, held_out_cases(args.cases, seed), STORE, facts)
    # The page's other sections show 64 references.
    args.cases = 64
    write_page(args)


if __name__ == "__main__":
    main()
