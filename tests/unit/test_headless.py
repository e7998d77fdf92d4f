"""What the docstring of `headless` says to do is done, with a pipeline of random weights."""

import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import numpy as np
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

    def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance, negative_prompt=""):
        assert (device, num_images_per_prompt) == (self.device, 1)
        assert prompt in ("a red circle", "")
        text = self.text if prompt else self.null
        return (text, self.null) if do_classifier_free_guidance else (text, None)

    def decode_latents(self, latents):
        b, _, f, _, _ = latents.shape
        pictures = self.vae.decode(latents.transpose(1, 2).flatten(0, 1) / self.vae.config.scaling_factor).sample
        return pictures.unflatten(0, (b, f)).transpose(1, 2).float()


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def pipe(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pipe(request.param)


SHORT = replace(PRESETS["fast"], steps=4, guided_steps=2, warm_up=0, cool_down=0)


@pytest.fixture
def followed(pipe, tmp_path, monkeypatch):
    """The names that the documented lines define, at four steps."""
    monkeypatch.setattr(headless, "PRESETS", {"fast": SHORT})
    names = {
        "pipe": pipe,
        "video": draw_clip(tmp_path / "clip.mp4", FRAMES, (SIZE, SIZE)),
        "prompt": "a red circle",
        "width": SIZE,
        "height": SIZE,
    }
    with torch.enable_grad():
        exec(documented_code(), names)
        assert torch.is_grad_enabled()
    return SimpleNamespace(**names)


def test_the_documented_lines_make_a_clip_that_the_motion_has_guided(followed, pipe):
    assert followed.clip.shape == (FRAMES, SIZE, SIZE, 3) and followed.clip.dtype == np.float32
    assert 0 <= followed.clip.min() < followed.clip.max() <= 1
    arguments = pipe, followed.reference, "a red circle"
    assert np.array_equal(headless.clone_motion(*arguments, preset=SHORT), followed.clip)
    for other in ({"preset": replace(SHORT, weight=0.0)}, {"preset": SHORT, "seed": 1}):
        assert np.abs(headless.clone_motion(*arguments, **other) - followed.clip).mean() > 1e-3


def test_the_clip_is_what_the_parts_make(pipe):
    reference = np.random.default_rng(0).random((4, SIZE, SIZE, 3), np.float32)
    done = []
    clip = headless.clone_motion(
        pipe, reference, "a red circle", preset=SHORT, seed=5, on_step=lambda *at: done.append(at)
    )
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    host, latents = headless.DiffusersAnimateDiff(pipe.unet), headless.encode(pipe, reference)
    motion = headless.extract(host, latents, pipe.null, k=2, noise_seed=5)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(6)).to(latents)
    timesteps = headless.uneven_timesteps(4, 2, SHORT.ratio)
    guide = headless.MotionGuidance.of(motion, SHORT)
    result = headless.sample(
        host, noise, pipe.text, pipe.null, timesteps=timesteps, cfg=SHORT.cfg, guide=guide
    )
    with torch.no_grad():
        pictures = pipe.decode_latents(result.to(pipe.vae.dtype))
    wanted = (pictures[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1).numpy()
    np.testing.assert_allclose(clip, wanted, atol=1e-6)


def test_latents_are_the_scaled_ones_of_each_frame(pipe):
    pictures = np.random.default_rng(0).random((3, SIZE, SIZE, 3), np.float32)
    latents = headless.encode(pipe, pictures)
    assert latents.shape == (1, CHANNELS, 3, SIZE // 2, SIZE // 2)
    for i, picture in enumerate(pictures):
        frame = torch.from_numpy(picture).permute(2, 0, 1)[None].to(pipe.vae.dtype)
        with torch.no_grad():
            latent = pipe.vae.encode(frame * 2 - 1).latent_dist.mode() * SCALING
        torch.testing.assert_close(latents[:, :, i], latent)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (np.zeros((2, SIZE, SIZE, 3), np.uint8), r"got uint8 \[2, 16, 16, 3\]"),
        (np.zeros((2, SIZE, SIZE, 1), np.float32), r"got float32 \[2, 16, 16, 1\]"),
        (np.zeros((2, SIZE, SIZE), np.float32), r"got float32 \[2, 16, 16\]"),
        (np.full((2, SIZE, SIZE, 3), 255.0), "these between 255 and 255"),
        (np.full((2, SIZE, SIZE, 3), np.nan), "these between nan and nan"),
        (np.zeros((2, SIZE + 1, SIZE, 3)), "16 x 17 do not fit the autoencoder: take multiples of 2"),
    ],
)
def test_what_is_no_clip_of_pictures_is_refused(pipe, pictures, message):
    with pytest.raises(ValueError, match=message):
        headless.clone_motion(pipe, pictures, "a red circle", preset=SHORT)


def test_the_readme_says_the_same():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"```python\n{documented_code().strip()}\n```" in readme
