"""A motion read at several noise levels: which reading guides, and what it shares with a single one."""

from dataclasses import replace

import pytest
import torch

from motionclone_core.editing import masked, retimed
from motionclone_core.grids import Crop
from motionclone_core.guidance import MotionGuidance
from motionclone_core.hosts.base import View
from motionclone_core.mixing import Motion, MotionPart, edited
from motionclone_core.representation import MotionRepresentation, Provenance, TapRepresentation
from motionclone_core.serialization import load_representation, save_representation
from motionclone_core.series import MotionSeries
from motionclone_core.visualisation.preview import preview
from toy_host import TAPS

FRAMES = 4


def reading(timestep, *, frames=FRAMES, taps=TAPS[1:2], architecture="toy/1"):
    generator = torch.Generator().manual_seed(timestep)
    values = torch.rand(16, 2, frames, 1, generator=generator).half()
    tap = TapRepresentation(values, torch.zeros(16, 2, frames, 1, dtype=torch.uint8), (4, 4))
    provenance = Provenance(architecture=architecture, t_alpha=timestep)
    return MotionRepresentation.whole(dict.fromkeys(taps, tap), (8, 8), provenance)


def series(*timesteps):
    return MotionSeries(tuple(map(reading, timesteps)))


@pytest.mark.parametrize(("timestep", "expected"), [(0, 100), (299.0, 100), (301.0, 500), (744.0, 500), (999.0, 990)])
def test_the_nearest_reading_is_taken(timestep, expected):
    assert series(100, 500, 990).at(timestep).provenance.t_alpha == expected


def test_every_step_is_held_against_the_reading_nearest_to_it():
    guide = MotionGuidance(Motion((MotionPart(series(100, 900)), MotionPart(reading(400)))))
    for timestep, expected in ((120.0, 100), (880.0, 900)):
        view = View((tuple(range(FRAMES)),), [Crop(0, 0, 8, 8)], (8, 8), timestep=timestep)
        ((one, other),) = guide.targets(view)[0][TAPS[1]]
        assert torch.equal(one.kept.values, reading(expected).taps[TAPS[1]].values)
        assert torch.equal(other.kept.values, reading(400).taps[TAPS[1]].values)


def test_it_is_checked_like_a_single_motion():
    motion = Motion.of(series(100, 500))
    assert motion.frames == FRAMES and motion.taps == (TAPS[1],)
    with pytest.raises(ValueError, match="motion 1 has 4 frames and motion 2 has 5"):
        Motion((MotionPart(series(100, 500)), MotionPart(reading(3, frames=5))))


def test_the_middle_reading_stands_for_all():
    assert series(0, 400, 480, 999).middle.provenance.t_alpha == 480
    assert Motion.of(series(0, 480, 999)).at(None).representations[0].provenance.t_alpha == 480
    assert Motion.of(series(0, 480, 999)).at(990.0).representations[0].provenance.t_alpha == 999


def test_an_edit_is_made_to_every_reading():
    turned = edited(series(100, 500), lambda one: retimed(one, [3, 2, 1, 0]))
    assert isinstance(turned, MotionSeries)
    assert [one.timing for one in turned.readings] == [(3, 2, 1, 0)] * 2
    mix = Motion((MotionPart(series(100, 500), 0.5),))
    assert edited(mix, lambda one: retimed(one, [0, 0, 1, 1])).parts[0].representation.frames == 4


@pytest.mark.parametrize("masks", [False, True])
def test_it_comes_back_from_its_file(tmp_path, masks):
    motion, path = series(100, 500, 990), tmp_path / "series.safetensors"
    if masks:
        motion = motion.edited(lambda one: masked(one, torch.eye(8)[None]))
    save_representation(motion, path)
    found = load_representation(path)
    assert isinstance(found, MotionSeries) and found.timesteps == motion.timesteps
    for one, other in zip(found.readings, motion.readings, strict=True):
        assert torch.equal(one.taps[TAPS[1]].values, other.taps[TAPS[1]].values)
        assert one.provenance == other.provenance and one.timing == other.timing and one.frame == other.frame
        assert masks == (one.mask is not None)
        assert not masks or torch.equal(one.mask, other.mask.half())


def test_a_chosen_reading_is_shown():
    motion = series(100, 500)
    shown = [preview(motion, timestep=timestep).heat for timestep in (0, 999)]
    alone = [preview(reading(timestep)).heat for timestep in (100, 500)]
    assert all((one == other).all() for one, other in zip(shown, alone, strict=True))
    assert (shown[0] != shown[1]).any()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (reading(500, frames=5), "timesteps 100 and 500 differ in their windows"),
        (reading(500, taps=TAPS[2:3]), "differ in their layers"),
        (reading(500, architecture="toy/2"), "differ in their model"),
        (retimed(reading(500), [0, 0, 1, 1]), "differ in their timing"),
        (replace(reading(500), mask=torch.ones(1, 8, 8)), "differ in their mask"),
    ],
)
def test_readings_that_differ_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        MotionSeries((reading(100), other))


@pytest.mark.parametrize("timesteps", [(), (500, 100), (100, 100)])
def test_timesteps_that_do_not_rise_are_refused(timesteps):
    with pytest.raises(ValueError, match=r"at least 1|rise"):
        series(*timesteps)
