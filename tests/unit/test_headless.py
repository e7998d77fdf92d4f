"""What the docstring of `headless` says to do is done, with a pipeline of random weights."""

import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import cv2
import pytest
import torch

from draw_clip import draw_clip
from motionclone_core import headless
from motionclone_core.schedule import PRESETS
from tiny_unet import tiny_unet

diffusers = pytest.importorskip("diffusers")

FRAMES, SIZE, CHANNELS = 16, 16, 4
SCALING = 0.18215


def documented_code():
    (code,) = re.findall(r"::\n\n((?:    .*\n|\n)+)", headless.__doc__)
    return dedent(code)


def autoencoder():
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        latent_channels=CHANNELS,
        norm_num_groups=2,
        scaling_factor=SCALING,
    )


class Pipe:
    """The parts of diffusers' AnimateDiffPipeline that are used, whose own class wants a text encoder."""

    device = torch.device("cpu")

    def __init__(self, dtype):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.unet, self.vae = tiny_unet().to(dtype).eval(), autoencoder().to(dtype).eval()
            self.text, self.null = (torch.randn(1, 5, 8, dtype=dtype) for _ in range(2))

    def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance):
        assert (prompt, device, num_images_per_prompt) == ("a red circle", self.device, 1)
        return (self.text, self.null) if do_classifier_free_guidance else (self.text, None)

    def decode_latents(self, latents):
        b, _, f, _, _ = latents.shape
        pictures = self.vae.decode(latents.transpose(1, 2).flatten(0, 1) / self.vae.config.scaling_factor).sample
        return pictures.unflatten(0, (b, f)).transpose(1, 2).float()


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def followed(request, tmp_path, monkeypatch):
    """The names that the documented lines define, at four steps."""
    short = replace(PRESETS["camera"], steps=4, guided_steps=2, warm_up=0, cool_down=0)
    monkeypatch.setattr(headless, "PRESETS", {"camera": short})
    names = {
        "pipe": Pipe(request.param),
        "video": draw_clip(tmp_path / "clip.mp4", FRAMES, (SIZE, SIZE)),
        "prompt": "a red circle",
        "width": SIZE,
        "height": SIZE,
    }
    with torch.random.fork_rng(), torch.enable_grad():  # both as they were afterwards
        torch.manual_seed(0)
        exec(documented_code(), names)
    return SimpleNamespace(**names)


def test_the_reference_holds_the_scaled_latent_of_each_frame(followed):
    capture, dtype = cv2.VideoCapture(str(followed.video)), followed.pipe.vae.dtype
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3  # of one frame instead of sixteen at once
    for i in range(FRAMES):
        picture = torch.from_numpy(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)).movedim(-1, 0)[None]
        with torch.no_grad():
            latent = followed.pipe.vae.encode((picture / 127.5 - 1).to(dtype)).latent_dist.mode() * SCALING
        torch.testing.assert_close(followed.reference[:, :, i], latent, rtol=tolerance, atol=tolerance)
    assert followed.reference.shape == (1, CHANNELS, FRAMES, SIZE // 2, SIZE // 2)


def test_the_clip_is_pictures_that_the_motion_has_guided(followed):
    assert followed.clip.shape == (1, 3, FRAMES, SIZE, SIZE)
    assert bool(followed.clip.isfinite().all()) and followed.clip.std() > 0
    options = {"timesteps": followed.timesteps, "cfg": followed.preset.cfg}
    texts = followed.pipe.text, followed.pipe.null
    unguided = headless.sample(followed.host, followed.noise, *texts, **options)
    assert bool(followed.result.isfinite().all()) and not torch.equal(followed.result, unguided)


def test_the_readme_says_the_same():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"```python\n{documented_code().strip()}\n```" in readme
