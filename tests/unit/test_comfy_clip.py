"""Text and frames compared by tiny towers whose answers are known; and towers that cannot be compared."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from motionclone_core.hosts import comfy_clip
from motionclone_core.hosts.comfy_clip import clip_consistency, clip_score, image_embeddings, text_embedding
from motionclone_core.score import ClipScore

WIDTH = 6
FILE = "openai/clip-vit-large-patch14"


def learned(width, seed=0):
    return torch.randn(width, width, generator=torch.Generator().manual_seed(seed))


class Vision:
    """Frames in, the means of their colours through a matrix out."""

    def __init__(self, width=WIDTH, projection=True):
        self.matrix = learned(width, seed=5)[:3]
        projected = SimpleNamespace(weight=learned(width)) if projection else torch.nn.Identity()
        self.model = SimpleNamespace(visual_projection=projected)
        self.chunks = []

    def encode_image(self, images):
        self.chunks.append(len(images))
        return {"image_embeds": images.mean(dim=(1, 2)) @ self.matrix}


class Tower:
    """Pools the sum of its tokens; projects it only if it is told to, as Stable Diffusion's does not."""

    def __init__(self, weight):
        self.transformer = SimpleNamespace(text_projection=SimpleNamespace(weight=weight))
        self.options = {}
        self.seen = []

    def set_clip_options(self, options):
        self.options |= options

    def encode_token_weights(self, sections):
        self.seen.append(sections)
        weight = self.transformer.text_projection.weight
        pooled = torch.full((1, len(weight)), float(sum(token for token, _ in sections[0])))
        return None, pooled @ weight.T if self.options.get("projected_pooled") else pooled


class Clip:
    def __init__(self, loaded=None, **weights):
        towers = {f"clip_{name}": Tower(weight) for name, weight in weights.items()}
        self.cond_stage_model = SimpleNamespace(**towers, reset_clip_options=self.reset)
        self.towers = towers.values()
        self.names = weights
        self.patcher = SimpleNamespace(load_device="cpu", cached_patcher_init=loaded)

    def tokenize(self, text):
        ids = [(len(word), 1.2) for word in text.split()]
        sections = [ids[i : i + 4] for i in range(0, len(ids), 4)]
        return dict.fromkeys(self.names, sections) | {"t5xxl": sections}

    def load_model(self):
        self.loaded = True

    def reset(self):
        for tower in self.towers:
            tower.options = {}


def frames(count=5):
    return torch.rand(count, 4, 6, 3, generator=torch.Generator().manual_seed(1))


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


def test_both_measures_follow_their_formulas():
    vision, clip, images = Vision(), Clip(l=learned(WIDTH)), frames()
    score = clip_score(images, clip=clip, clip_vision=vision, prompt="a boat")
    seen = unit(images.mean(dim=(1, 2)) @ vision.matrix)
    text = unit(torch.full((WIDTH,), 5.0) @ learned(WIDTH).T)
    assert score.textual_alignment == pytest.approx(sum(float(one @ text) for one in seen) / 5, abs=1e-6)
    neighbours = [float(seen[i] @ seen[i + 1]) for i in range(4)]
    assert score.consistency == pytest.approx(sum(neighbours) / 4, abs=1e-6)
    assert all(tower.options == {} for tower in clip.towers)


def test_a_frozen_video_is_consistent():
    assert clip_consistency(image_embeddings(Vision(), frames()[:1].repeat(3, 1, 1, 1))) == pytest.approx(1, abs=1e-6)


def test_frames_go_through_in_chunks_without_their_fourth_channel(monkeypatch):
    monkeypatch.setattr(comfy_clip, "CHUNK", 2)
    vision, images = Vision(), frames()
    whole = image_embeddings(vision, torch.cat([images, torch.rand(5, 4, 6, 1)], dim=-1))
    assert vision.chunks == [2, 2, 1]
    torch.testing.assert_close(whole, unit(images.mean(dim=(1, 2)) @ vision.matrix))


def test_the_tower_that_is_as_wide_as_the_frames_is_taken():
    weights = {"l": learned(4, seed=1), "g": learned(WIDTH, seed=2)}
    text = text_embedding(Clip(**weights), "a boat", width=WIDTH)
    torch.testing.assert_close(text.vector, unit(torch.full((WIDTH,), 5.0) @ weights["g"].T))


def test_of_a_long_prompt_the_first_section_counts_without_weights():
    clip = Clip(l=learned(WIDTH))
    text = text_embedding(clip, "one two three four five", width=WIDTH)
    (tower,) = clip.towers
    assert tower.seen == [[[(3, 1.0), (3, 1.0), (5, 1.0), (4, 1.0)]]]
    assert not text.whole and text.tokens == 4
    score = clip_score(frames(), clip=clip, clip_vision=Vision(), prompt="one two three four five")
    assert "CLIP reads 4 tokens: only the beginning of the prompt counts." in score.notes


UNLOADED = {
    "nothing": torch.zeros(WIDTH, WIDTH),
    "a stand-in": torch.eye(WIDTH),
    "huge": learned(WIDTH) * 1e6,
    "not finite": learned(WIDTH).fill_diagonal_(torch.nan),
}


@pytest.mark.parametrize("weight", UNLOADED.values(), ids=UNLOADED)
def test_a_projection_that_was_not_loaded_is_refused(weight):
    with pytest.raises(ValueError, match=f"without their text projection.*{FILE}"):
        text_embedding(Clip(l=weight), "a boat", width=WIDTH)


def test_an_unloaded_tower_leaves_the_other_one():
    with pytest.raises(ValueError, match="the text's embedding has 4 numbers, the frames' have 6"):
        text_embedding(Clip(l=UNLOADED["nothing"], g=learned(4)), "a boat", width=WIDTH)


@pytest.mark.parametrize(("key", "width", "holds"), [
    ("text_projection.weight", WIDTH, True),
    ("conditioner.embedders.1.model.text_projection", WIDTH, True),
    ("conditioner.embedders.1.model.text_projection", 8, False),
    ("text_model.final_layer_norm.weight", WIDTH, False),
])  # fmt: skip
def test_the_file_says_whether_it_holds_the_projection(tmp_path, key, width, holds):
    path = tmp_path / "clip.safetensors"
    save_file({key: learned(width)}, path)
    # What was in memory looks learned.
    for loaded in ((None, ([str(path)], None)), (None, (str(path), None))):
        clip = Clip(loaded, l=learned(WIDTH))
        if holds:
            assert text_embedding(clip, "a boat", width=WIDTH).whole
        else:
            with pytest.raises(ValueError, match="without their text projection"):
                text_embedding(clip, "a boat", width=WIDTH)


def test_a_file_that_is_gone_or_of_another_kind_says_nothing(tmp_path):
    for name in ("gone.safetensors", "clip.pt"):
        clip = Clip((None, ([str(tmp_path / name)], None)), l=learned(WIDTH))
        assert text_embedding(clip, "a boat", width=WIDTH).whole


def test_encoders_that_are_no_clip_are_refused():
    with pytest.raises(ValueError, match="no text tower of CLIP"):
        text_embedding(Clip(), "a boat", width=WIDTH)
    with pytest.raises(ValueError, match="this vision model has no projection"):
        image_embeddings(Vision(projection=False), frames())


def test_widths_that_differ_are_refused_with_both():
    with pytest.raises(ValueError, match="the text's embedding has 6 numbers, the frames' have 9"):
        clip_score(frames(), clip=Clip(l=learned(WIDTH)), clip_vision=Vision(9), prompt="a boat")


def test_embeddings_that_are_not_finite_are_counted():
    vision, images = Vision(), frames()
    vision.encode_image = lambda chunk: {"image_embeds": torch.tensor([[1.0, torch.nan], [1.0, 0.0], [0.0, 0.0]])}
    with pytest.raises(ValueError, match="2 of 3 embeddings of CLIP are not finite or 0"):
        image_embeddings(vision, images)


def test_the_tower_is_set_back_after_an_error(monkeypatch):
    clip = Clip(l=learned(WIDTH))
    monkeypatch.setattr(Tower, "encode_token_weights", lambda self, sections: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        text_embedding(clip, "a boat", width=WIDTH)
    assert all(tower.options == {} for tower in clip.towers)


def test_what_is_not_connected():
    assert clip_score(frames()) == clip_score(frames(), prompt="a boat") == ClipScore()
    alone = clip_score(frames(), clip_vision=Vision(), prompt="a boat")
    assert alone.textual_alignment is None and alone.consistency is not None
    with pytest.raises(ValueError, match="clip is connected and clip_vision is not"):
        clip_score(frames(), clip=Clip(l=learned(WIDTH)), prompt="a boat")
    with pytest.raises(ValueError, match="the prompt is empty"):
        clip_score(frames(), clip=Clip(l=learned(WIDTH)), clip_vision=Vision(), prompt="  ")
