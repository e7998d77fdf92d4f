#!/usr/bin/env python3
"""Trains the embedded model on drawn clips: autoencoder, then the clips' latents, then the video network.

Every stage keeps its state in one folder and goes on from there when it is called again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
from motionclone_core.schedule import alphas_cumprod

SEED = 20261121
CARD = Path(__file__).with_name("model_card.md")
FOLDER = Path.home() / ".cache" / "motionclone" / "embedded"
ABAR = torch.from_numpy(alphas_cumprod()).float()
# 1 / abar turns an error of the noise into one of v: left alone, the noisy steps, in which the motion is decided,
# would hardly count.
WEIGHTS = (1 / ABAR).clamp(max=30)
WEIGHTS = WEIGHTS / WEIGHTS.mean()
NULL_SHARE = 0.12


def mixed(device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16)


# --- autoencoder ------------------------------------------------------------------------------------------


def pictures(count: int, rng: np.random.Generator) -> Tensor:
    """``[count, 3, 64, 64]`` in -1 to 1: drawn ones, and one in five of smooth coloured noise."""
    out = []
    while len(out) < count:
        if rng.random() < 0.2:
            side = int(rng.choice((4, 8, 16)))
            noise = torch.from_numpy(rng.random((1, 3, side, side), dtype=np.float32))
            out.append(F.interpolate(noise, SIZE, mode="bicubic").clamp(0, 1)[0])
            continue
        frames = random_scene(rng, frames=4).render()
        out += [torch.from_numpy(frame).permute(2, 0, 1) / 255 for frame in frames[::2]]
    return torch.stack(out[:count]) * 2 - 1


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
        return
    torch.manual_seed(SEED)
    model = Whitened().to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    rng = np.random.default_rng(SEED)
    pool = pictures(pool_size, rng)
    bar = tqdm(range(steps), desc="autoencoder", mininterval=5)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 100) * (0.02 + 0.98 * math.cos(math.pi / 2 * step / steps) ** 2)
        x = pool[torch.from_numpy(rng.integers(0, len(pool), batch))].to(device)
        with mixed(device):
            y = model(x)
        loss = F.mse_loss(y, x) + 0.2 * F.l1_loss(y, x)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        bar.set_postfix(mse=f"{F.mse_loss(y, x).item():.5f}")
    model.eval()
    torch.save(model.folded().state_dict(), target)


# --- the clips' latents -----------------------------------------------------------------------------------


def encode_clips(folder: Path, count: int, device: str) -> None:
    target = folder / "clips.npz"
    if target.exists():
        return
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
    np.savez(target, latents=latents, words=words)


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


def batches(folder: Path, batch: int, device: str, seed: tuple[int, ...]) -> Iterator[tuple[Tensor, ...]]:
    data = np.load(folder / "clips.npz")
    latents, words = torch.from_numpy(data["latents"]), torch.from_numpy(data["words"])
    rng = torch.Generator().manual_seed(hash(seed) % 2**31)
    while True:
        pick = torch.randint(len(latents), (batch,), generator=rng)
        z = latents[pick].float().permute(0, 2, 1, 3, 4)
        # Stratified: every batch has steps from all over the noise schedule.
        t = ((torch.arange(batch) + torch.rand(batch, generator=rng)) / batch * 1000).long()
        ids = words[pick] * (torch.rand(batch, 1, generator=rng) >= NULL_SHARE)
        noise = torch.randn(z.shape, generator=rng)
        yield z.to(device), t.to(device), ids.to(device), noise.to(device)


class Training:
    """The video network in training, its running average, and what a checkpoint holds of both.

    ``state`` counts steps and seconds, and keeps the losses and the lengths that runs were planned for.
    """

    _PARTS = ("model", "average", "optimiser")

    def __init__(self, checkpoint: Path, device: str) -> None:
        torch.manual_seed(SEED)
        self.model = VideoModel().to(device)
        self.average = VideoModel().to(device)
        self.average.load_state_dict(self.model.state_dict())
        self.optimiser = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.98), weight_decay=1e-3)
        self.state = {"step": 0, "seconds": 0.0, "losses": [], "goals": []}
        self._checkpoint, self._device = checkpoint, device
        self._abar, self._weights = ABAR.to(device), WEIGHTS.to(device)
        if checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        saved = torch.load(self._checkpoint, weights_only=True, map_location=self._device)
        for name in self._PARTS:
            getattr(self, name).load_state_dict(saved[name])
        self.state = saved["state"]

    def keep(self) -> None:
        """Write the checkpoint in one go, so that an interruption leaves the last one."""
        parts = {name: getattr(self, name).state_dict() for name in self._PARTS}
        torch.save({**parts, "state": self.state}, self._checkpoint.with_suffix(".part"))
        os.replace(self._checkpoint.with_suffix(".part"), self._checkpoint)

    def learn(self, batch: tuple[Tensor, ...], rate: float) -> float:
        """One step; returns the mean squared error of the predicted noise."""
        z, t, ids, noise = batch
        a = self._abar[t].view(-1, 1, 1, 1, 1)
        with mixed(self._device):
            predicted = self.model(a.sqrt() * z + (1 - a).sqrt() * noise, t, ids)
        error = (predicted.float() - noise).square().mean((1, 2, 3, 4))
        self._update((error * self._weights[t]).mean(), rate)
        return error.mean().item()

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


def train_unet(folder: Path, steps: int, batch: int, rate: float, device: str) -> None:
    training = Training(folder / "unet.pt", device)
    state = training.state
    if state["step"] < steps:
        state["goals"].append(steps)
    shape = rate_of(steps, rate)
    source = batches(folder, batch, device, (SEED, 2, state["step"]))
    began, running = time.time() - state["seconds"], []
    for now in tqdm(range(state["step"], steps), initial=state["step"], total=steps, desc="unet", mininterval=10):
        running.append(training.learn(next(source), shape(now)))
        step = state["step"]
        if step % 100 == 0 or step == steps:
            state["losses"].append((step, float(np.mean(running))))
            tqdm.write(f"step {step} loss {np.mean(running):.5f} {time.time() - began:.0f} s")
            running = []
        if step % 250 == 0 or step == steps:
            state["seconds"] = time.time() - began
            training.keep()


def export(folder: Path, target: Path, hardware: str) -> None:
    """Put the parts into the one file that the repository ships, and say its hash."""
    saved = torch.load(folder / "unet.pt", weights_only=True, map_location="cpu")
    video = VideoModel()
    video.load_state_dict(saved["average"])
    model = EmbeddedModel()
    model.unet, model.captions = video.unet, video.captions
    model.autoencoder.load_state_dict(torch.load(folder / "autoencoder.pt", weights_only=True))
    state = saved["state"]
    card = {
        "steps": str(state["step"]),
        "hours": f"{state['seconds'] / 3600:.2f}",
        "loss": f"{np.mean([loss for _, loss in state['losses'][-5:]]):.4f}",
        "parameters": str(sum(p.numel() for p in model.parameters())),
        "goals": ", ".join(str(goal) for goal in dict.fromkeys(state["goals"])),
        "latents": latent_range(folder),
    }
    digest = save_model(model, target, card)
    target.with_suffix(".sha256").write_text(f"{digest}  {target.name}\n", encoding="ascii")
    facts = {**card, "file": target.name, "hash": digest, "mib": f"{target.stat().st_size / 2**20:.1f}"}
    facts |= {"clips": str(clips_in(folder)), "hardware": hardware, "seed": str(SEED)}
    target.with_name("MODEL_CARD.md").write_text(CARD.read_text(encoding="utf-8").format_map(facts), encoding="utf-8")
    print(json.dumps(facts, indent=2))


def clips_in(folder: Path) -> int:
    """How many clips the video network was trained on."""
    return len(np.load(folder / "clips.npz")["words"])


def latent_range(folder: Path) -> str:
    """The smallest and the largest latent of the training clips."""
    latents = np.load(folder / "clips.npz")["latents"]
    return f"{latents.min():.2f} to {latents.max():.2f}"


def rate_of(steps: int, rate: float) -> Callable[[int], float]:
    """Warm-up, a plateau, and a cosine down over the last half."""
    def shape(step: int) -> float:
        fall = max(0.0, (step - steps / 2) / (steps / 2))
        return rate * min(1, (step + 1) / 200) * (0.02 + 0.98 * math.cos(math.pi / 2 * fall) ** 2)
    return shape


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", default=["autoencoder", "clips", "unet"])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--clips", type=int, default=12000)
    parser.add_argument("--hardware", default="not recorded", help="for the model card")
    parser.add_argument("--target", type=Path, default=MODEL_FILE, help="where to export to")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pictures", type=int, default=6000, help="for the autoencoder")
    parser.add_argument("--autoencoder-steps", type=int, default=1600)
    args = parser.parse_args(arguments)
    args.folder.mkdir(parents=True, exist_ok=True)
    if "autoencoder" in args.stages:
        train_autoencoder(args.folder, args.autoencoder_steps, 48, args.pictures, args.device)
    if "clips" in args.stages:
        encode_clips(args.folder, args.clips, args.device)
    if "unet" in args.stages:
        train_unet(args.folder, args.steps, args.batch, args.rate, args.device)
    if "export" in args.stages:
        export(args.folder, args.target, args.hardware)


if __name__ == "__main__":
    main()
