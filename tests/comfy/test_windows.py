"""Sliding context windows: each is guided by its own part of the motion, and gradients are fused as predictions are."""

from __future__ import annotations

import numpy as np
import pytest
from test_gradient import ALONE, SIGMA, SIGMA_NEXT, relative_error

from scenes import SCALE, Studio, only

# The weights of AnimateDiff-Evolved's pyramid for windows of four frames, and the windows of six frames.
PYRAMID = np.array([1.0, 2.0, 2.0, 1.0])
WINDOWS = ([0, 1, 2, 3], [2, 3, 4, 5])


def fused(shape: tuple[int, ...], gradients: list[np.ndarray]) -> np.ndarray:
    """Gradients of `WINDOWS`, fused by a pyramid."""
    total, weights = np.zeros(shape), np.zeros((6, 1, 1, 1))
    for window, gradient in zip(WINDOWS, gradients, strict=True):
        apart = [frame for frame in range(6) if frame not in window]
        assert not gradient[apart].any() and gradient[window].any(axis=(1, 2, 3)).all()
        total[window] += PYRAMID[:, None, None, None] * gradient[window]
        weights[window] += PYRAMID[:, None, None, None]
    return total / weights


@pytest.mark.more
def test_one_window_over_all_frames_is_no_window(studio: Studio) -> None:
    scene = studio.scene()
    model = scene.sliding(scene.frames, 1, use_on_equal_length=True)
    whole = scene.ksampler(scene.guided(scene.extracted()))
    window = scene.ksampler(scene.guided(scene.extracted(model=model), model=model))
    crossed = scene.ksampler(scene.guided(scene.extracted(), model=model))
    free, one, two, three = studio.latents(scene, free=scene.ksampler(scene.model), a=whole, b=window, c=crossed)
    assert np.array_equal(one, two) and np.array_equal(one, three)
    assert not np.array_equal(free, one)


def test_overlapping_windows_fuse_gradients_as_they_fuse_predictions(studio: Studio) -> None:
    scene = studio.scene(frames=6)
    model = scene.sliding(4, 2, fuse_method="pyramid")
    rep = scene.extracted(model=model)
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    plain = scene.custom(model, sigmas, **ALONE)
    guided = scene.custom(scene.guided(rep, model=model, weight=2000.0), sigmas, **ALONE)
    literal = [scene.gradient(f"gradient {i}", rep, SIGMA, model=model, window=i) for i in range(2)]
    nodes = scene.save("plain", plain), scene.save("guided", guided), *literal
    before, after, *gradients = studio.saved(studio.run(scene), *nodes)
    wanted = -SIGMA_NEXT * 2000.0 * SIGMA * fused(before.shape, gradients)
    assert relative_error((after - before) * SCALE, wanted) < 1e-3


@pytest.mark.more
def test_a_long_motion_is_saved_and_loaded(studio: Studio) -> None:
    scene = studio.scene(frames=6)
    model = scene.sliding(4, 2)
    rep = scene.extracted(model=model)
    save = scene.graph.add("MotionCloneSaveMotionRep", motion_rep=rep, filename_prefix="long", folder="output")
    kept = scene.save("made", scene.ksampler(scene.guided(rep, model=model)))
    result = studio.run(scene)
    (made,) = studio.saved(result, kept)
    scene = studio.scene(frames=6)
    model = scene.sliding(4, 2)
    loaded = scene.graph.add("MotionCloneLoadMotionRep", file=only(result, save, "text").split(":")[0])
    (again,) = studio.latents(scene, again=scene.ksampler(scene.guided(loaded, model=model)))
    assert np.array_equal(made, again)


@pytest.mark.more
def test_views_are_read_and_guided_one_by_one_within_a_call(studio: Studio) -> None:
    scene = studio.scene(frames=6)
    model = scene.viewed(scene.views(4, 2))
    rep = scene.extracted(model=model)
    seen = scene.graph.add("MotionCloneProbeRep", motion_rep=rep)
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    plain = scene.custom(model, sigmas, **ALONE)
    guided = scene.custom(scene.guided(rep, model=model, weight=2000.0), sigmas, **ALONE)
    literal = [scene.gradient(f"gradient {i}", rep, SIGMA, model=model, window=i) for i in range(2)]
    nodes = scene.save("plain", plain), scene.save("guided", guided), *literal
    result = studio.run(scene)
    before, after, *gradients = studio.saved(result, *nodes)
    assert only(result, seen, "rep")["windows"] == [*WINDOWS]
    assert all(gradient.any(axis=(1, 2, 3)).all() for gradient in gradients), "every frame hangs on every view"
    wanted = -SIGMA_NEXT * 2000.0 * SIGMA * sum(gradients) / 2
    assert relative_error((after - before) * SCALE, wanted) < 1e-3


@pytest.mark.more
def test_views_in_windows_that_move_are_read_wherever_they_come_to_stand(studio: Studio) -> None:
    scene = studio.scene(frames=8)
    views = scene.views(4, 2, kind="LoopedUniform", view_stride=1, closed_loop=False)
    model = scene.sliding(6, 4, view_opts=views)
    rep = scene.extracted(model=model)
    seen = scene.graph.add("MotionCloneProbeRep", motion_rep=rep)
    made = scene.custom(scene.guided(rep, model=model, guided_steps=3), scene.falling(12.0, 9.0, 6.0, 4.0), **ALONE)
    scene.save("made", made)
    result = studio.run(scene)
    windows = {tuple(window) for window in only(result, seen, "rep")["windows"]}
    assert windows == {tuple(first + (start + i) % 6 for i in range(4)) for first in (0, 2) for start in range(6)}
    assert "guided steps: 3" in result.log


@pytest.mark.more
def test_windows_that_move_are_read_wherever_they_come_to_stand(studio: Studio) -> None:
    scene = studio.scene(frames=6)
    model = scene.sliding(4, 2, kind="LoopedUniform", context_stride=1, closed_loop=False, fuse_method="pyramid")
    rep = scene.extracted(model=model)
    seen = scene.graph.add("MotionCloneProbeRep", motion_rep=rep)
    guided = scene.guided(rep, model=model, weight=2000.0, guided_steps=3)
    first = scene.custom(guided, scene.falling(SIGMA, SIGMA_NEXT), **ALONE)
    plain = scene.custom(model, scene.falling(SIGMA, SIGMA_NEXT), **ALONE)
    moving = scene.custom(guided, scene.falling(SIGMA, SIGMA_NEXT, 6.0, 4.0), **ALONE)
    literal = [scene.gradient(f"gradient {i}", rep, SIGMA, model=model, window=i) for i in range(2)]
    nodes = scene.save("plain", plain), scene.save("first", first), scene.save("moving", moving), *literal
    result = studio.run(scene)
    before, after, _, *gradients = studio.saved(result, *nodes)
    # At every step it begins elsewhere and goes around the end.
    windows = {tuple(window) for window in only(result, seen, "rep")["windows"]}
    assert windows == {tuple((start + i) % 6 for i in range(4)) for start in range(6)}
    wanted = -SIGMA_NEXT * 2000.0 * SIGMA * fused(before.shape, gradients)
    assert relative_error((after - before) * SCALE, wanted) < 1e-3
    assert "guided steps: 3" in result.log


@pytest.mark.more
@pytest.mark.parametrize("fuse_method", ["overlap-linear", "🔬random"])
def test_every_way_to_fuse_predictions_fuses_gradients(studio: Studio, fuse_method: str) -> None:
    """With windows of one motion alike, whatever weighs them: gradients of all frames, and a lower energy."""
    scene = studio.scene(frames=6)
    model = scene.sliding(4, 2, fuse_method=fuse_method)
    rep = scene.extracted(model=model)
    sigmas = scene.falling(SIGMA, SIGMA_NEXT)
    plain, guided = (scene.custom(m, sigmas, **ALONE) for m in (model, scene.guided(rep, model=model, weight=2000.0)))
    before, after = studio.latents(scene, plain=plain, guided=guided)
    assert np.isfinite(after).all() and (np.abs(after - before).max(axis=(1, 2, 3)) > 1e-3).all()
