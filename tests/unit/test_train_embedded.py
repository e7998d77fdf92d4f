"""The training script, a few steps long: every stage runs, goes on where it was, and exports what loads."""

import json
import math
import shutil

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


@pytest.fixture
def beside(trained, tmp_path):
    """A folder with the autoencoder and the clips, and no video network yet."""
    for name in ("autoencoder.pt", "autoencoder.json", "clips.npz", "clips.json"):
        shutil.copy(trained[0] / name, tmp_path)
    return tmp_path


def go_on(folder, *options):
    train_embedded.main(["unet", *SMALL, "--folder", str(folder), *options])
    return torch.load(folder / "unet.pt", weights_only=True)


def exported(folder, *options):
    """The card in the file, and the page, of an export into ``folder``."""
    target = folder / "out.safetensors"
    train_embedded.main(["export", "--folder", str(folder), "--target", str(target), *options])
    return card_of(target), (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def as_of_an_older_version(folder):
    """A checkpoint, autoencoder and clips as they were before their making was kept."""
    saved = torch.load(folder / "unet.pt", weights_only=True)
    saved["state"] = {name: saved["state"][name] for name in ("step", "seconds", "losses")}
    torch.save(saved, folder / "unet.pt")
    for name in ("autoencoder.json", "clips.json"):
        (folder / name).unlink()


def loaded(file):
    if file.suffix == ".pt":
        return torch.load(file, weights_only=True)
    with np.load(file) as data:
        return {name: torch.from_numpy(data[name]) for name in data}


def same(a, b):
    """Whether two checkpoints' parts hold the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_every_stage_runs_and_the_export_loads(trained):
    folder, target = trained
    model = load_model(target)
    video = random_scene(np.random.default_rng(0)).render()
    assert model.encode(video).isfinite().all()
    card = card_of(target)
    assert card["steps"] == "2"
    low, high = map(float, card["latents"].split(" to "))
    assert low < 0 < high
    page = (folder / "MODEL_CARD.md").read_text()
    assert "{" not in page and "over the training clips" in page and card["latents"] in page


def test_an_interruption_changes_nothing(beside):
    whole = go_on(beside, "--steps", "4")
    (beside / "unet.pt").unlink()
    half = go_on(beside, "--steps", "4", "--stop", "2")
    assert half["state"]["step"] == 2 and half["optimiser"]["state"][0]["step"] == 2
    both = go_on(beside, "--steps", "4")
    assert whole["state"]["step"] == both["state"]["step"] == 4
    for part in ("model", "average", "optimiser"):
        assert same(whole[part], both[part])
        assert not same(whole[part], half[part])
    assert whole["state"]["losses"] == both["state"]["losses"]
    assert len(both["state"]["runs"]) == 1


def test_a_batch_depends_on_its_number_alone(trained):
    clips = train_embedded.Clips(trained[0])
    for a, b in zip(clips.batch(5, 2), train_embedded.Clips(trained[0]).batch(5, 2), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(clips.batch(5, 2)[3], clips.batch(6, 2)[3])
    # The generator keeps 32 bits of a seed: that is enough for the batches not to meet again.
    assert len({train_embedded.random_numbers(n).initial_seed() for n in range(2000)}) == 2000


def test_training_goes_on_where_it_was_and_keeps_its_runs(beside):
    before = go_on(beside, "--steps", "3", "--stop", "2")["state"]
    after = go_on(beside, "--steps", "4", "--rate", "0.0005")["state"]
    settings = {"batch": 1, "device": "cpu"}
    wanted = [{"first": 0, "goal": 3, "rate": 1e-3, **settings}, {"first": 2, "goal": 4, "rate": 5e-4, **settings}]
    assert [{name: run[name] for name in run if name != "seconds"} for run in after["runs"]] == wanted
    assert after["seconds"] == pytest.approx(sum(run["seconds"] for run in after["runs"]))
    assert after["runs"][0] == before["runs"][0]
    # Nothing is left to do.
    assert go_on(beside, "--steps", "4")["state"] == after


def test_the_card_says_what_was_done(beside):
    go_on(beside, "--steps", "3", "--stop", "2")
    go_on(beside, "--steps", "4", "--rate", "0.0005")
    card, page = exported(beside, "--hardware", "an abacus")
    runs = [
        "steps 0 to 2: 1 clips a step, learning rate 0.001, planned to end at step 3",
        "steps 2 to 4: 1 clips a step, learning rate 0.0005, planned to end at step 4",
    ]
    assert card["history"] == "; ".join(runs) and card["history"] in page
    used = [line.split("train_embedded.py ")[1] for line in page.splitlines() if "PYTHONPATH" in line]
    assert used == [
        "autoencoder --autoencoder-steps 1 --pictures 60 --device cpu",
        "clips --clips 3 --device cpu",
        "unet --steps 3 --stop 2 --batch 1 --rate 0.001 --device cpu",
        "unet --steps 4 --batch 1 --rate 0.0005 --device cpu",
        "export",
    ]
    for line in used:
        train_embedded.options().parse_args(line.split())
    assert "an abacus" in page and "last 4 steps" in page and "with other bits" in " ".join(page.split())
    with pytest.raises(SystemExit):
        exported(beside, "--history", "something else")


def test_the_card_says_how_long_what_was_timed_took(beside):
    go_on(beside, "--steps", "1")
    for name, seconds in (("autoencoder", 100.0), ("clips", 80.0)):
        made = json.loads((beside / f"{name}.json").read_text())
        (beside / f"{name}.json").write_text(json.dumps({**made, "seconds": seconds}))
    assert "network, 3.0 minutes for the autoencoder" in exported(beside)[1]
    (beside / "clips.json").unlink()
    assert "minutes" not in exported(beside)[1]


def test_a_checkpoint_of_an_older_version_is_exported_with_what_is_told_of_it(beside):
    go_on(beside, "--steps", "2")
    as_of_an_older_version(beside)
    card, page = exported(beside)
    assert card["history"] == "steps 0 to 2: batch and learning rate were not recorded"
    assert "minutes" not in page and "train_embedded.py unet" not in page
    assert page.count("the options were not recorded") == 3
    card, page = exported(beside, "--history", "two steps on an abacus")
    assert card["history"] == "two steps on an abacus" and "| training | 2 steps: two steps on an abacus. " in page
    assert card["steps"] == "2" and " to " in card["latents"]


def test_a_checkpoint_of_an_older_version_goes_on(beside):
    old = go_on(beside, "--steps", "2")["state"]
    as_of_an_older_version(beside)
    new = go_on(beside, "--steps", "3")["state"]
    assert new["step"] == 3 and new["losses"][:-1] == old["losses"]
    assert [(run["first"], run["goal"]) for run in new["runs"]] == [(2, 3)]
    card, page = exported(beside, "--history", "two steps on an abacus")
    assert card["history"].startswith("two steps on an abacus; steps 2 to 3: 1 clips")
    assert "# unet, steps 0 to 2: the options were not recorded" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["clips", "--clips", "5"], ["--clips 3", "--clips 5", "another --folder"]),
        (["autoencoder", "--pictures", "60", "--autoencoder-steps", "7"], ["--autoencoder-steps 1", "7"]),
        (["autoencoder", "--pictures", "61", "--autoencoder-steps", "1"], ["--pictures 60", "61"]),
        (["unett"], ["'unett'", "autoencoder, clips, unet, export"]),
        (["unet", "exprot"], ["'exprot'", "autoencoder, clips, unet, export"]),
    ],
)
def test_what_does_not_fit_the_folder_is_refused(trained, capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        train_embedded.main([*arguments, "--folder", str(trained[0])])
    assert end.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert all(words in error for words in said)


@pytest.mark.parametrize(("stage", "lacks"), [
    ("clips", "autoencoder.pt"), ("unet", "clips.npz"), ("export", "autoencoder.pt, clips.npz, unet.pt"),
])
def test_a_stage_says_what_it_lacks(tmp_path, capsys, stage, lacks):
    with pytest.raises(SystemExit):
        train_embedded.main([stage, *SMALL, "--folder", str(tmp_path), "--target", str(tmp_path / "model")])
    assert f"has no {lacks}: run the stages autoencoder, clips" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_the_stages_have_a_default():
    assert tuple(train_embedded.options().parse_args([]).stages) == ("autoencoder", "clips", "unet")


@pytest.mark.parametrize(("stage", "writer", "file"), [
    ("clips", "numpy.savez", "clips.npz"), ("autoencoder", "torch.save", "autoencoder.pt"),
])
def test_a_file_that_is_cut_short_is_not_taken_for_a_whole_one(beside, monkeypatch, stage, writer, file):
    before = loaded(beside / file)
    (beside / file).unlink()

    def cut(*parts, **_):
        # Where the file is, in either writer's arguments.
        next(part for part in parts if hasattr(part, "write")).write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(writer, cut)
        with pytest.raises(KeyboardInterrupt):
            train_embedded.main([stage, *SMALL, "--folder", str(beside)])
    assert not (beside / file).exists()
    train_embedded.main([stage, *SMALL, "--folder", str(beside)])
    assert (beside / file).exists() and not list(beside.glob("*.part"))
    assert same(loaded(beside / file), before)


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
