"""What is broken on the way in: said in the log or in the error, and over when the next graph is queued."""

from __future__ import annotations

import numpy as np
import pytest
from test_bad_input import message

from scenes import Studio


def test_a_model_whose_weights_are_no_numbers_is_not_extracted_from(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    broken = scene.graph.add("MotionCloneProbeDamage", model=scene.model)
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(model=broken))
    assert "holds values that are not numbers" in message(studio, scene)


def test_a_model_whose_weights_are_no_numbers_goes_unguided_and_the_next_is_guided(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    rep = scene.extracted()
    broken = scene.graph.add("MotionCloneProbeDamage", model=scene.model)
    before = studio.latents(scene, guided=scene.ksampler(scene.guided(rep)))[0]
    bad = scene.save("bad", scene.ksampler(scene.guided(rep, model=broken)))
    result = studio.run(scene)
    assert np.isnan(studio.saved(result, bad)[0]).all()
    assert "step 0 goes unguided: the model gives values that are not numbers" in result.log
    assert "guided steps: 0, left unguided, as their gradient or push was not finite: 1" in result.log
    scene = studio.scene(fresh=True)
    after = studio.latents(scene, guided=scene.ksampler(scene.guided(scene.extracted())))[0]
    assert np.array_equal(before, after)


@pytest.mark.more
def test_a_reference_of_zeros_is_a_motion(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted(latent=scene.latent)
    free, guided = studio.latents(scene, free=scene.ksampler(scene.model), guided=scene.ksampler(scene.guided(rep)))
    assert np.isfinite(guided).all() and not np.array_equal(free, guided)


@pytest.mark.more
def test_a_representation_of_another_precision_guides_alike(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    wide = scene.graph.add("MotionCloneProbeForeignRep", motion_rep=rep, other="dtype")
    stored, double = studio.latents(
        scene, stored=scene.ksampler(scene.guided(rep)), wide=scene.ksampler(scene.guided(wide))
    )
    assert np.array_equal(stored, double)
