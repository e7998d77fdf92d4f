"""The demo, cut down to four steps: it writes what it says, and refuses what it cannot read."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

import demo
from draw_clip import draw_clip
from embedded.drawing import FRAMES
from embedded.model import ModelFileError
from motionclone_core.metrics import Tracks


@pytest.fixture(autouse=True)
def four_steps(monkeypatch):
    short = replace(demo.PRESETS["fast"], steps=4, guided_steps=2, warm_up=0, cool_down=0)
    monkeypatch.setattr(demo, "PRESETS", {"camera": short, "fast": short})


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["demo.py", *map(str, arguments)])
    return demo.main()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_draws_clones_scores_and_writes(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "--output", tmp_path / "made") == 0
    sheets = [f"contact_sheet_{i + 1}.png" for i in range(len(demo.DRAWN))]
    assert files(tmp_path / "made") == [*sheets, "motion_cloning.gif"]
    with Image.open(tmp_path / "made" / "motion_cloning.gif") as animation:
        assert animation.n_frames == FRAMES
    table = capsys.readouterr().out
    for clip in demo.drawn_clips():
        assert table.count(clip.caption[:18]) == 2  # unguided and guided
    assert table.count(" px") == 2 * len(demo.DRAWN)


def test_a_video_file_is_a_reference(monkeypatch, tmp_path, capsys):
    video = draw_clip(tmp_path / "clip.mp4", 20, (96, 80))
    out = tmp_path / "made"
    assert run(monkeypatch, "--video", video, "--caption", "blue cross sand dots", "--output", out) == 0
    assert files(out) == ["contact_sheet_1.png", "motion_cloning.gif"]
    assert cv2.imread(str(out / "contact_sheet_1.png")) is not None
    assert "clip.mp4" in capsys.readouterr().out


def test_its_references_show_one_thing_each_moving_otherwise_than_the_other():
    clips = demo.drawn_clips()
    for clip in clips:
        assert np.ptp(clip.paths[0], axis=0).max() > 8  # a motion that a picture shows
        assert clip.caption != clip.target.caption


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
