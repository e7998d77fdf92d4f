#!/usr/bin/env python3
"""Trains the embedded model on drawn clips: autoencoder, then the clips' latents, then the video network.

All is kept in one folder. A stage whose file is there is not run again; the video network goes on from its
last checkpoint, to the same weights as without the interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from embedded.drawing import SIZE, random_scene
from embedded.model import (
    CAPTION_LENGTH,
    LATENT_CHANNELS,
    MODEL_FILE,
    UNET_CONFIG,
    CaptionEncoder,
    EmbeddedModel,
    build_autoencoder,
    build_unet,
    save_model,
    word_ids,
)
from motionclone_core.paths import whole
from motionclone_core.schedule import alphas_cumprod
from training_records import (
    Refused,
    check_same,
    commands_of,
    history_of,
    known_state,
    note,
    noted,
    steps_of_loss,
    time_of,
)

SEED = 20261121
CARD = Path(__file__).with_name("model_card.md")
FOLDER = Path.home() / ".cache" / "motionclone" / "embedded"
ABAR = torch.from_numpy(alphas_cumprod()).float()
# 1 / abar turns an error of the noise into one of v: left alone, the noisy steps, in which the motion is decided,
# would hardly count.
WEIGHTS = (1 / ABAR).clamp(max=30)
WEIGHTS = WEIGHTS / WEIGHTS.mean()
NULL_SHARE = 0.12
STAGES = ("autoencoder", "clips", "unet", "export")


def mixed(device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16)


# --- autoencoder ------------------------------------------------------------------------------------------


def pictures(count: int, rng: np.random.Generator) -> Tensor:
    """``[count, 3, 64, 64]`` in -1 to 1: drawn ones, and one in five of smooth coloured noise."""
    out: list[Tensor] = []
    with tqdm(total=count, desc="pictures", mininterval=5) as bar:
        while len(out) < count:
            drawn = _noise_picture(rng) if rng.random() < 0.2 else _scene_pictures(rng)
            out += drawn
            bar.update(len(drawn))
    return torch.stack(out[:count]) * 2 - 1


def _noise_picture(rng: np.random.Generator) -> list[Tensor]:
    side = int(rng.choice((4, 8, 16)))
    noise = torch.from_numpy(rng.random((1, 3, side, side), dtype=np.float32))
    return [F.interpolate(noise, SIZE, mode="bicubic").clamp(0, 1)[0]]


def _scene_pictures(rng: np.random.Generator) -> list[Tensor]:
    frames = random_scene(rng, frames=4).render()
    return [torch.from_numpy(frame).permute(2, 0, 1) / 255 for frame in frames[::2]]


class Whitened(nn.Module):
    """The autoencoder in training: latents are brought to mean 0 and deviation 1, and shaken."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = build_autoencoder()
        self.whiten = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.02, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        latent = self.whiten(self.autoencoder.encoder(x).float())
        return self.autoencoder.decoder(latent + 0.1 * torch.randn_like(latent)).float()

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """The autoencoder with the whitening inside the encoder's last layer."""
        last = self.autoencoder.encoder.layers[-1]
        scale = (self.whiten.running_var + self.whiten.eps).rsqrt()
        last.weight.mul_(scale[:, None, None, None])
        last.bias.sub_(self.whiten.running_mean).mul_(scale)
        return self.autoencoder


def train_autoencoder(folder: Path, steps: int, batch: int, pool_size: int, device: str) -> None:
    target = folder / "autoencoder.pt"
    if target.exists():
        known = noted(target)
        check_same(target, "autoencoder-steps", steps, known.get("autoencoder-steps", steps))
        check_same(target, "pictures", pool_size, known.get("pictures", pool_size))
        return
    began = time.monotonic()
    torch.manual_seed(SEED)
    model = Whitened().to(device).to(memory_format=torch.channels_last)
    rng = np.random.default_rng(SEED)
    fit_autoencoder(model, pictures(pool_size, rng), rng, steps, batch)
    weights = model.eval().folded().state_dict()
    seconds = time.monotonic() - began
    note(target, autoencoder_steps=steps, pictures=pool_size, device=device, seconds=seconds)
    with whole(target) as file:
        torch.save(weights, file)


def fit_autoencoder(model: Whitened, pool: Tensor, rng: np.random.Generator, steps: int, batch: int) -> None:
    device = next(model.parameters()).device
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    bar = tqdm(range(steps), desc="autoencoder", mininterval=5)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 100) * (0.02 + 0.98 * math.cos(math.pi / 2 * step / steps) ** 2)
        x = pool[torch.from_numpy(rng.integers(0, len(pool), batch))].to(device)
        with mixed(device.type):
            y = model(x)
        loss = F.mse_loss(y, x) + 0.2 * F.l1_loss(y, x)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        bar.set_postfix(mse=f"{F.mse_loss(y, x).item():.5f}")


# --- the clips' latents -----------------------------------------------------------------------------------


def encode_clips(folder: Path, count: int, device: str) -> None:
    target = folder / "clips.npz"
    if target.exists():
        check_same(target, "clips", count, clips_in(folder))
        return
    began = time.monotonic()
    autoencoder = build_autoencoder().to(device)
    autoencoder.load_state_dict(torch.load(folder / "autoencoder.pt", weights_only=True))
    rng = np.random.default_rng((SEED, 1))
    latents = np.empty((count, 16, LATENT_CHANNELS, 16, 16), np.float16)
    words = np.empty((count, CAPTION_LENGTH), np.int64)
    with torch.no_grad():
        for i in tqdm(range(count), desc="clips", mininterval=5):
            scene = random_scene(rng)
            x = torch.from_numpy(scene.render()).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            with mixed(device):
                latents[i] = autoencoder.encoder(x).float().cpu().numpy()
            words[i] = word_ids(scene.words)
    note(target, clips=count, device=device, seconds=time.monotonic() - began)
    with whole(target) as file:
        np.savez(file, latents=latents, words=words)


def clips_in(folder: Path) -> int:
    """How many clips are there to train on."""
    with np.load(folder / "clips.npz") as data:
        return len(data["words"])


def latent_range(folder: Path) -> str:
    """The smallest and the largest latent of the training clips."""
    with np.load(folder / "clips.npz") as data:
        latents = data["latents"]
    return f"{latents.min():.2f} to {latents.max():.2f}"


def random_numbers(n: int) -> torch.Generator:
    """Those of batch ``n``, wherever training was interrupted before."""
    seed = np.random.SeedSequence((SEED, 2, n)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(seed))


class Clips:
    """The training clips in batches."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "clips.npz") as data:
            self._latents, self._words = (torch.from_numpy(data[name]) for name in ("latents", "words"))

    def batch(self, n: int, size: int) -> tuple[Tensor, ...]:
        """Latents [b, c, f, y, x], steps of the noise schedule [b], word ids [b, l] and noise of batch ``n``."""
        rng = random_numbers(n)
        pick = torch.randint(len(self._latents), (size,), generator=rng)
        z = self._latents[pick].float().permute(0, 2, 1, 3, 4)
        # Stratified: every batch has steps from all over the noise schedule.
        t = ((torch.arange(size) + torch.rand(size, generator=rng)) / size * 1000).long()
        ids = self._words[pick] * (torch.rand(size, 1, generator=rng) >= NULL_SHARE)
        return z, t, ids, torch.randn(z.shape, generator=rng)


# --- the video network ------------------------------------------------------------------------------------


class VideoModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unet = build_unet()
        self.captions = CaptionEncoder(UNET_CONFIG["cross_attention_dim"])

    def forward(self, z: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """Noise predicted for ``z`` [b, c, f, y, x]."""
        text = self.captions(ids).repeat_interleave(z.shape[2], 0)
        return self.unet(z, t, text).sample


class Training:
    """The video network in training, its running average, and what a checkpoint holds of both.

    ``state`` counts steps and seconds, and keeps the mean losses, those since the last mean, and the runs:
    each with its first step, goal, batch, rate, device and seconds.
    """

    _PARTS = ("model", "average", "optimiser")

    def __init__(self, checkpoint: Path, device: str) -> None:
        torch.manual_seed(SEED)
        self.model = VideoModel().to(device)
        self.average = VideoModel().to(device)
        self.average.load_state_dict(self.model.state_dict())
        self.optimiser = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.98), weight_decay=1e-3)
        self.state = known_state({})
        self._checkpoint, self._device = checkpoint, device
        self._clock = time.monotonic()
        self._abar, self._weights = ABAR.to(device), WEIGHTS.to(device)
        if checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        saved = torch.load(self._checkpoint, weights_only=True, map_location=self._device)
        for name in self._PARTS:
            getattr(self, name).load_state_dict(saved[name])
        self.state = known_state(saved["state"])

    def begin(self, **settings: Any) -> None:
        """Note a run: its goal, batch and rate. With those of the last run, that one goes on."""
        runs, settings = self.state["runs"], {**settings, "device": self._device}
        if not runs or not settings.items() <= runs[-1].items():
            runs.append({"first": self.state["step"], **settings, "seconds": 0.0})
        self._clock = time.monotonic()

    def keep(self) -> None:
        """Write the checkpoint in one go, so that an interruption leaves the last one."""
        now = time.monotonic()
        for counter in (self.state, *self.state["runs"][-1:]):
            counter["seconds"] += now - self._clock
        self._clock = now
        parts = {name: getattr(self, name).state_dict() for name in self._PARTS}
        with whole(self._checkpoint) as file:
            torch.save({**parts, "state": self.state}, file)

    def sum_up(self) -> None:
        """Note the mean of the losses since the last mean."""
        step, loss = self.state["step"], float(np.mean(self.state["recent"]))
        self.state["losses"].append((step, loss))
        self.state["recent"] = []
        tqdm.write(f"step {step} loss {loss:.5f}")

    def learn(self, batch: tuple[Tensor, ...], rate: float) -> None:
        """One step; the mean squared error of the predicted noise is noted."""
        z, t, ids, noise = (part.to(self._device) for part in batch)
        a = self._abar[t].view(-1, 1, 1, 1, 1)
        with mixed(self._device):
            predicted = self.model(a.sqrt() * z + (1 - a).sqrt() * noise, t, ids)
        error = (predicted.float() - noise).square().mean((1, 2, 3, 4))
        self._update((error * self._weights[t]).mean(), rate)
        self.state["recent"].append(error.mean().item())

    def _update(self, loss: Tensor, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.state["step"] = step = self.state["step"] + 1
        decay = min(0.999, step / (step + 9))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)


def train_unet(folder: Path, goal: int, batch: int, rate: float, device: str, *, stop: int | None = None) -> None:
    """Train up to step ``goal``; with ``stop``, leave off there, as an interruption would."""
    training = Training(folder / "unet.pt", device)
    first, last = training.state["step"], min(goal, goal if stop is None else stop)
    if first >= last:
        return
    clips, shape = Clips(folder), rate_of(goal, rate)
    training.begin(goal=goal, batch=batch, rate=rate)
    for n in tqdm(range(first, last), initial=first, total=goal, desc="unet", mininterval=10):
        training.learn(clips.batch(n, batch), shape(n))
        if (n + 1) % 100 == 0 or n + 1 == goal:
            training.sum_up()
        if (n + 1) % 250 == 0 or n + 1 == last:
            training.keep()


def rate_of(steps: int, rate: float) -> Callable[[int], float]:
    """Warm-up, a plateau, and a cosine down over the last half."""
    def shape(step: int) -> float:
        fall = max(0.0, (step - steps / 2) / (steps / 2))
        return rate * min(1, (step + 1) / 200) * (0.02 + 0.98 * math.cos(math.pi / 2 * fall) ** 2)
    return shape


# --- the file and its card --------------------------------------------------------------------------------


def export(folder: Path, target: Path, hardware: str, told: str) -> None:
    """Put the parts into the one file that the repository ships, with its hash and its card."""
    saved = torch.load(folder / "unet.pt", weights_only=True, map_location="cpu")
    state = known_state(saved["state"])
    model = assembled(folder, saved["average"])
    card = {
        "steps": str(state["step"]),
        "hours": f"{state['seconds'] / 3600:.2f}",
        "loss": f"{np.mean([loss for _, loss in state['losses'][-5:]]):.4f}",
        "parameters": str(sum(p.numel() for p in model.parameters())),
        "history": history_of(state, told),
        "latents": latent_range(folder),
    }
    digest = save_model(model, target, card)
    target.with_suffix(".sha256").write_text(f"{digest}  {target.name}\n", encoding="ascii")
    facts = {**card, "file": target.name, "hash": digest, "mib": f"{target.stat().st_size / 2**20:.1f}"}
    facts |= {"clips": str(clips_in(folder)), "seed": str(SEED), "hardware": hardware, "time": time_of(folder, state)}
    facts |= {"counted": str(steps_of_loss(state)), "commands": "\n".join(commands_of(folder, state))}
    target.with_name("MODEL_CARD.md").write_text(CARD.read_text(encoding="utf-8").format_map(facts), encoding="utf-8")
    print(json.dumps(facts, indent=2))


def assembled(folder: Path, video_weights: dict[str, Tensor]) -> EmbeddedModel:
    """The trained parts as one model."""
    video = VideoModel()
    video.load_state_dict(video_weights)
    model = EmbeddedModel()
    model.unet, model.captions = video.unet, video.captions
    model.autoencoder.load_state_dict(torch.load(folder / "autoencoder.pt", weights_only=True))
    return model


# --- the command line -------------------------------------------------------------------------------------


def stage(name: str) -> str:
    if name not in STAGES:
        raise argparse.ArgumentTypeError(f"{name!r} is no stage: choose from {', '.join(STAGES)}")
    return name


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", type=stage, default=STAGES[:3], help=", ".join(STAGES))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--stop", type=int, help="step to leave off at, for a later call with the same --steps")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--clips", type=int, default=12000)
    parser.add_argument("--hardware", default="not recorded", help="for the model card")
    parser.add_argument("--history", default="", help="for the model card, of steps that the checkpoint does not know")
    parser.add_argument("--target", type=Path, default=MODEL_FILE, help="where to export to")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pictures", type=int, default=6000, help="for the autoencoder")
    parser.add_argument("--autoencoder-steps", type=int, default=1600)
    return parser


def require(folder: Path, *files: str) -> None:
    """Raise `Refused` where a stage lacks what the stages before it make."""
    missing = [file for file in files if not (folder / file).exists()]
    if missing:
        raise Refused(f"{folder} has no {', '.join(missing)}: run the stages {', '.join(STAGES)} in this order")


def run_stages(args: argparse.Namespace) -> None:
    if "autoencoder" in args.stages:
        train_autoencoder(args.folder, args.autoencoder_steps, 48, args.pictures, args.device)
    if "clips" in args.stages:
        require(args.folder, "autoencoder.pt")
        encode_clips(args.folder, args.clips, args.device)
    if "unet" in args.stages:
        require(args.folder, "clips.npz")
        train_unet(args.folder, args.steps, args.batch, args.rate, args.device, stop=args.stop)
    if "export" in args.stages:
        require(args.folder, "autoencoder.pt", "clips.npz", "unet.pt")
        export(args.folder, args.target, args.hardware, args.history)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options()
    args = parser.parse_args(arguments)
    args.folder.mkdir(parents=True, exist_ok=True)
    try:
        run_stages(args)
    except Refused as refusal:
        parser.error(str(refusal))


if __name__ == "__main__":
    main()
