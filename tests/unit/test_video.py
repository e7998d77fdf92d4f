"""Reading videos: which frames are chosen, how they are fitted, and what bad files and options say.

Every test video is written here. Its frame number i is drawn into it as eight bars, one per bit, so
that a frame says by itself which one it is, and in three rows, so that a half frame shows.
"""

from __future__ import annotations

import itertools
import math
import os
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motionclone_core.paths import list_inside, resolve_inside
from motionclone_core.video import (
    TruncatedVideoError,
    VideoError,
    _breaks_off,
    _Timeline,
    evenly_spaced,
    read_frames,
)

WIDTH, HEIGHT, BITS = 160, 120, 8
BAR = WIDTH // BITS
CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}


def numbered(i: int) -> np.ndarray:
    """A noisy picture (so that a video of it has some bytes to cut) with the bars of i."""
    picture = np.random.default_rng(i).integers(0, 40, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for bit in range(BITS):
        if i >> bit & 1:
            picture[:, bit * BAR : (bit + 1) * BAR] += 200
    return picture


def numbers_in(images: np.ndarray) -> list[int]:
    """The numbers that the frames carry; -1 where the rows of one disagree."""
    found = []
    for image in images:
        rows = np.array_split(image.mean(axis=2), 3)
        bars = [[row[:, b * BAR + 4 : (b + 1) * BAR - 4].mean() > 0.5 for b in range(BITS)] for row in rows]
        codes = {sum(1 << b for b, lit in enumerate(row) if lit) for row in bars}
        found.append(codes.pop() if len(codes) == 1 else -1)
    return found


def write(path: Path, pictures: list[np.ndarray], fps: float = 10) -> Path:
    size = pictures[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODECS[path.suffix]), fps, size)
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module", params=sorted(CODECS))
def clip(request: pytest.FixtureRequest, folder: Path) -> Path:
    """60 numbered frames at 10 frames per second: 6 seconds."""
    return write(folder / f"clip{request.param}", [numbered(i) for i in range(60)])


@pytest.fixture(scope="module")
def mp4(folder: Path) -> Path:
    return write(folder / "only.mp4", [numbered(i) for i in range(60)])


# --- which frames


@pytest.mark.parametrize(
    ("frames", "start", "duration", "expected"),
    [
        (2, 0.0, 0.0, [0, 59]),
        (3, 0.0, 0.0, [0, 30, 59]),
        (5, 2.0, 2.0, [20, 25, 30, 34, 39]),
        (16, 0.0, 1.6, list(range(16))),
        (10, 5.0, 0.0, list(range(50, 60))),
        (4, 0.25, 0.5, [3, 4, 6, 7]),
        (60, 0.0, 0.0, list(range(60))),
        (2, 0.0, 6.0, [0, 59]),
    ],
)
def test_frames_are_the_ones_of_the_part(
    clip: Path, frames: int, start: float, duration: float, expected: list[int]
) -> None:
    result = read_frames(clip, frames=frames, start=start, duration=duration)
    assert numbers_in(result.images) == expected
    assert list(result.indices) == expected
    assert result.fps == pytest.approx((frames - 1) / ((expected[-1] - expected[0]) / 10), abs=1e-6)
    assert result.source_fps == pytest.approx(10)


def test_images_are_rgb_between_0_and_1(folder: Path) -> None:
    blue, red = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    blue[..., 0] = red[..., 2] = 255  # OpenCV writes BGR
    images = read_frames(write(folder / "colours.avi", [blue, red]), frames=2).images
    assert images.dtype == np.float32
    assert images.shape == (2, 64, 64, 3)
    assert images.min() >= 0 and images.max() <= 1
    np.testing.assert_allclose(images.mean(axis=(1, 2)), [[0, 0, 1], [1, 0, 0]], atol=0.02)


def test_part_that_reaches_past_the_end_ends_with_the_video(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = read_frames(clip, frames=3, start=5.0, duration=4.0)
    assert numbers_in(result.images) == [50, 55, 59]
    assert result.fps == pytest.approx(2 / 0.9)
    assert "ends at 6.00 s, before the 9 s" in caplog.text


def test_only_the_part_is_decoded(clip: Path) -> None:
    assert read_frames(clip, frames=5, duration=1.0).source_frames == 11
    assert read_frames(clip, frames=5).source_frames == 60


def test_times_in_whole_milliseconds_do_not_shift_the_part(folder: Path) -> None:
    """Matroska stores frame 10 of 30 per second at 0.333 s, just before 1/3 s."""
    video = write(folder / "thirty.mkv", [numbered(i) for i in range(40)], fps=30)
    result = read_frames(video, frames=10, start=1 / 3, duration=1 / 3)
    assert numbers_in(result.images) == list(range(10, 20))


def test_gif_with_uneven_times_keeps_real_time(folder: Path) -> None:
    if not hasattr(cv2, "Animation"):
        pytest.skip("this OpenCV cannot write a GIF")
    animation = cv2.Animation()
    animation.frames = [numbered(i) for i in range(8)]
    animation.durations = [100, 100, 100, 100, 500, 500, 500, 500]
    path = folder / "uneven.gif"
    assert cv2.imwriteanimation(str(path), animation)
    whole = read_frames(path, frames=8)
    assert numbers_in(whole.images) == list(range(8))
    assert whole.fps == pytest.approx(7 / 1.9, abs=1e-6)
    assert numbers_in(read_frames(path, frames=2, start=0.4, duration=1.0).images) == [4, 5]


@given(st.integers(0, 10**6), st.integers(2, 200), st.integers(0, 10**6))
def test_evenly_spaced_numbers(first: int, count: int, spare: int) -> None:
    last = first + count - 1 + spare
    chosen = evenly_spaced(first, last, count)
    assert len(chosen) == count
    assert (chosen[0], chosen[-1]) == (first, last)
    assert all(a < b for a, b in itertools.pairwise(chosen))
    step = Fraction(last - first, count - 1)
    assert all(abs(number - (first + i * step)) <= Fraction(1, 2) for i, number in enumerate(chosen))


def test_evenly_spaced_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="5 of 4 frames"):
        evenly_spaced(0, 3, 5)
    with pytest.raises(ValueError, match="1 of 4 frames"):
        evenly_spaced(0, 3, 1)


# --- size


@pytest.fixture(scope="module")
def target(folder: Path) -> Path:
    """320 x 160: red left quarter, blue right quarter, a white square of 32 in the middle of black."""
    picture = np.zeros((160, 320, 3), np.uint8)
    picture[:, :80] = (0, 0, 255)
    picture[:, 240:] = (255, 0, 0)
    picture[64:96, 144:176] = 255
    return write(folder / "target.avi", [picture] * 2)


def lit_box(channel: np.ndarray) -> tuple[int, int, int, int]:
    """top, bottom, left, right (exclusive) of what is brighter than half."""
    rows, columns = np.where(channel > 0.5)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


@pytest.mark.parametrize(
    ("asked", "shape", "square"),
    [
        ((0, 0), (160, 320), (64, 96, 144, 176)),
        ((160, 0), (80, 160), (32, 48, 72, 88)),
        ((0, 320), (320, 640), (128, 192, 288, 352)),
        ((160, 160), (160, 160), (64, 96, 64, 96)),
        ((80, 80), (80, 80), (32, 48, 32, 48)),
        ((320, 320), (320, 320), (128, 192, 128, 192)),
        ((320, 80), (80, 320), (24, 56, 144, 176)),
    ],
)
def test_pictures_cover_the_size_and_are_cut_around_the_middle(
    target: Path, asked: tuple[int, int], shape: tuple[int, int], square: tuple[int, int, int, int]
) -> None:
    image = read_frames(target, frames=2, width=asked[0], height=asked[1]).images[0]
    assert image.shape == (*shape, 3)
    np.testing.assert_allclose(lit_box(image[..., 1]), square, atol=1)
    np.testing.assert_allclose(image, image[::-1], atol=0.15)  # the pattern mirrors, red and blue apart
    np.testing.assert_allclose(image, image[:, ::-1, ::-1], atol=0.15)


def test_crop_to_a_square_drops_the_sides(target: Path) -> None:
    image = read_frames(target, frames=2, width=160, height=160).images[0]
    assert image[:, :4].mean() < 0.05  # source columns 80 and on, which are black
    wide = read_frames(target, frames=2, width=320, height=160).images[0]
    assert wide[:, :70, 0].mean() > 0.9 and wide[:, -70:, 2].mean() > 0.9


def test_shrinking_averages(folder: Path) -> None:
    """A chequerboard of single pixels becomes grey; picking pixels would keep black and white."""
    board = np.indices((128, 128)).sum(axis=0) % 2 * 255
    video = write(folder / "board.avi", [np.repeat(board[..., None], 3, axis=2).astype(np.uint8)] * 2)
    image = read_frames(video, frames=2, width=32, height=32).images[0]
    np.testing.assert_allclose(image, 0.5, atol=0.1)


# --- bad options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "1 frames asked for.*at least 2"),
        ({"frames": 0}, "0 frames asked for"),
        ({"frames": 4, "start": -0.5}, r"start is -0\.5 s.*0 or more"),
        ({"frames": 4, "duration": -1.0}, r"duration is -1\.0 s"),
        ({"frames": 4, "start": math.nan}, "start is nan s.*finite"),
        ({"frames": 4, "start": math.inf}, "start is inf s.*finite"),
        ({"frames": 4, "duration": math.inf}, "duration is inf s.*finite"),
        ({"frames": 4, "width": -8}, "width is -8"),
        ({"frames": 4, "height": -8}, "height is -8"),
        (
            {"frames": 2, "start": 6.0},
            r"start is 6 s, beyond the end of only\.mp4, which lasts 6\.00 s \(60 frames\)",
        ),
        ({"frames": 2, "start": 1e9}, "beyond the end"),
        ({"frames": 61}, "61 frames asked for and 60 there.*60 frames or fewer"),
        ({"frames": 16, "start": 5.0}, "16 frames asked for and 10 there.*10 frames or fewer.*earlier start"),
        ({"frames": 16, "duration": 1.5}, "16 frames asked for and 15 there.*longer part"),
        ({"frames": 4, "duration": 0.1}, "4 frames asked for and 1 there"),
        ({"frames": 4, "start": 0.01, "duration": 0.02}, "4 frames asked for and 0 there"),
    ],
)
def test_bad_options_say_what_is_wrong(mp4: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        read_frames(mp4, **options)


# --- bad files


def test_missing_file(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.mp4"):
        read_frames(folder / "absent.mp4", frames=2)


def test_broken_link(tmp_path: Path) -> None:
    link = tmp_path / "link.mp4"
    link.symlink_to(tmp_path / "absent.mp4")
    with pytest.raises(VideoError, match="not an ordinary file"):
        read_frames(link, frames=2)


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is a folder"):
        read_frames(tmp_path, frames=2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="not an ordinary file"):
        read_frames(tmp_path / "pipe.mp4", frames=2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"hello\n" * 300, "text file"),
        ("letters.txt", "gr\u00fc\u00dfe \u4e16\u754c ".encode() * 300, "text file"),
        ("one.mp4", b"x", "text file"),
        ("list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mp4\n\0\xff", "text file"),
        ("concat.mp4", b"ffconcat version 1.0\nfile clip.mp4\n\0\xff", "text file"),
        ("noise.mp4", np.random.default_rng(0).bytes(5000), "cannot be read as a video"),
        ("zeros.avi", bytes(5000), "cannot be read as a video"),
        ("header.mp4", b"\0\0\0\x1cftypisom\0\0\2\0isomiso2mp41", "cannot be read as a video"),
    ],
)
def test_what_is_no_video(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=f"{name}.*{message}"):
        read_frames(tmp_path / name, frames=2)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_picture_with_a_videos_name(tmp_path: Path, extension: str) -> None:
    encoded = cv2.imencode(extension, numbered(3))[1].tobytes()
    (tmp_path / "picture.mp4").write_bytes(encoded)
    with pytest.raises(VideoError, match=r"1 frame and motion needs at least 2.*not a picture"):
        read_frames(tmp_path / "picture.mp4", frames=2)


def test_numbered_picture_does_not_open_its_neighbours(tmp_path: Path) -> None:
    for i in range(8):
        cv2.imwrite(str(tmp_path / f"{i}.png"), numbered(i))
    with pytest.raises(VideoError, match="1 frame"):
        read_frames(tmp_path / "3.png", frames=2)


@pytest.mark.parametrize("extension", sorted(CODECS))
def test_video_of_one_frame(tmp_path: Path, extension: str) -> None:
    video = write(tmp_path / f"still{extension}", [numbered(0)])
    with pytest.raises(VideoError, match="1 frame and motion needs at least 2"):
        read_frames(video, frames=2)


# --- damaged files


def boxes_of(content: bytes) -> list[tuple[bytes, bytes]]:
    """The top-level boxes of an MP4 file: (type, whole box)."""
    boxes = []
    while content:
        length = int.from_bytes(content[:4], "big")
        boxes.append((content[4:8], content[:length]))
        content = content[length:]
    return boxes


def with_outline_first(content: bytes) -> bytes:
    """Move `moov` before the pictures, as files for the web have it; then a cut loses only pictures."""
    boxes = dict(boxes_of(content))
    outline = bytearray(boxes.pop(b"moov"))
    table = outline.find(b"stco") + 8
    for entry in range(int.from_bytes(outline[table : table + 4], "big")):
        at = table + 4 + 4 * entry
        outline[at : at + 4] = (int.from_bytes(outline[at : at + 4], "big") + len(outline)).to_bytes(4, "big")
    return boxes.pop(b"ftyp") + bytes(outline) + b"".join(boxes.values())


@pytest.fixture(scope="module", params=[*sorted(CODECS), "web.mp4"])
def whole(request: pytest.FixtureRequest, folder: Path) -> Path:
    pictures = [numbered(i) for i in range(60)]
    if request.param != "web.mp4":
        return write(folder / f"whole{request.param}", pictures)
    path = folder / "web.mp4"
    path.write_bytes(with_outline_first(write(folder / "before.mp4", pictures).read_bytes()))
    return path


def test_outline_first_is_read_whole(whole: Path) -> None:
    assert numbers_in(read_frames(whole, frames=60).images) == list(range(60))


@pytest.mark.parametrize(
    "permille", [1, 5, 20, 100, 300, 500, 700, 900, 930, 950, 970, 980, 985, 990, 995, 999]
)
def test_cut_file_gives_right_frames_or_says_so(whole: Path, tmp_path: Path, permille: int) -> None:
    content = whole.read_bytes()
    cut = tmp_path / whole.name
    cut.write_bytes(content[: len(content) * permille // 1000])
    try:
        result = read_frames(cut, frames=2)
    except VideoError as error:
        assert cut.name in str(error)
    else:
        assert permille >= 900, "a tenth of the video is missing and nobody is told"
        assert numbers_in(result.images) == list(result.indices)


@pytest.mark.parametrize("whole", [".avi", ".mkv", "web.mp4"], indirect=True)
def test_sound_part_of_a_cut_file_can_be_used(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    cut = tmp_path / whole.name
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        TruncatedVideoError, match=r"promises 60 frames and \d+ can be used.*ends by ([\d.]+) s"
    ) as info:
        read_frames(cut, frames=16)
    usable = float(str(info.value).rsplit(" ", 2)[1])
    assert 2.0 <= usable <= 3.0
    result = read_frames(cut, frames=16, duration=usable)
    assert numbers_in(result.images) == list(evenly_spaced(0, round(usable * 10) - 1, 16))
    with pytest.raises(TruncatedVideoError, match="breaks off"):
        read_frames(cut, frames=16, duration=usable + 0.5)


def test_mp4_without_its_outline_is_not_a_video(mp4: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(mp4.read_bytes()[:-200])
    with pytest.raises(VideoError, match="beginning or end is missing"):
        read_frames(tmp_path / "cut.mp4", frames=2)


def with_promised_frames(avi: bytes, count: int) -> bytes:
    """The AVI file with another frame count in its headers (`avih`, `strh`) and no index."""
    changed = bytearray(avi)
    for chunk, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = avi.index(chunk) + offset
        changed[at : at + 4] = count.to_bytes(4, "little")
    return bytes(changed).replace(b"idx1", b"JUNK")


@pytest.mark.parametrize(("frames", "promised"), [(60, 63), (10, 12)])
def test_slightly_too_high_a_count_is_forgiven(tmp_path: Path, frames: int, promised: int) -> None:
    avi = write(tmp_path / "count.avi", [numbered(i) for i in range(frames)]).read_bytes()
    path = tmp_path / "promises.avi"
    path.write_bytes(with_promised_frames(avi, promised))
    assert cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT) == promised
    assert numbers_in(read_frames(path, frames=2).images) == [0, frames - 1]


def test_far_too_high_a_count_is_an_error_unless_the_part_is_there(tmp_path: Path) -> None:
    avi = write(tmp_path / "count.avi", [numbered(i) for i in range(60)]).read_bytes()
    path = tmp_path / "promises.avi"
    path.write_bytes(with_promised_frames(avi, 90))
    with pytest.raises(TruncatedVideoError, match=r"promises 90 frames and 60 can be used.*ends by 6 s"):
        read_frames(path, frames=3)
    assert numbers_in(read_frames(path, frames=3, duration=6.0).images) == [0, 30, 59]


def test_too_low_a_count_hides_nothing(tmp_path: Path) -> None:
    avi = write(tmp_path / "count.avi", [numbered(i) for i in range(60)]).read_bytes()
    path = tmp_path / "promises.avi"
    path.write_bytes(with_promised_frames(avi, 30))
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not all(capture.grab() for _ in range(60)):
        pytest.skip("this OpenCV itself stops where the header says")
    result = read_frames(path, frames=3)
    assert numbers_in(result.images) == [0, 30, 59]
    assert result.source_frames == 60


def test_estimated_count_of_a_variable_rate_is_not_a_promise() -> None:
    """A WebM file of 60 frames in 7.5 s whose usual rate is 10: OpenCV reckons with 75 frames."""
    uneven = tuple(i * 0.05 if i < 30 else 1.5 + (i - 30) * 0.2 for i in range(60))
    assert not _breaks_off(_Timeline(uneven, promised=75, fps=10, cut=False))
    assert _breaks_off(_Timeline(uneven[:40], promised=75, fps=10, cut=False))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files by /proc")
def test_files_are_closed(mp4: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(mp4.read_bytes()[:-200])

    def open_files() -> list[str]:
        return [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        ]

    read_frames(mp4, frames=2)
    with pytest.raises(VideoError):
        read_frames(mp4, frames=100)
    with pytest.raises(VideoError):
        read_frames(tmp_path / "cut.mp4", frames=2)
    assert not [name for name in open_files() if name.endswith(".mp4")]


# --- names of files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder `input` with files, beside a folder that must stay out of reach."""
    inside, outside = tmp_path / "input", tmp_path / "input-secret"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    for path in (inside / "a.mp4", inside / "sub" / "b.mp4", outside / "c.mp4"):
        path.write_bytes(b"x")
    (inside / "good.mp4").symlink_to(inside / "sub" / "b.mp4")
    (inside / "bad.mp4").symlink_to(outside / "c.mp4")
    (inside / "dir").symlink_to(outside)
    (inside / "loop.mp4").symlink_to(inside / "loop.mp4")
    (inside / "up").symlink_to(inside)
    return inside


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.mp4", "a.mp4"),
        ("sub/b.mp4", "sub/b.mp4"),
        ("sub/../a.mp4", "a.mp4"),
        ("./a.mp4", "a.mp4"),
        ("good.mp4", "sub/b.mp4"),
        ("new/deep/file.mp4", "new/deep/file.mp4"),
        ("..dots.mp4", "..dots.mp4"),
    ],
)
def test_names_inside_are_resolved(root: Path, name: str, expected: str) -> None:
    assert resolve_inside(root, name) == root.resolve() / expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../etc/passwd", "leads out of"),
        ("../input-secret/c.mp4", "leads out of"),
        ("sub/../../input-secret/c.mp4", "leads out of"),
        ("bad.mp4", "leads out of"),
        ("dir/c.mp4", "leads out of"),
        ("dir/new.mp4", "leads out of"),
        ("up/../../x", "leads out of"),
        ("/etc/passwd", "absolute"),
        ("", "not a file name"),
        ("a\0.mp4", "not a file name"),
        ("\ud800.mp4", "not a file name"),
        (".", "itself"),
        ("sub/..", "itself"),
    ],
)
def test_names_that_lead_out_are_refused(root: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as info:
        resolve_inside(root, name)
    assert str(root) in str(info.value)


def test_absolute_path_is_refused_even_inside(root: Path) -> None:
    with pytest.raises(ValueError, match="absolute"):
        resolve_inside(root, str(root / "a.mp4"))


def test_a_name_longer_than_file_systems_hold_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="304 bytes, at most 255"):
        resolve_inside(root, 300 * "a" + ".mp4")


def test_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "linked"
    link.symlink_to(root)
    assert resolve_inside(link, "a.mp4") == root.resolve() / "a.mp4"


def test_list_holds_every_file_inside_and_none_that_leads_out(root: Path) -> None:
    assert list_inside(root) == ["a.mp4", "good.mp4", "sub/b.mp4"]
    assert list_inside(root, lambda name: name.startswith("sub/")) == ["sub/b.mp4"]
    assert list_inside(root / "absent") == []
