#!/usr/bin/env python3
"""Trains tiny diffusion transformers, shaped as CogVideoX and Wan are, on drawn clips.

Two stages, each in the environment that it needs: ``clips`` (the development environment) draws clips and encodes
them with the embedded model's autoencoder; ``train`` and ``export`` (ComfyUI's interpreter) train ComfyUI's own
network classes, so that its stock loader takes the file. Training goes on from its last checkpoint, to the same
weights as without the interruption.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedded.grouping import latent_frames

FOLDER = Path.home() / ".cache" / "motionclone" / "transformers"
EMBEDDED = Path(__file__).resolve().parents[1] / "embedded"
SEED = 20261122
FRAMES = 25
NULL_SHARE = 0.12
TEXT_WIDTH, WAN_TEXT_WIDTH = 64, 4096
FAMILIES = ("cogvideox", "wan")


# --- the clips' latents -----------------------------------------------------------------------------------


def encode_clips(folder: Path, count: int, part: int) -> None:
    """Draw and encode ``count`` clips; ``part`` numbers the file and chooses other clips."""
    from embedded.drawing import random_scene
    from embedded.grouping import grouped
    from embedded.model import load_model, word_ids
    from motionclone_core.paths import whole

    model, rng = load_model(), np.random.default_rng((SEED, 1, part))
    latents, words = [], []
    for i in range(count):
        scene = random_scene(rng, frames=FRAMES)
        latents.append(grouped(model.encode(scene.render())[0]).half().numpy())
        words.append(word_ids(scene.words))
        if i % 200 == 199:
            print(f"clips {i + 1} of {count}", flush=True)
    with whole(folder / f"clips{part}.npz") as file:
        np.savez(file, latents=np.stack(latents), words=np.array(words))


class Clips:
    """The training clips in batches."""

    def __init__(self, folder: Path) -> None:
        parts = [np.load(file) for file in sorted(folder.glob("clips*.npz"))]
        if not parts:
            raise SystemExit(f"{folder} has no clips: run the stage clips first")
        self._latents = torch.from_numpy(np.concatenate([part["latents"] for part in parts]))
        self._words = torch.from_numpy(np.concatenate([part["words"] for part in parts]))

    def batch(self, n: int, size: int, pictures: float, first: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents [b, c, t, y, x], places in the noise schedule [b] in 0 to 1, word ids [b, l] and noise.

        A share ``pictures`` of the batches shows the ``first`` latent frames alone, 1 of which is a picture: more
        clips, in no more latent frames together.
        """
        seed = int(np.random.SeedSequence((SEED, 2, n)).generate_state(1)[0])
        rng = torch.Generator().manual_seed(seed)
        frames = self._latents.shape[2]
        if n * 0.6180339887 % 1.0 < pictures:  # evenly spread over the steps
            size, frames = size * frames // first, first
        pick = torch.randint(len(self._latents), (size,), generator=rng)
        # Stratified: every batch has steps from all over the noise schedule.
        place = (torch.arange(size) + torch.rand(size, generator=rng)) / size
        ids = self._words[pick] * (torch.rand(size, 1, generator=rng) >= NULL_SHARE)
        z = self._latents[pick, :, :frames].float()
        return z, place, ids, torch.randn(z.shape, generator=rng)


# --- the networks -----------------------------------------------------------------------------------------


class CaptionTable(nn.Module):
    """Word ids ``[b, l]`` to a context ``[b, l, d]``: a table and a place, nothing else."""

    def __init__(self, words: int, places: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, TEXT_WIDTH)
        self.places = nn.Parameter(torch.randn(places, TEXT_WIDTH) * 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        return self.words(ids) + self.places


def network_of(family: str) -> nn.Module:
    """ComfyUI's own network of a family, tiny, with fresh weights."""
    import comfy.ops

    options: dict[str, Any] = {"device": "cpu", "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
    if family == "cogvideox":
        from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel

        network = CogVideoXTransformer3DModel(
            num_attention_heads=3, attention_head_dim=64, num_layers=8, in_channels=16, out_channels=16,
            time_embed_dim=128, text_embed_dim=TEXT_WIDTH, use_rotary_positional_embeddings=True, **options,
        )  # fmt: skip
    else:
        from comfy.ldm.wan.model import WanModel

        network = WanModel(
            model_type="t2v", dim=256, ffn_dim=768, num_heads=2, num_layers=7, text_dim=TEXT_WIDTH,
            in_dim=16, out_dim=16, **options,
        )  # fmt: skip
    _begin(network)
    return network


def _begin(network: nn.Module) -> None:
    """ComfyUI's layers come without values."""
    for name, weight in network.named_parameters():
        if weight.ndim >= 2 and "modulation" not in name:
            nn.init.xavier_uniform_(weight.flatten(1))
        elif "norm" in name and name.endswith("weight"):
            nn.init.ones_(weight)
        else:
            nn.init.zeros_(weight)
    # What a block adds, and what the network says, begins at nothing.
    for name, weight in network.named_parameters():
        if any(part in name for part in ("norm1.linear", "norm2.linear", "norm_out.linear", "proj_out", "head.head")):
            nn.init.zeros_(weight)
        if name.startswith("time_projection"):
            nn.init.zeros_(weight)


@dataclass(frozen=True)
class Noised:
    """A batch as the network gets it, and what it is to say."""

    x: Tensor
    timestep: Tensor
    target: Tensor


def noised(family: str, z: Tensor, place: Tensor, noise: Tensor) -> Noised:
    """CogVideoX: v-prediction, its schedule ends in noise alone. Wan: flow matching, crowded to the noise."""
    wide = (-1, 1, 1, 1, 1)
    if family == "cogvideox":
        t = (place * 1000).long()
        abar = cogvideox_abar()[t].view(wide)
        kept, added = abar.sqrt(), (1 - abar).sqrt()
        return Noised(kept * z + added * noise, t.float(), kept * noise - added * z)
    sigma = 3 * place / (1 + 2 * place)
    return Noised((1 - sigma.view(wide)) * z + sigma.view(wide) * noise, sigma * 1000, noise - z)


def cogvideox_abar() -> Tensor:
    """As ComfyUI builds it for CogVideoX."""
    import comfy.model_sampling
    import comfy.supported_models

    class Config:
        sampling_settings = comfy.supported_models.CogVideoX_T2V.sampling_settings

    sigmas = comfy.model_sampling.ModelSamplingDiscrete(Config()).sigmas
    return 1 / (1 + sigmas.double() ** 2).float()


class VideoModel(nn.Module):
    def __init__(self, family: str) -> None:
        super().__init__()
        from comfy.ldm.modules.attention import attention_pytorch

        from embedded.model import CAPTION_LENGTH, VOCABULARY

        self.network = network_of(family)
        self.captions = CaptionTable(len(VOCABULARY), CAPTION_LENGTH)
        self._options = {"optimized_attention_override": lambda _, *args, **kwargs: attention_pytorch(*args, **kwargs)}

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.network(x, t, self.captions(ids), transformer_options=dict(self._options))


# --- training ---------------------------------------------------------------------------------------------


class Training:
    """A network in training, its running average, and what a checkpoint holds of both."""

    def __init__(self, family: str, checkpoint: Path) -> None:
        torch.manual_seed(SEED)
        self.model, self.average = VideoModel(family), VideoModel(family)
        self.average.load_state_dict(self.model.state_dict())
        self.optimisers = list(_optimisers(self.model))
        self.state: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": []}
        self._family, self._checkpoint, self._clock = family, checkpoint, time.monotonic()
        self._recent: list[float] = []
        self._of_pictures: list[float] = []
        if checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        saved = torch.load(self._checkpoint, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.state = saved["state"]

    def keep(self) -> None:
        """Write the checkpoint in one go, so that an interruption leaves the last one."""
        from motionclone_core.paths import whole

        now = time.monotonic()
        self.state["seconds"] += now - self._clock
        self._clock = now
        parts = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        with whole(self._checkpoint) as file:
            torch.save({**parts, "optimisers": [o.state_dict() for o in self.optimisers], "state": self.state}, file)

    def learn(self, batch: tuple[Tensor, ...], share: float, mixed: Callable[[], Any]) -> None:
        """One step at ``share`` of the full rates."""
        z, place, ids, noise = batch
        wanted = noised(self._family, z, place, noise)
        with mixed():
            predicted = self.model(wanted.x, wanted.timestep, ids)
        loss = (predicted.float() - wanted.target).square().mean()
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full"] * share
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.state["step"] = step = self.state["step"] + 1
        decay = min(0.999, step / (step + 9))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        (self._recent if z.shape[2] == latent_frames(FRAMES) else self._of_pictures).append(loss.item())

    def sum_up(self) -> None:
        """Note the mean of the clips' losses since the last mean."""
        step, pictures = self.state["step"], float(np.mean(self._of_pictures or [np.nan]))
        if self._recent:
            self.state["losses"].append((step, float(np.mean(self._recent))))
        loss = self.state["losses"][-1][1]
        print(f"step {step} loss {loss:.4f} pictures {pictures:.4f} {time.strftime('%H:%M:%S')}", flush=True)
        self._recent, self._of_pictures = [], []


def _optimisers(model: VideoModel) -> Iterator[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else."""
    matrices = [p for n, p in model.named_parameters() if ".blocks." in n and p.ndim == 2]
    chosen = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in chosen]
    yield torch.optim.Muon([{"params": matrices, "full": 4e-3}], weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    yield torch.optim.AdamW([{"params": others, "full": 2e-3}], betas=(0.9, 0.98), weight_decay=1e-3)


def share_of(step: int, goal: int, most: float) -> float:
    """Warm-up, a plateau at ``most``, and a straight fall: from 1 it takes the last 40 %, from less the end of them."""
    return min(1.0, (step + 1) / 100) * min(most, 0.02 + (goal - step) / (0.4 * goal))


def train(args: argparse.Namespace) -> None:
    import comfy.model_management

    comfy.model_management.in_training = True  # rotations without kernels that have no backward pass
    training, clips = Training(args.family, args.folder / f"{args.family}.pt"), Clips(args.folder)

    def mixed() -> Any:
        return torch.autocast("cpu", torch.bfloat16) if args.bfloat16 else nullcontext()

    last = args.steps if args.stop is None else min(args.steps, args.stop)
    for n in range(training.state["step"], last):
        training.learn(clips.batch(n, args.batch, args.pictures, args.first), share_of(n, args.steps, args.rate), mixed)
        if (n + 1) % 50 == 0:
            training.sum_up()
        if (n + 1) % 200 == 0 or n + 1 == last:
            training.keep()


def export(family: str, folder: Path, target: Path) -> None:
    """Write the averaged weights, with the captions, as a file that ComfyUI's loader of diffusion models takes."""
    from safetensors.torch import save

    from motionclone_core.paths import write_whole

    saved = torch.load(folder / f"{family}.pt", weights_only=True)
    weights = {name.removeprefix("network."): tensor for name, tensor in saved["average"].items()}
    if family == "wan":
        # ComfyUI takes Wan's texts to be 4096 wide.
        weights["text_embedding.0.weight"] = nn.functional.pad(
            weights["text_embedding.0.weight"], (0, WAN_TEXT_WIDTH - TEXT_WIDTH)
        )
    card = {"steps": str(saved["state"]["step"]), "hours": f"{saved['state']['seconds'] / 3600:.2f}"}
    card["loss"] = f"{saved['state']['losses'][-1][1]:.4f}"
    write_whole(target, save({name: tensor.half().contiguous() for name, tensor in weights.items()}, card))
    print(target, card, f"{target.stat().st_size / 2**20:.1f} MiB")


# --- the command line -------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("clips", "train", "export"))
    parser.add_argument("--family", choices=FAMILIES)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--stop", type=int)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.0, help="share of the full learning rates at most")
    parser.add_argument("--pictures", type=float, default=0.5, help="share of the steps that see first frames alone")
    parser.add_argument("--first", type=int, default=1, help="how many latent frames those are")
    parser.add_argument("--target", type=Path, help="where to export to")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.stage == "clips":
        encode_clips(args.folder, args.clips, args.part)
        return
    if args.stage == "export":
        export(args.family, args.folder, args.target or EMBEDDED / f"{args.family}_drawn.safetensors")
        return
    import sys

    from find_comfyui import find_comfyui

    sys.path.insert(0, str(find_comfyui().path))
    from comfy.cli_args import args as comfy_args

    comfy_args.cpu = True
    train(args)


if __name__ == "__main__":
    main()
