"""What the tiny transformers are shown in training, and at which rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from train_transformers import NULL_SHARE, Clips, share_of

CLIPS, FRAMES = 9, 7


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((CLIPS, 16, FRAMES, 4, 4)).astype(np.float16)
    np.savez(tmp_path / "clips0.npz", latents=latents[:4], words=np.arange(1, 25).reshape(4, 6))
    np.savez(tmp_path / "clips1.npz", latents=latents[4:], words=np.arange(25, 55).reshape(5, 6))
    return Clips(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.85, 1.0])
def test_the_share_of_batches_of_pictures(clips: Clips, share: float) -> None:
    frames = [clips.batch(n, 2, share)[0].shape[2] for n in range(400)]
    assert set(frames) <= {1, FRAMES}
    # Evenly spread: every stretch of them has its share.
    for start in range(0, 400, 40):
        assert abs(np.mean([f == 1 for f in frames[start : start + 40]]) - share) <= 2 / 40


def test_pictures_are_first_frames_as_many_as_a_batch_has_latent_frames(clips: Clips, tmp_path: Path) -> None:
    latents = np.concatenate([np.load(tmp_path / f"clips{part}.npz")["latents"] for part in (0, 1)])
    words = np.concatenate([np.load(tmp_path / f"clips{part}.npz")["words"] for part in (0, 1)])
    z, place, ids, noise = clips.batch(0, 2, 1.0)
    assert z.shape == noise.shape == (2 * FRAMES, 16, 1, 4, 4)
    for picture, said in zip(z, ids, strict=True):
        (clip,) = (i for i in range(CLIPS) if np.array_equal(latents[i, :, :1], picture))
        assert not said.any() or np.array_equal(said, words[clip])
    # One place in each of as many equal parts of the noise schedule.
    assert torch.equal((place * len(place)).long(), torch.arange(len(place)))
    # Or three latent frames at a time.
    short, *_ = clips.batch(0, 2, 1.0, first=3)
    assert short.shape == (2 * FRAMES // 3, 16, 3, 4, 4)
    for clip in short:
        assert sum(np.array_equal(latents[i, :, :3], clip) for i in range(CLIPS)) == 1


def test_a_batch_is_the_same_whenever_it_is_asked_for(clips: Clips) -> None:
    first = [clips.batch(n, 2, 0.5) for n in (3, 4)]
    again = [clips.batch(n, 2, 0.5) for n in (4, 3)][::-1]
    for one, other in zip(first, again, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(first[0][3], first[1][3])


def test_captions_are_dropped_in_their_share(clips: Clips) -> None:
    dropped = torch.cat([~clips.batch(n, 8, 1.0)[2].any(1) for n in range(100)]).float()
    assert abs(dropped.mean() - NULL_SHARE) < 4 * (NULL_SHARE / len(dropped)) ** 0.5


def test_rates_rise_stay_and_fall() -> None:
    shares = [share_of(step, 5000, 0.4) for step in range(5000)]
    assert shares[0] == pytest.approx(0.004) and shares[49] == pytest.approx(0.2)
    assert set(shares[100:4000]) == {0.4}
    assert np.allclose(np.diff(shares[4300:]), -1 / 2000) and shares[-1] == pytest.approx(0.0205)
