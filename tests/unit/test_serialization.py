"""Motion files: bit-exact round trips, and what damaged, foreign and unwritable files do."""

from __future__ import annotations

import io
import json
import math
import os
import random
import struct
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from motionclone_core import serialization
from motionclone_core.grids import Frame
from motionclone_core.representation import MotionRepresentation, Provenance, TapRepresentation
from motionclone_core.serialization import (
    MotionFileError,
    load_representation,
    next_free,
    save_representation,
)

FIRST, SECOND = "up_blocks.1.motion.0.attention.0", "up_blocks.1.motion.0.attention.1"
NAMES = [f"up_blocks.1.motion.{module}.attention.{layer}" for module in range(3) for layer in range(2)]


def representation(
    *, frames=4, k=1, heads=2, latent=(4, 6), grid=(2, 3), names=(FIRST, SECOND), seed=0, **provenance
):
    generator = torch.Generator().manual_seed(frames + k + 100 * seed)
    taps = {}
    for name in names:
        shape = (math.prod(grid), heads, frames, frames)
        indices = torch.rand(shape, generator=generator).argsort(-1)[..., :k]
        values = torch.rand(indices.shape, generator=generator)
        taps[name] = TapRepresentation.compact(values, indices, grid)
    return MotionRepresentation.whole(taps, latent, Provenance(**provenance))


def assert_same(loaded, saved):
    assert loaded.provenance == saved.provenance
    assert loaded.latent_size == saved.latent_size
    assert list(loaded.windows) == list(saved.windows)
    assert (loaded.frame, loaded.timing) == (saved.frame, saved.timing)
    assert (loaded.mask is None) == (saved.mask is None)
    assert saved.mask is None or torch.equal(loaded.mask, saved.mask)
    for window, taps in saved.windows.items():
        others = loaded.windows[window]
        assert set(others) == set(taps)
        for name, tap in taps.items():
            other = others[name]
            assert other.grid == tap.grid
            for mine, its in ((tap.values, other.values), (tap.indices, other.indices)):
                assert mine.dtype == its.dtype
                assert torch.equal(mine, its)


WINDOWS = [(0, 1, 2, 3), (2, 3, 4, 5), (8, 6, 7, 0)]  # the last goes around the end


def windowed():
    """Frames in windows, each of which holds something else."""
    return MotionRepresentation(
        {window: representation(seed=i).taps for i, window in enumerate(WINDOWS)}, (4, 6), Provenance("long")
    )


# --- round trip -----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_k_comes_back_bit_by_bit(tmp_path, k):
    saved = representation(k=k)
    save_representation(saved, tmp_path / "motion.safetensors")
    assert_same(load_representation(tmp_path / "motion.safetensors"), saved)


@pytest.mark.parametrize(
    ("frames", "dtype"),
    [(2, torch.uint8), (16, torch.uint8), (256, torch.uint8), (257, torch.int16), (300, torch.int16)],
)
def test_every_number_of_frames_comes_back_in_the_smallest_type(tmp_path, frames, dtype):
    saved = representation(frames=frames, names=(FIRST,))
    assert saved.taps[FIRST].indices.max() >= frames - 2
    save_representation(saved, tmp_path / "motion.safetensors")
    loaded = load_representation(tmp_path / "motion.safetensors")
    assert loaded.taps[FIRST].indices.dtype == dtype
    assert_same(loaded, saved)


def test_windows_come_back_in_a_file_of_the_second_version(tmp_path):
    path = tmp_path / "motion.safetensors"
    save_representation(windowed(), path)
    assert_same(load_representation(path), windowed())
    assert split(path)[1]["format_version"] == 2


def test_a_clip_that_was_seen_whole_stays_readable_for_the_first_version(path):
    _, description, _ = split(path)
    assert (description["format_version"], "windows" in description) == (1, False)


MASK = torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(3)).half()


@pytest.mark.parametrize(
    "edits",
    [
        {"timing": (3, 2, 1, 0, 0, 1)},
        {"frame": Frame(-0.25, 1 / 3, 0.5, 1.5)},
        {"mask": MASK},
        {"timing": (0, 1), "frame": Frame(0.5), "mask": MASK.expand(2, -1, -1)},
    ],
)
@pytest.mark.parametrize("make", [representation, windowed])
def test_edits_come_back_in_a_file_of_the_third_version(tmp_path, edits, make):
    path, edited = tmp_path / "edited.safetensors", replace(make(), **edits)
    save_representation(edited, path)
    assert_same(load_representation(path), edited)
    assert split(path)[1]["format_version"] == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"timing": [4]},
        {"timing": []},
        {"timing": [-1, 0]},
        {"timing": ["0"]},
        {"frame": [0.0, 0.0, 0.0, 1.0]},
        {"frame": [0.0, 0.0, 1.0]},
        {"frame": [math.nan, 0.0, 1.0, 1.0]},
        {"frame": None},
        {"timing": [0, 1, 2]},  # the mask has 2 frames
    ],
)
def test_edits_that_cannot_be_are_refused(tmp_path, changes):
    path = tmp_path / "edited.safetensors"
    save_representation(replace(representation(), timing=(0, 1), mask=MASK.expand(2, -1, -1)), path)
    header, description, data = split(path)
    join(path, header, data, description={**description, **changes})
    with pytest.raises(MotionFileError, match="is damaged"):
        load_representation(path)


@pytest.mark.parametrize("value", [-0.5, 1.5, math.nan])
def test_a_mask_outside_0_to_1_is_refused(tmp_path, value):
    path = tmp_path / "edited.safetensors"
    save_representation(replace(representation(), mask=torch.full((1, 2, 2), value).half()), path)
    with pytest.raises(MotionFileError, match="in 0 to 1"):
        load_representation(path)


@pytest.mark.parametrize(
    "windows",
    [
        None, 4, "0123", [], [[]], [4, 4, 4], [[0, 1, 2, 3]] * 3,
        [[0, 1, 2, 3], [2, 3, 4, 5], [7, 6, 7, 0]], [[0, 1, 2, 3], [2, 3, 4, 5], [9, 6, 7, 0]],
        [[0, 1, 2, 3], [2, 3, 4], [5, 6, 7, 0]], [[0, 1, 2, 3], [2, 3, 4, 5], [8, 6, 7, -1]],
        [[0, 1, 2, 3], [2, 3, 4, 5], [8, 6, 7, 0.0]], [[0, 1, 2, 3], [2, 3, 4, 5], [8, 6, 7, False]],
        [[0, 1, 2, 3], [2, 3, 4, 5], [10**12, 6, 7, 0]],
    ],
)  # fmt: skip
def test_windows_that_cannot_be_are_refused(tmp_path, windows):
    path = tmp_path / "motion.safetensors"
    save_representation(windowed(), path)
    header, description, data = split(path)
    join(path, header, data, description={**description, "windows": windows})
    refusal(path)


@pytest.mark.parametrize("source", ["", "Lämmer 🐑 走る.mp4", 'a"b\\c\n\0', "\ud800", "x" * 100_000])
def test_the_provenance_comes_back_letter_by_letter(tmp_path, source):
    saved = representation(
        source=source, architecture="animatediff/SD1.5", fingerprint="ü0", t_alpha=999, noise_seed=2**64 - 1
    )
    save_representation(saved, tmp_path / "motion.safetensors")
    assert load_representation(tmp_path / "motion.safetensors").provenance == saved.provenance


def test_taps_come_back_in_the_order_of_execution(tmp_path):
    names = [f"up_blocks.1.motion.{module}.attention.0" for module in range(12)]
    save_representation(representation(names=names[::-1]), tmp_path / "motion.safetensors")
    assert list(load_representation(tmp_path / "motion.safetensors").taps) == names


def test_float16_at_its_edges_comes_back(tmp_path):
    values = torch.tensor([0.0, -0.0, 1.0, 2.0**-24, 65504.0, 2.0**-14], dtype=torch.float16)
    tap = TapRepresentation(values.reshape(1, 1, 6, 1), torch.zeros(1, 1, 6, 1, dtype=torch.uint8), (1, 1))
    save_representation(MotionRepresentation.whole({FIRST: tap}, (1, 1)), tmp_path / "motion.safetensors")
    loaded = load_representation(tmp_path / "motion.safetensors").taps[FIRST].values.flatten()
    assert loaded.view(torch.int16).tolist() == values.view(torch.int16).tolist()


@pytest.mark.parametrize("view", [lambda t: t[..., 1:3], lambda t: t.transpose(2, 3)], ids=["slice", "transposed"])
def test_tensors_with_strides_are_written_as_they_read(tmp_path, view):
    whole = representation(k=4).taps[FIRST]
    tap = TapRepresentation(view(whole.values), view(whole.indices), whole.grid)
    assert not tap.values.is_contiguous()
    saved = MotionRepresentation.whole({FIRST: tap}, (4, 6))
    save_representation(saved, tmp_path / "motion.safetensors")
    assert_same(load_representation(tmp_path / "motion.safetensors"), saved)


def test_inference_tensors_can_be_written(tmp_path):
    with torch.inference_mode():
        saved = representation()
        save_representation(saved, tmp_path / "motion.safetensors")
    assert_same(load_representation(tmp_path / "motion.safetensors"), saved)


def test_a_motion_of_16_frames_at_512_takes_0_6_mib(tmp_path):
    saved = representation(frames=16, heads=8, latent=(64, 64), grid=(16, 16), names=NAMES)
    path = tmp_path / "motion.safetensors"
    save_representation(saved, path)
    assert saved.nbytes() == 6 * 256 * 8 * 16 * (2 + 1)
    assert saved.nbytes() < path.stat().st_size <= 0.6 * 2**20


def test_what_was_loaded_does_not_change_with_the_file(tmp_path):
    saved, path = representation(), tmp_path / "motion.safetensors"
    save_representation(saved, path)
    loaded = load_representation(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same(loaded, saved)


# --- bad files ------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "motion.safetensors"
    save_representation(representation(source="clip.mp4"), path)
    return path


def split(path):
    """The header as a dict, the description as a dict, and the bytes of the tensors."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["motionclone"]), content[8 + length :]


def join(path, header, data, *, description=None):
    """Write a file with that header; ``description`` is JSON text or what to make it of."""
    if description is not None:
        text = description if isinstance(description, str) else json.dumps(description)
        header = {**header, "__metadata__": {"motionclone": text}}
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def refusal(path):
    """The message with which the file is refused; nothing but MotionFileError may come."""
    with pytest.raises(MotionFileError) as error, warnings.catch_warnings():
        warnings.simplefilter("error")
        load_representation(path)
    assert path.name in str(error.value)
    return str(error.value)


def test_a_file_that_is_taken_apart_and_joined_again_can_be_read(path):
    """So that the refusals below are not those of this file's own writing."""
    header, description, data = split(path)
    join(path, header, data, description=description)
    assert_same(load_representation(path), representation(source="clip.mp4"))


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    lengths = {*range(0, 64), *range(64, len(content), 29), *range(len(content) - 16, len(content))}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        assert "truncated or not a safetensors file" in refusal(path)


def test_a_tail_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    refusal(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 5000])
def test_random_bytes_are_refused(path, length):
    path.write_bytes(random.Random(length).randbytes(length))
    refusal(path)


def test_flipped_bytes_of_the_header_are_refused_or_harmless(path):
    content, rng = path.read_bytes(), random.Random(0)
    end = len(content) - len(split(path)[2])
    refused = 0
    for _ in range(1500):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(end)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load_representation(path)
        except MotionFileError:
            refused += 1
    assert refused > 1000


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    assert "no motion file folder.safetensors" in refusal(folder)
    assert "no motion file gone.safetensors" in refusal(tmp_path / "gone.safetensors")


def test_a_model_file_is_said_to_be_no_motion_file(tmp_path):
    for metadata in (None, {}, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, tmp_path / "lora.safetensors", metadata=metadata)
        assert "but not a motion file" in refusal(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "text",
    ["", "{", "not json", '{"format_version": 1', "[]", "null", "1", '"x"', "{}"]
    + [f'{{"format_version": {v}}}' for v in ("null", "true", "[1]", '"1"', "0", "-1", "1.5")]
    + [f'{{"format_version": {v}}}' for v in ("NaN", "Infinity", "1e999", "9" * 5000)]
    + ["[" * depth + "]" * depth for depth in (500, 5_000, 200_000)],
    ids=lambda text: text[:24] or "empty",
)
def test_a_damaged_description_is_refused(path, text):
    header, _, data = split(path)
    join(path, header, data, description=text)
    assert "description" in refusal(path)


@pytest.mark.parametrize("depth", [100, 900, 1_000, 5_000, 100_000])
@pytest.mark.parametrize("keys", [("taps",), ("latent_size",), ("provenance",), ("provenance", "source")])
def test_deep_nesting_anywhere_is_refused(path, keys, depth):
    header, description, data = split(path)
    part = description
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = "@"
    join(path, header, data, description=json.dumps(description).replace('"@"', "[" * depth + "]" * depth))
    refusal(path)


def test_a_deeply_nested_header_is_refused(path):
    encoded = b"[" * 50_000 + b"]" * 50_000
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded)
    refusal(path)


def test_a_newer_version_asks_for_an_update(path):
    header, description, data = split(path)
    join(path, header, data, description={**description, "format_version": 5})
    assert "format version 5, this pack reads up to 4: update the pack" in refusal(path)
    # Whatever else a newer version may look like.
    join(path, header, data, description={"format_version": 99})
    assert "format version 99" in refusal(path)


def places(value, keys=()):
    """The keys that lead to each part of a JSON value."""
    yield keys
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*keys, key))


def replaced(value, keys, new):
    if not keys:
        return new
    copy = value.copy()
    copy[keys[0]] = replaced(copy[keys[0]], keys[1:], new)
    return copy


WRONG = [None, True, -1, 0, 7, 10**30, 0.5, 1e300, math.inf, math.nan, "", "4", "x", [], [0], [2, 3, 4], {}, {"a": 1}]
# Written for other readers; the tensors' own shapes count.
UNREAD = ("frames", "k", "heads")


def test_wrong_json_in_any_place_is_refused_or_is_another_valid_value(path):
    header, description, data = split(path)
    refused = 0
    for keys in places(description):
        for wrong in WRONG:
            join(path, header, data, description=json.dumps(replaced(description, keys, wrong)))
            try:
                loaded = load_representation(path)
            except MotionFileError:
                refused += 1
                continue
            if keys[-1] not in UNREAD:
                assert keys[0] == "provenance", (keys, wrong)
                assert type(wrong) is type(description["provenance"][keys[1]]), (keys, wrong)
            assert_same(loaded, replace(representation(), provenance=loaded.provenance))
    assert refused > 300


def test_every_key_but_the_unread_is_needed(path):
    header, description, data = split(path)
    for keys in places(description):
        if not keys or isinstance(keys[-1], int) or keys[-1] in UNREAD or keys in (("taps", FIRST), ("taps", SECOND)):
            continue
        damaged = json.loads(json.dumps(description))
        part = damaged
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]
        join(path, header, data, description=damaged)
        refusal(path)


def write_tensors(path, description, **changes):
    """The sound file with other tensors; None leaves one out."""
    tensors = {}
    for name, tap in representation().taps.items():
        tensors |= {f"{name}.values": tap.values, f"{name}.indices": tap.indices}
    tensors |= {f"{FIRST}.{kind}": tensor for kind, tensor in changes.items()}
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, path, metadata={"motionclone": json.dumps(description)})


SOUND = representation().taps[FIRST]


def with_entry(tensor, value):
    tensor = tensor.clone()
    tensor[3, 1, 2, 0] = value
    return tensor


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": None}, f"{FIRST}.values"),
        ({"indices": None}, f"{FIRST}.indices"),
        ({"indices": with_entry(SOUND.indices, 4)}, "outside its 4 frames"),
        ({"indices": with_entry(SOUND.indices.to(torch.int16), -1)}, "outside its 4 frames"),
        ({"values": with_entry(SOUND.values, math.nan)}, "not numbers"),
        ({"values": with_entry(SOUND.values, -math.inf)}, "not numbers"),
        ({"values": SOUND.values.float()}, "torch.float32 values"),
        ({"values": SOUND.values.bfloat16()}, "torch.bfloat16 values"),
        ({"indices": SOUND.indices.half()}, "torch.float16 indices"),
        ({"indices": SOUND.indices.bool()}, "torch.bool indices"),
        ({"indices": SOUND.indices.to(torch.complex64)}, "torch.complex64 indices"),
        ({"values": SOUND.values[:5], "indices": SOUND.indices[:5]}, "5 positions"),
        ({"values": SOUND.values[:0], "indices": SOUND.indices[:0]}, "0 positions"),
        ({"values": SOUND.values[:, :0], "indices": SOUND.indices[:, :0]}, "0 heads"),
        ({"values": SOUND.values[:, :, :0], "indices": SOUND.indices[:, :, :0]}, "rows that have 0"),
        ({"values": SOUND.values[:, :, :3], "indices": SOUND.indices[:, :, :3]}, "outside its 3 frames"),
        ({"values": SOUND.values.flatten(), "indices": SOUND.indices.flatten()}, "need one shape"),
        ({"values": SOUND.values[:, :1]}, "need one shape"),
        ({"values": torch.tensor(1.0).half(), "indices": torch.tensor(0)}, "need one shape"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(path, changes, message):
    _, description, _ = split(path)
    write_tensors(path, description, **changes)
    assert message in refusal(path)


@pytest.mark.parametrize("grid", [[3, 2], [1, 6], [-2, -3], [2, 2], [2, 3, 1], [2], 6, "23"])
def test_a_wrong_grid_is_refused(path, grid):
    header, description, data = split(path)
    description["taps"][FIRST]["grid"] = grid
    join(path, header, data, description=description)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("latent", [[6, 4], [5, 6], [0, 6], [-4, -6], [64, 64]])
def test_a_latent_that_the_grids_do_not_come_from_is_refused(path, latent):
    header, description, data = split(path)
    join(path, header, data, description={**description, "latent_size": latent})
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("dtype", ["F4", "F8_E4M3", "F8_E8M0", "U16", "U32", "U64", "C64", "XX", None, 3])
def test_types_that_are_not_ours_are_refused(path, dtype):
    for kind in ("values", "indices"):
        header, description, data = split(path)
        header[f"{FIRST}.{kind}"]["dtype"] = dtype
        join(path, header, data, description=description)
        refusal(path)


# --- writing --------------------------------------------------------------------------------------


def test_the_folder_is_made(tmp_path):
    save_representation(representation(), tmp_path / "a" / "b" / "motion.safetensors")
    assert_same(load_representation(tmp_path / "a" / "b" / "motion.safetensors"), representation())


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path, path):
    save_representation(representation(k=3), path)
    assert_same(load_representation(path), representation(k=3))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_others_may_read_the_file_as_far_as_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        save_representation(representation(), tmp_path / "motion.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "motion.safetensors").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["replace", "write"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, path, monkeypatch, function, error):
    before = path.read_bytes()

    def fail(*_):
        raise error

    class Full(io.FileIO):
        def write(self, content):
            super().write(content[:10])
            fail()

    if function == "replace":
        monkeypatch.setattr("os.replace", fail)
    else:
        monkeypatch.setattr(serialization.Path, "open", lambda target, mode: Full(target, mode))
    with pytest.raises(type(error)):
        save_representation(representation(k=2), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_place_of_the_file_is_left_alone(tmp_path):
    target = tmp_path / "motion.safetensors"
    target.mkdir()
    with pytest.raises(OSError):
        save_representation(representation(), target)
    assert list(tmp_path.iterdir()) == [target]
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "indices", "message"),
    [
        (with_entry(SOUND.values, math.nan), SOUND.indices, "not numbers"),
        (SOUND.values.float(), SOUND.indices, "torch.float32"),
        (SOUND.values, with_entry(SOUND.indices, 4), "outside its 4 frames"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, values, indices, message):
    motion = MotionRepresentation.whole({FIRST: TapRepresentation(values, indices, SOUND.grid)}, (4, 6))
    with pytest.raises(ValueError, match=message):
        save_representation(motion, tmp_path / "motion.safetensors")
    assert list(tmp_path.iterdir()) == []


# --- numbering ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "stem", "expected"),
    [
        ([], "dance", "dance_00001.safetensors"),
        ([], "dance.safetensors", "dance_00001.safetensors"),
        (["dance_00001"], "dance", "dance_00002.safetensors"),
        (["dance_00001", "dance_00003"], "dance", "dance_00002.safetensors"),
        (["dance_00002"], "dance", "dance_00001.safetensors"),
        (["dance", "dance_1", "dances_00001", "other_00001"], "dance", "dance_00001.safetensors"),
        (["a.b_00001"], "a.b", "a.b_00002.safetensors"),
        (["[x]_00001"], "[x]", "[x]_00002.safetensors"),
        ([f"dance_{number:05d}" for number in range(1, 100)], "dance", "dance_00100.safetensors"),
    ],
)
def test_the_first_free_number(tmp_path, taken, stem, expected):
    for name in taken:
        (tmp_path / f"{name}.safetensors").touch()
    assert next_free(tmp_path / stem) == tmp_path / expected


def test_numbers_go_beyond_five_digits(tmp_path, monkeypatch):
    names = {f"dance_{number:05d}.safetensors" for number in range(1, 100_000)}
    monkeypatch.setattr(serialization.Path, "glob", lambda *_: (tmp_path / name for name in names))
    assert next_free(tmp_path / "dance").name == "dance_100000.safetensors"


def test_a_folder_that_is_not_there_has_nothing_taken(tmp_path):
    assert next_free(tmp_path / "new" / "dance") == tmp_path / "new" / "dance_00001.safetensors"
    assert not (tmp_path / "new").exists()


def test_a_folder_of_that_name_is_taken(tmp_path):
    (tmp_path / "dance_00001.safetensors").mkdir()
    assert next_free(tmp_path / "dance").name == "dance_00002.safetensors"


def test_how_many_frames_a_latent_frame_is_comes_back(tmp_path):
    saved = representation(group=4, names=("blocks.2.attention", "blocks.10.attention"))
    save_representation(saved, tmp_path / "grouped.safetensors")
    loaded = load_representation(tmp_path / "grouped.safetensors")
    assert_same(loaded, saved)
    assert list(loaded.taps) == ["blocks.2.attention", "blocks.10.attention"]
    assert loaded.provenance.group == 4
