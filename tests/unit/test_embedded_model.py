"""The embedded model's file, its loader, and that motion cloning works with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from embedded import measuring
from embedded.drawing import FRAMES, random_scene
from embedded.measuring import (
    FAST,
    SCHEDULERS,
    EachGuidance,
    held_out_cases,
    noise_of,
    representations,
    run,
    score,
    seed_for,
)
from embedded.model import (
    FORMAT,
    MODEL_FILE,
    NULL_CAPTION,
    EmbeddedModel,
    ModelFileError,
    card_of,
    file_hash,
    load_model,
    measured_hash,
    save_model,
    word_ids,
)
from motionclone_core.editing import masked
from motionclone_core.guidance import MotionGuidance
from motionclone_core.hosts.diffusers_animatediff import sample
from motionclone_core.schedule import GuidanceWindow


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = EmbeddedModel()
    path = tmp_path_factory.mktemp("model") / "fresh.safetensors"
    return made, path, save_model(made, path, {"steps": "0"})


# --- the file ---------------------------------------------------------------------------------------------


def test_the_shipped_file_is_small_half_precision_and_the_one_that_was_measured():
    assert MODEL_FILE.stat().st_size <= 16 * 2**20
    assert file_hash(MODEL_FILE) == measured_hash()
    weights = load_file(MODEL_FILE)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    with safe_open(MODEL_FILE, "pt") as file:
        card = json.loads(file.metadata()["card"])
    assert int(card["parameters"]) == sum(parameter.numel() for parameter in load_model().parameters())
    card_text = (MODEL_FILE.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert measured_hash() in card_text and card["steps"] in card_text.replace(",", "")


def test_every_block_attends_over_time_with_places_and_every_deep_block_reads_the_caption(model):
    unet = model.unet
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    for block in blocks:
        assert len(block.motion_modules) >= 1
        for module in block.motion_modules:
            assert module.transformer_blocks[0].pos_embed is not None
    assert {name.split(".motion")[0] for name in model.host.sites} == {
        "down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"
    }  # fmt: skip


def test_saving_and_loading_keeps_every_weight_to_half_precision(fresh):
    made, path, digest = fresh
    loaded = load_model(path, sha256=digest)
    for name, tensor in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_another_hash_is_refused_and_both_are_named(fresh):
    _, path, digest = fresh
    with pytest.raises(ModelFileError, match=f"{digest}.*{'0' * 64}"):
        load_model(path, sha256="0" * 64)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"there is no model at .*gone"):
        load_model(tmp_path / "gone.safetensors")


def test_a_damaged_file_is_refused(fresh, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(fresh[1].read_bytes()[:100_000])
    with pytest.raises(ModelFileError, match=r"cut.safetensors is damaged"):
        load_model(cut)


def test_the_shipped_file_is_checked_whatever_its_path_is_called(fresh, tmp_path, monkeypatch):
    _, path, digest = fresh
    copy = tmp_path / "shipped.safetensors"
    copy.write_bytes(path.read_bytes())
    (tmp_path / "link.safetensors").symlink_to(copy)
    monkeypatch.setattr("embedded.model.MODEL_FILE", copy)
    monkeypatch.setattr("embedded.model.HASH_FILE", copy.with_suffix(".sha256"))
    copy.with_suffix(".sha256").write_text(f"{'0' * 64}  shipped.safetensors\n")
    monkeypatch.chdir(tmp_path)
    for name in ("shipped.safetensors", "link.safetensors", f"../{tmp_path.name}/shipped.safetensors"):
        with pytest.raises(ModelFileError, match=f"{digest}.*{'0' * 64}"):
            load_model(Path(name))


@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs", b"\xff\xfe0", b"0" * 63, b"0" * 65])
def test_a_hash_that_cannot_be_read_says_what_to_do(tmp_path, monkeypatch, content):
    monkeypatch.setattr("embedded.model.HASH_FILE", tmp_path / "shipped.sha256")
    if content is not None:
        (tmp_path / "shipped.sha256").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"shipped\.sha256 is missing, or .* the 64 digits .* check it out again"):
        measured_hash()


def test_a_save_that_fails_leaves_the_old_file(fresh, tmp_path, monkeypatch):
    path = tmp_path / "old.safetensors"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(fresh[0], path, {})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_a_card_is_given_back_and_its_absence_said(fresh, tmp_path):
    assert card_of(fresh[1]) == {"steps": "0"}
    path = tmp_path / "bare.safetensors"
    for metadata in (None, {"format": FORMAT}, {"card": "steps: 0"}):
        save_file({"x": torch.zeros(1)}, path, metadata)
        with pytest.raises(ModelFileError, match=r"bare\.safetensors has no card .* scripts/train_embedded\.py"):
            card_of(path)
    with pytest.raises(ModelFileError, match=r"gone\.safetensors is damaged or missing"):
        card_of(tmp_path / "gone.safetensors")


def test_another_format_and_other_layers_are_refused(fresh, tmp_path):
    weights = load_file(fresh[1])
    other = tmp_path / "other.safetensors"
    save_file(weights, other, {"format": "something-else"})
    with pytest.raises(ModelFileError, match=f"has the format something-else, this version reads {FORMAT}"):
        load_model(other)
    weights.pop("captions.places")
    save_file(weights, other, {"format": FORMAT})
    with pytest.raises(ModelFileError, match="holds other layers"):
        load_model(other)


# --- captions and pictures --------------------------------------------------------------------------------


def test_captions(model):
    scene = random_scene(np.random.default_rng(3), objects=1)
    assert model.text(scene.words, NULL_CAPTION).shape == (2, 6, 64)
    assert torch.equal(model.text(NULL_CAPTION), model.null_text)
    with pytest.raises(ValueError, match="'pink' is not in the vocabulary: nothing, red"):
        word_ids(("pink", *scene.words[1:]))
    with pytest.raises(ValueError, match="a caption has 6 words, got 2"):
        word_ids(("red", "circle"))


def test_pictures_survive_the_autoencoder(model):
    """Peak signal to noise of 25 dB or more on clips that it never saw."""
    for seed in range(6):
        video = random_scene(np.random.default_rng((7, seed))).render()
        (back,) = model.decode(model.encode(video))
        mse = np.square(back.astype(float) - video).mean()
        assert 10 * np.log10(255**2 / mse) > 25


def test_what_is_no_picture_is_refused(model):
    with pytest.raises(ValueError, match=r"multiples of 16, got uint8 \[16, 40, 64, 3\]"):
        model.encode(np.zeros((16, 40, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="not numbers"):
        model.decode(torch.full((1, 4, 2, 16, 16), torch.nan))


# --- motion cloning ---------------------------------------------------------------------------------------


def first_gradients(model, noise, texts, guide):
    """Of each clip, in the first guided step: later ones also tell of how chaotic sampling is."""
    seen = []
    sample(
        model.host, noise, texts, model.null_text, timesteps=[999, 900], guide=guide,
        on_step=lambda step, denoised, gradient: seen.append(gradient),
    )  # fmt: skip
    return seen[0].value.chunk(len(noise))


def test_each_clip_of_a_batch_follows_its_own_motion(model):
    cases = held_out_cases(2, 0)
    motions, noise = representations(model, cases, FAST), noise_of(cases)
    guides = [MotionGuidance(motion, 2000.0, GuidanceWindow(0, 1, 0, 0)) for motion in motions]
    texts = model.text(*(case.target.words for case in cases))
    both = first_gradients(model, noise, texts, EachGuidance(guides))
    swapped = first_gradients(model, noise, texts, EachGuidance(guides[::-1]))
    for i in range(2):
        (alone,) = first_gradients(model, noise[i : i + 1], texts[i : i + 1], guides[i])
        assert (both[i] - alone).norm() < 0.02 * alone.norm()
        assert (swapped[i] - alone).norm() > 0.5 * alone.norm()


def test_guides_that_differ_in_more_than_the_motion_are_refused(model):
    cases = held_out_cases(2, 0)
    one, two = (MotionGuidance(motion) for motion in representations(model, cases, FAST))
    with pytest.raises(ValueError, match="2 guides: give one or more, which differ in nothing but the motion"):
        EachGuidance([one, replace(two, weight=1.0)])
    with pytest.raises(ValueError, match="0 guides"):
        EachGuidance([])
    part = masked(two.motion, torch.eye(64))
    with pytest.raises(ValueError, match="as they guide parts of different size: sample their clips one by one"):
        EachGuidance([replace(guide, update_rule="normalised") for guide in (one, replace(two, motion=part))])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_sampler_is_guided_and_a_clip_does_not_depend_on_its_batch(model, name):
    cases = held_out_cases(2, 0)
    setting = replace(FAST, steps=5, guided_steps=3, warm_up=0, cool_down=0, scheduler=name)
    both, (alone,) = run(model, cases, setting), run(model, cases[1:], setting)
    (unguided,) = run(model, cases[1:], replace(setting, weight=0.0))
    assert np.abs(alone.video.astype(int) - unguided.video).mean() > 3 and unguided.pushes == ()
    # The third guided step is beside the seam of the schedule.
    assert len(alone.pushes) == 2 and min(alone.pushes) > 0
    assert both[1].pushes == pytest.approx(alone.pushes, rel=1e-2)
    assert both[1].extremes == pytest.approx(alone.extremes, rel=0.01)


def test_every_noise_is_another(model):
    cases = [*held_out_cases(3, 0), *held_out_cases(3, 1)]
    purposes = ("initial noise", "added noise")
    seeds = [seed_for(case.index, case.seed, purpose) for case in cases for purpose in purposes]
    seeds += [motion.provenance.noise_seed for motion in representations(model, cases, FAST)]
    assert len(set(seeds)) == 3 * len(cases)


def test_what_is_no_number_is_counted_and_decoded_all_the_same(model):
    case = held_out_cases(1, 0)[0]
    latent = model.encode(case.wanted.render())
    latent[0, 0, 3] = float("nan")
    result = measuring._result(model, latent, (0.1, float("nan"), 0.3))
    assert result.video.shape == (FRAMES, 64, 64, 3)
    scored = score(case, result, limit=0.2)
    assert np.isnan(scored.low) and np.isnan(scored.high)
    assert (scored.limited, scored.skipped, scored.push) == (1, 1, pytest.approx(0.2))


def test_every_other_turning_reference_stays_in_its_place_and_is_seen_to_turn():
    turning = [case for case in held_out_cases(60, 0) if case.reference.motion == "turning"]
    first = [case.reference.things[0] for case in turning]
    still = [bool(np.ptp(thing.centre, axis=0).max() < 1) for thing in first]
    assert still == [False, True] * 6
    assert all(thing.shape != "circle" for thing, stays in zip(first, still, strict=True) if stays)
    assert {case.kind for case in turning} == {"turning", "turning in place", "two things"}


def test_cases_are_held_out_repeat_and_do_not_depend_on_the_batch():
    first, second = held_out_cases(6, 1), held_out_cases(8, 1)
    for one, other in zip(first, second, strict=False):
        assert np.array_equal(one.reference.render(), other.reference.render())
        assert len(one.reference.things) == len(one.target.things)
    assert torch.equal(noise_of(second)[:6], noise_of(first))
    assert torch.equal(noise_of(second[3:5]), noise_of(second)[3:5])
    assert not torch.equal(noise_of(first), noise_of(held_out_cases(6, 2)))


def test_guidance_moves_the_new_thing_along_the_reference(model):
    """The whole method at 30 steps, with wide margins."""
    cases = held_out_cases(6, 0)
    scores = {
        name: [score(case, result) for case, result in zip(cases, run(model, cases, setting), strict=True)]
        for name, setting in (("unguided", replace(FAST, weight=0.0)), ("guided", FAST))
    }
    error = {name: np.mean([s.path_error for s in found]) for name, found in scores.items()}
    cosine = np.nanmean([s.velocity_cosine for s in scores["guided"]])
    assert error["guided"] < 0.6 * error["unguided"]
    assert cosine > 0.5
