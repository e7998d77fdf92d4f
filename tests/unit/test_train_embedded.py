"""The training script, a few steps long: every stage runs, goes on where it was, and exports what loads."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import train_embedded
from embedded.drawing import random_scene
from embedded.model import card_of, load_model

SMALL = ["--clips", "3", "--batch", "1", "--pictures", "60", "--autoencoder-steps", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    target = folder / "small.safetensors"
    stages = ["autoencoder", "clips", "unet", "export"]
    train_embedded.main([*stages, *SMALL, "--folder", str(folder), "--steps", "2", "--target", str(target)])
    return folder, target


def test_every_stage_runs_and_the_export_loads(trained):
    folder, target = trained
    model = load_model(target)
    video = random_scene(np.random.default_rng(0)).render()
    assert model.encode(video).isfinite().all()
    card = card_of(target)
    assert card["steps"] == "2" and card["goals"] == "2"
    low, high = map(float, card["latents"].split(" to "))
    assert low < 0 < high
    page = (folder / "MODEL_CARD.md").read_text()
    assert "{" not in page and "over the training clips" in page and card["latents"] in page


def test_training_goes_on_where_it_was(trained):
    folder, _ = trained
    before = torch.load(folder / "unet.pt", weights_only=True)
    train_embedded.main(["unet", *SMALL, "--folder", str(folder), "--steps", "3"])
    after = torch.load(folder / "unet.pt", weights_only=True)
    assert before["state"]["step"] == 2 and after["state"]["step"] == 3
    assert after["state"]["goals"] == [2, 3]
    assert after["state"]["seconds"] > before["state"]["seconds"]
    assert after["state"]["losses"][:-1] == before["state"]["losses"]
    assert after["optimiser"]["state"][0]["step"] == 3
    # Nothing is left to do.
    train_embedded.main(["unet", *SMALL, "--folder", str(folder), "--steps", "3"])
    again = torch.load(folder / "unet.pt", weights_only=True)
    assert again["state"] == after["state"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(trained, monkeypatch):
    folder, _ = trained
    training = train_embedded.Training(folder / "unet.pt", "cpu")
    before = (folder / "unet.pt").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("torch.save", fail)
    with pytest.raises(OSError, match="disk full"):
        training.keep()
    assert (folder / "unet.pt").read_bytes() == before


def test_the_rate_warms_up_stays_and_falls():
    rate = train_embedded.rate_of(1000, 0.5)
    assert rate(0) == pytest.approx(0.5 / 200)
    assert rate(300) == pytest.approx(0.5)
    assert rate(750) == pytest.approx(0.5 * (0.02 + 0.98 * math.cos(math.pi / 4) ** 2))
    assert rate(1000) == pytest.approx(0.5 * 0.02)


def test_whitening_folds_into_the_encoder():
    torch.manual_seed(0)
    whitened = train_embedded.Whitened()
    x = torch.rand(8, 3, 64, 64) * 2 - 1
    for _ in range(3):
        whitened(x)
    whitened.eval()
    with torch.no_grad():
        expected = whitened.whiten(whitened.autoencoder.encoder(x))
        assert torch.allclose(whitened.folded().encoder(x), expected, atol=1e-4)
