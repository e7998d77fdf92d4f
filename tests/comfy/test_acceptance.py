"""A guided run from a video file to frames, and what must not change without guidance or from queue to queue."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from draw_clip import draw_clip
from scenes import Studio, only, sigma_of


def test_a_video_file_becomes_guided_frames(studio: Studio, tmp_path: Path) -> None:
    frames, steps = 4, {"steps": 4, "guided_steps": 3, "ratio": 0.2}
    video = studio.server.add_input(draw_clip(tmp_path / "reference.mp4", 24, (96, 80)))
    scene = studio.scene(frames=frames)
    size = {"width": scene.width, "height": scene.height}
    part = {"start": 0.0, "length": 0.0, "frames": frames}
    reference = scene.graph.add("MotionCloneLoadReferenceVideo", video=video, **part, **size)
    rep = scene.extracted(images=reference[0], vae=scene.checkpoint[2])
    pictures = scene.graph.add(
        "VAEDecode", samples=scene.guided_ksampler(rep, **steps), vae=scene.checkpoint[2]
    )
    saved = scene.graph.add("SaveImage", images=pictures, filename_prefix="frame")

    sigmas = scene.graph.add("MotionCloneScheduler", model=scene.model, **steps)
    guided_phase = scene.graph.add("SplitSigmas", sigmas=sigmas, step=3)
    ends = [scene.custom(model, guided_phase) for model in (scene.guided(rep, guided_steps=3), scene.model)]
    # Four steps, three of them in the noisiest 0.2: 999, 900, 800, and then 799.
    energies = [scene.energy(rep, end, sigma_of(799)) for end in ends]
    result = studio.run(scene)

    files = result.output(saved)["images"]
    shown = [np.asarray(Image.open(io.BytesIO(studio.server.view(file)))) for file in files]
    assert [picture.shape for picture in shown] == [(scene.height, scene.width, 3)] * frames
    assert all(picture.std() > 0 for picture in shown)
    with_guidance, without = (only(result, energy, "energy") for energy in energies)
    assert with_guidance < 0.9 * without


def test_weight_zero_and_no_guided_steps_are_no_guidance(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    models = {
        "plain": scene.model,
        "weight_0": scene.guided(rep, weight=0.0),
        "no_steps": scene.guided(rep, guided_steps=0),
        "guided": scene.guided(rep),
    }
    plain, weight_0, no_steps, guided = studio.latents(
        scene, **{name: scene.ksampler(model) for name, model in models.items()}
    )
    assert np.array_equal(weight_0, plain)
    assert np.array_equal(no_steps, plain)
    assert np.abs(guided - plain).max() > 0.01 * np.abs(plain).max()


def test_every_queue_gives_the_same(studio: Studio) -> None:
    def queue() -> np.ndarray:
        scene = studio.scene(fresh=True)
        (latent,) = studio.latents(scene, guided=scene.ksampler(scene.guided(scene.extracted())))
        return latent

    first, second = queue(), queue()
    assert np.array_equal(second, first)
    studio.server.free()
    third = queue()  # with models loaded anew, and a representation extracted anew
    assert np.array_equal(third, first)


def test_a_guided_model_is_extracted_from_as_if_it_were_not(studio: Studio) -> None:
    scene = studio.scene()
    rep = scene.extracted()
    again = scene.extracted(model=scene.guided(rep))
    first, second = (scene.graph.add("MotionCloneProbeRep", motion_rep=r) for r in (rep, again))
    result = studio.run(scene)
    one, other = (only(result, node, "rep") for node in (first, second))
    assert one == other
    assert one["taps"] == [f"up_blocks.1.motion.{m}.attention.{n}" for m in range(3) for n in range(2)]
    # 64 pixels are 8 cells of the latent, halved twice down to up_blocks.1; 8 heads, 4 frames, k = 1.
    assert (one["shape"], one["latent_size"]) == ([2 * 2, 8, 4, 1], [8, 8])
