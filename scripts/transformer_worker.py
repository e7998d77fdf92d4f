#!/usr/bin/env python3
"""Samples clips with a tiny diffusion transformer inside ComfyUI; runs under ComfyUI's interpreter.

What to sample stands in a folder: ``job.json`` and ``clips.safetensors``, both written by transformer_study.py. The
latents of each cell are written beside them, as ``<number>.safetensors``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[1]


def core(name: str) -> Any:
    """A module of the core, imported as a part of the pack."""
    return import_module(f"{PACK.name}.motionclone_core.{name}")


class Worker:
    """One model, and what is read of its references."""

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        import comfy.sd
        from safetensors.torch import load_file

        self.job, self.folder, self.clips = job, folder, load_file(folder / "clips.safetensors")
        self.model = comfy.sd.load_diffusion_model(job["file"])
        table = load_file(job["file"])
        self._words, self._places = table["captions.words.weight"].float(), table["captions.places"].float()
        self.motion_of = cache(self._motion_of)

    def run(self) -> None:
        from safetensors.torch import save_file

        for number, cell in enumerate(self.job["cells"]):
            target = self.folder / f"{number}.safetensors"
            save_file({str(row): self.sampled(cell["setting"], row) for row in range(len(cell["clips"]))}, target)
            print(f"cell {cell['name']} done", flush=True)

    def conditioning(self, words: Any) -> Any:
        """Of word ids ``[l]``, as wide as the model takes texts."""
        import torch

        text = self._words[words.long()] + self._places
        wide = self.job["text_width"]
        return [[torch.nn.functional.pad(text, (0, wide - text.shape[-1]))[None], {}]]

    def shifted(self, shift: float) -> Any:
        """The model with another shift of its noise schedule; 0 leaves it alone."""
        if not shift:
            return self.model
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        return ModelSamplingSD3().patch(self.model, shift)[0]

    def sampled(self, setting: dict[str, Any], row: int) -> Any:
        """Latents ``[c, t, y, x]`` of one clip."""
        import torch

        sampling = core("hosts.comfy_sampling")
        model = self.shifted(setting["shift"])
        preset = self.preset(setting)
        sigmas = sampling.uneven_sigmas(
            model, steps=preset.steps, guided_steps=preset.guided_steps, ratio=preset.ratio
        )
        if setting["weight"]:
            guide = core("guidance").MotionGuidance.of(self._read(setting, row), preset)
            model = core("hosts.comfy_runtime").with_guidance(model, guide, memory="speed")
        result = sampling.sample(
            model,
            sampler=setting["sampler"],
            sigmas=sigmas,
            cfg=preset.cfg,
            positive=self.conditioning(self.clips["words"][row]),
            negative=self.conditioning(self.clips["null"]),
            latent={"samples": torch.zeros_like(self.clips["reference"][row])[None]},
            seed=int(self.clips["seeds"][row]),
        )
        return model.model.process_latent_in(result["samples"])[0].contiguous()

    def preset(self, setting: dict[str, Any]) -> Any:
        """The part of a setting that is a preset."""
        kind = core("schedule").Preset
        return kind(**{field.name: setting[field.name] for field in dataclasses.fields(kind)})

    def _read(self, setting: dict[str, Any], row: int) -> Any:
        which = "other" if setting["other_motion"] else "reference"
        return self.motion_of(which, row, setting["blocks"], setting["k"], setting["t_alpha"], setting["captioned"])

    def _motion_of(self, which: str, row: int, blocks: str, k: int, t_alpha: int, captioned: bool) -> Any:
        import torch

        host = core("hosts.comfy_host").host_of(self.model)
        taps = core("taps").select_taps(host.sites, blocks or host.default_blocks)
        z = self.clips[which][row][None]
        video = host.video(z)
        size = (video.height, video.width)
        builder = core("extraction").RepresentationBuilder(taps, k=k, frames=video.frames, latent_size=size)
        seed = int(self.clips["seeds"][row]) + 1
        core("hosts.comfy_extraction").run_once(
            self.model,
            builder.observer,
            latent=self.model.model.process_latent_out(z),
            noise=torch.randn(z.shape, generator=torch.Generator().manual_seed(seed)),
            timestep=t_alpha,
            conditioning=self.conditioning(self.clips["reference_words"][row] if captioned else self.clips["null"]),
            seed=seed,
        )
        identity = host.identity
        provenance = core("representation").Provenance(
            "", identity.architecture, identity.fingerprint, t_alpha, seed, host.group
        )
        return builder.representation(provenance)


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    sys.argv[1:] = []
    sys.path[:0] = [job["comfyui"], str(PACK.parent)]
    from comfy.cli_args import args

    args.cpu = True
    import torch

    # As ComfyUI runs nodes.
    with torch.inference_mode():
        Worker(job, folder).run()


if __name__ == "__main__":
    main()
