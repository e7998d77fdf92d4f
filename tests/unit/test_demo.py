"""The demo, cut down to four steps and small pictures: it writes what it says, and refuses what it cannot read."""

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import demo
from draw_clip import draw_clip
from embedded import measuring
from embedded.drawing import FRAMES
from embedded.measuring import Result
from embedded.model import ModelFileError
from motionclone_core.metrics import Tracks, track_points
from motionclone_core.video import read_frames
from motionclone_core.visualisation.sheets import enlarged


@pytest.fixture(autouse=True)
def cut_down(monkeypatch):
    short = replace(demo.PRESETS["fast"], steps=4, guided_steps=2, warm_up=0, cool_down=0)
    monkeypatch.setattr(demo, "PRESETS", {"camera": short, "fast": short})
    monkeypatch.setattr(demo, "SIDE", 96)


@pytest.fixture
def notes(monkeypatch):
    """What is written below the contact sheets."""
    draw, written = demo.contact_sheet, []

    def contact_sheet(views, frames, *, note):
        written.append(note)
        return draw(views, frames, note=note)

    monkeypatch.setattr(demo, "contact_sheet", contact_sheet)
    return written


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["demo.py", *map(str, arguments)])
    return demo.main()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_draws_clones_scores_and_writes(monkeypatch, tmp_path, capsys, notes):
    assert run(monkeypatch, "--output", tmp_path / "made") == 0
    sheets = [f"contact_sheet_{i + 1}.png" for i in range(len(demo.DRAWN))]
    assert files(tmp_path / "made") == [*sheets, "motion_cloning.gif"]
    with Image.open(tmp_path / "made" / "motion_cloning.gif") as animation:
        assert animation.n_frames == FRAMES
    table = capsys.readouterr().out
    for clip in demo.drawn_clips():
        assert table.count(clip.caption[: demo.WIDTH]) == 2  # unguided and guided
    assert table.count(" px") == 2 * len(demo.DRAWN)
    assert len(notes) == len(demo.DRAWN) and all("dashed" in note for note in notes)


def test_a_video_file_is_a_reference(monkeypatch, tmp_path, capsys):
    video = draw_clip(tmp_path / "clip.mp4", 20, (96, 80))
    out = tmp_path / "made"
    assert run(monkeypatch, "--video", video, "--caption", "blue cross sand dots", "--output", out) == 0
    assert files(out) == ["contact_sheet_1.png", "motion_cloning.gif"]
    assert cv2.imread(str(out / "contact_sheet_1.png")) is not None
    assert "clip.mp4" in capsys.readouterr().out


@pytest.mark.parametrize("frames", [2, 5, 15])
def test_the_frames_of_a_short_video_are_repeated_evenly(tmp_path, frames):
    video = draw_clip(tmp_path / "short.mp4", frames, (96, 80))
    clip = demo.video_clip(video, ["red", "circle", "slate", "plain"]).video
    own = read_frames(video, frames=frames, width=64, height=64).images
    shown = [int(np.abs(own - picture / 255).mean((1, 2, 3)).argmin()) for picture in clip]
    assert shown == sorted(shown) and set(shown) == set(range(frames))
    times = np.bincount(shown)
    assert times.max() - times.min() <= 1


def test_one_picture_is_no_motion(monkeypatch, tmp_path, capsys):
    video = draw_clip(tmp_path / "one.mp4", 1, (96, 80))
    assert run(monkeypatch, "--video", video, "--output", tmp_path / "made") == 1
    assert "one.mp4 has 1 frame and motion needs at least 2" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused_before_anything_is_made(monkeypatch, tmp_path, capsys):
    (tmp_path / "made").write_text("mine")
    with pytest.raises(SystemExit):
        run(monkeypatch, "--output", tmp_path / "made")
    assert "is a file: give a folder" in capsys.readouterr().err
    assert (tmp_path / "made").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_sampled(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(demo, "clone", None)
    assert run(monkeypatch, "--output", tmp_path / "file" / "made") == 1
    assert "made cannot be made" in capsys.readouterr().err


def test_a_caption_is_for_a_video(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--caption", "red circle slate plain", "--output", tmp_path / "made")
    assert "is for --video" in capsys.readouterr().err


def test_unguided_and_guided_are_named_as_they_are(monkeypatch):
    clip = demo.drawn_clips()[0]
    shown = demo.Shown(clip, None, unguided=clip.target.render(), guided=clip.video)
    monkeypatch.setattr(demo, "guided_intensity", lambda _: np.zeros((FRAMES, 4, 4), np.float32))
    lines = demo.table([shown]).splitlines()[1:]
    # What the target shows obeys the caption, what the reference shows does not.
    assert ["3/3" in line for line in lines] == [True, False]
    assert ["unguided" in line for line in lines] == [True, False]
    views = {panel.label: panel for panel in demo.panels(shown)}
    plain = {name: enlarged(getattr(shown, name), demo.SIDE) for name in ("unguided", "guided")}
    for name, other in (("unguided", "guided"), ("guided", "unguided")):
        far = np.abs(views[name].video.astype(int) - plain[other]).mean()
        assert np.abs(views[name].video.astype(int) - plain[name]).mean() < far / 4


def draw_cut(path):
    """A disc in one corner, and from the middle on in the other: no point is in sight all the time."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 8, (96, 80))
    for i in range(20):
        centre = (8 + i, 20) if i < 10 else (94 - i, 60)
        writer.write(cv2.circle(np.full((80, 96, 3), 60, np.uint8), centre, 8, (40, 200, 250), -1))
    writer.release()
    return path


def test_a_video_with_a_cut_is_scored_and_then_shown_without_paths(monkeypatch, tmp_path, capsys, notes):
    video, out = draw_cut(tmp_path / "cut.mp4"), tmp_path / "made"
    clip = demo.video_clip(video, ["red", "circle", "slate", "plain"])
    assert demo.longest_paths(track_points(clip.video)).shape == (0, FRAMES, 2)
    write, printed, sheets = demo.write_pictures, [], []

    def write_pictures(results, folder):
        printed.append(capsys.readouterr().out)
        sheets.append(demo.panels(results[0]))
        return write(results, folder)

    monkeypatch.setattr(demo, "write_pictures", write_pictures)
    assert run(monkeypatch, "--video", video, "--output", out) == 0
    assert printed[0].count("cut.mp4") == 2  # the scores, unguided and guided
    assert np.array_equal(sheets[0][0].video, enlarged(clip.video, demo.SIDE))
    assert files(out) == ["contact_sheet_1.png", "motion_cloning.gif"]
    assert len(notes) == 1 and "dashed" not in notes[0] and "seen in every frame" in notes[0]


def test_each_drawn_reference_shows_one_thing_on_a_way_of_its_own_and_asks_for_another_thing():
    clips = demo.drawn_clips()
    ways = [clip.paths[0] - clip.paths[0, 0] for clip in clips]
    for clip, way in zip(clips, ways, strict=True):
        assert len(clip.paths) == 1
        assert np.ptp(way, axis=0).max() > 8  # a motion that a picture shows
        (asked,) = clip.target.things
        assert asked.colour not in clip.caption
    for one, other in combinations(ways, 2):
        assert np.abs(one - other).max() > 8


class Recorder:
    """Stands in for the model, the extraction and the sampling of `demo.clone`, and keeps what they were given."""

    host, null_text = None, None

    def __init__(self, monkeypatch):
        self.extractions, self.noise = [], None
        monkeypatch.setattr(measuring, "extract", self.extract)
        monkeypatch.setattr(demo, "generate", self.generate)

    def encode(self, video):
        return torch.zeros(1, 4, FRAMES, 16, 16)

    def extract(self, host, latent, null_text, **options):
        self.extractions.append((latent, options))

    def generate(self, model, captions, noise, setting, **options):
        self.noise = noise
        return [Result(np.zeros((FRAMES, 64, 64, 3), np.uint8), (0.0, 0.0)) for _ in captions]


def noises(monkeypatch, clips, seed, **setting):
    """Of the extractions, as `headless.extract` draws them, and the initial ones; and the extractions' options."""
    model = Recorder(monkeypatch)
    demo.clone(model, clips, replace(demo.PRESETS["fast"], **setting), seed)
    options = [used for _, used in model.extractions]
    seeds = [torch.Generator().manual_seed(used["noise_seed"]) for used in options]
    return [torch.randn(1, 4, FRAMES, 16, 16, generator=each)[0] for each in seeds], [*model.noise], options


def test_no_noise_is_used_twice_and_a_clip_does_not_depend_on_the_others(monkeypatch):
    clips = demo.drawn_clips()
    drawn = [noise for seed in (0, 1) for kind in noises(monkeypatch, clips, seed)[:2] for noise in kind]
    for one, other in combinations(drawn, 2):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.1
    extraction, initial, _ = noises(monkeypatch, clips[:1], 0)
    assert torch.equal(extraction[0], drawn[0]) and torch.equal(initial[0], drawn[len(clips)])


def test_the_motion_is_read_off_as_the_setting_says(monkeypatch):
    _, _, options = noises(monkeypatch, demo.drawn_clips(), 0, k=2, t_alpha=300, blocks="up_blocks.0")
    for used in options:
        assert (used["k"], used["t_alpha"], used["blocks"]) == (2, 300, "up_blocks.0")


def test_a_negative_seed_is_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--seed", -1, "--output", tmp_path / "made")
    assert "--seed -1: choose 0 or more" in capsys.readouterr().err


def test_of_a_video_the_longest_visible_tracks_are_drawn():
    ways = {(10, 10): 2.0, (12, 10): 1.9, (40, 10): 1.0, (40, 40): 3.0, (10, 50): 0.0}
    time = np.arange(FRAMES, dtype=np.float32)
    paths = [np.stack([x + speed * time, np.full(FRAMES, y)], axis=1) for (x, y), speed in ways.items()]
    points = np.array(paths, np.float32)
    visible = np.ones(points.shape[:2], bool)
    visible[3, 5] = False  # the fastest is lost for a moment
    chosen = demo.longest_paths(Tracks(points, visible, (64, 64)), count=2)
    # The second is too near the first.
    assert np.array_equal(chosen, points[[0, 2]])
    assert demo.longest_paths(Tracks(points, visible, (64, 64)), apart=100.0).shape == (1, FRAMES, 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("gone.mp4", None, "gone.mp4"), ("text.mp4", b"hello, this is no video", "text.mp4"), ("empty.mp4", b"", "empty")],
)
def test_what_cannot_be_read_is_named_and_nothing_is_written(monkeypatch, tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert run(monkeypatch, "--video", tmp_path / name, "--output", tmp_path / "made") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("pink circle slate plain", "the colour 'pink' is unknown: choose one of red, yellow"),
        ("red circle", "the caption has 2 words, it needs 4: colour, shape, ground, pattern"),
    ],
)
def test_an_unknown_caption_says_what_there_is(monkeypatch, tmp_path, capsys, caption, message):
    video = draw_clip(tmp_path / "clip.mp4", 20, (96, 80))
    assert run(monkeypatch, "--video", video, "--caption", caption, "--output", tmp_path / "made") == 1
    assert message in capsys.readouterr().err


def test_a_damaged_model_is_said_and_nothing_is_written(monkeypatch, tmp_path, capsys):
    def damaged():
        raise ModelFileError("animatediff_drawn.safetensors is damaged: check it out again")

    monkeypatch.setattr(demo, "load_model", damaged)
    assert run(monkeypatch, "--output", tmp_path / "made") == 1
    assert "is damaged" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
