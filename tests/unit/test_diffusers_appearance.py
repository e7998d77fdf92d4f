"""Semantic guidance in diffusers, on a UNetMotionModel of 0.2 million random weights in float64.

Shapes used here:
    f   frames      p   positions of a layer      l   words      n   heads      c   channels of a key
"""

import math
from dataclasses import replace

import pytest
import torch

from motionclone_core.guidance import MotionGuidance
from motionclone_core.headless import extract, sample
from motionclone_core.hosts.base import UnsupportedModelError
from motionclone_core.hosts.diffusers_animatediff import DiffusersAnimateDiff
from motionclone_core.schedule import GuidanceWindow, alphas_cumprod
from motionclone_core.semantics import Semantics, Words
from tiny_unet import tiny_unet

FRAMES, SIZE, TIMESTEPS, CFG = 4, 8, (999, 800, 500), 3.0
CAT = Words("a cat", ("cat",), (1, 2))
WEIGHTS = {"up_blocks.1": 4000.0}


@pytest.fixture(scope="module")
def host():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = tiny_unet(
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        )
        # Fresh attention is all but uniform: sharpen it, so that masks and an energy have something to say.
        for name, parameter in made.named_parameters():
            if "to_q" in name or "to_k" in name:
                parameter.data.mul_(6)
    return DiffusersAnimateDiff(made.double().eval())


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NOISE, TEXT, NULL = draw(1, 4, FRAMES, SIZE, SIZE, seed=2), draw(1, 3, 8, seed=3), draw(1, 3, 8, seed=4)


@pytest.fixture(scope="module")
def motion(host):
    return extract(host, draw(1, 4, FRAMES, SIZE, SIZE, seed=1), TEXT, blocks="up_blocks.1", words=(1,))


def guidance(motion, **changes):
    window = GuidanceWindow(0, 3, warm_up=0, cool_down=0)
    return MotionGuidance(motion, 50.0, window, semantics=Semantics(CAT, WEIGHTS, alone=0.0), **changes)


def denoise(host, noise, guide=None, timesteps=TIMESTEPS):
    kept = []
    sample(host, noise, TEXT, NULL, timesteps=timesteps, cfg=CFG, guide=guide, on_step=lambda *at: kept.append(at))
    return kept


def sigma(timestep):
    abar = float(alphas_cumprod()[timestep])
    return math.sqrt((1 - abar) / abar)


def watched(host, z, timestep):
    """Keys of every tap [p, f, c], and attention to the words [f, p], of one conditional call."""
    keys, found, hooks = {}, [], []
    attn2 = [m for name, m in host.unet.up_blocks[1].attentions.named_modules() if name.endswith("attn2")]

    def hold(store):
        return lambda module, arguments, output: store.append(output)

    queries, texts = [], []
    for layer in attn2:
        hooks += [layer.to_q.register_forward_hook(hold(queries)), layer.to_k.register_forward_hook(hold(texts))]
    for name, site in host.sites.items():
        hooks.append(site.to_k.register_forward_hook(hold(keys.setdefault(name, []))))
    try:
        with torch.set_grad_enabled(z.requires_grad):
            host.predict(z, timestep, TEXT)
    finally:
        for hook in hooks:
            hook.remove()
    for q, k in zip(queries, texts, strict=True):
        q, k = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (q, k))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        found.append(scores[..., list(CAT.tokens)].mean(-1).mean(1))
    return {name: one for name, (one,) in keys.items()}, torch.stack(found).mean(0)


def semantic_energy_by_hand(host, guided, unguided, motion, timestep):
    """Over the layers of up_blocks.1, as the first version writes it."""
    keys, _ = watched(host, guided, timestep)
    target, attention = watched(host, unguided, timestep)
    low, high = attention.min(1, keepdim=True).values, attention.max(1, keepdim=True).values
    new = ((attention - low) / (high - low + 1e-5) > 0.3).double()
    own = (motion.foreground.double().flatten(1) > 0.3).double()
    places = torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE)).double()
    middles = own @ places / own.sum(1, keepdim=True)
    around = torch.exp(-(places[None] - middles[:, None]).square().sum(-1) / 50.0)
    total = 0.0
    for name in motion.taps:
        for mine, other in ((around * own, new), ((1 - around) * (1 - own), 1 - new)):
            means = [
                torch.einsum("pfc,fp->fc", k[name], m) / (m.sum(1, keepdim=True) + 1e-5)
                for k, m in ((keys, mine), (target, other))
            ]
            total = total + (means[0] - means[1].detach()).square().mean() / len(motion.taps)
    return 4000.0 * total


def test_the_second_step_is_held_against_where_an_unguided_run_is(host, motion):
    both, semantics = guidance(motion), guidance(motion).semantics
    without = replace(both, semantics=None)
    (first, denoised, _), (second, _, gradient), _ = denoise(host, NOISE, both)
    (_, plain, _), *_ = denoise(host, NOISE)
    at = []
    for clean in (denoised, plain):
        x = NOISE * math.sqrt(1 + first.sigma**2)
        x = x + (x - clean) / first.sigma * (second.sigma - first.sigma)
        at.append(x / math.sqrt(1 + second.sigma**2))
    x = (at[0] * math.sqrt(1 + second.sigma**2)).requires_grad_()
    energy = semantic_energy_by_hand(host, x / math.sqrt(1 + second.sigma**2), at[1], motion, 800)
    (expected,) = torch.autograd.grad(energy, x)
    bare = denoise(host, at[0], without, timesteps=(800, 500))[0][2]
    got = 50.0 * (gradient.value - bare.value).unflatten(0, (1, FRAMES)).transpose(1, 2)
    assert semantics.active and expected.norm() > 0.1 * bare.value.norm()
    # Masks are float32.
    assert (got - expected).norm() < 1e-5 * expected.norm()


def test_semantics_of_weight_0_sample_no_second_clip(host, motion, monkeypatch):
    calls = []
    original = host.predict
    monkeypatch.setattr(host, "predict", lambda *given: calls.append(len(given[0])) or original(*given))
    off = replace(guidance(motion), semantics=Semantics(CAT, {"up_blocks.1": 0.0}))
    results = []
    for guide in (replace(off, semantics=None), off):
        calls.clear()
        results.append((denoise(host, NOISE, guide)[-1][1], tuple(calls)))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_the_unguided_clip_ends_with_the_last_guided_step(host, motion, monkeypatch):
    calls = []
    original = host.predict
    monkeypatch.setattr(host, "predict", lambda *given: calls.append(given[1]) or original(*given))
    denoise(host, NOISE, replace(guidance(motion), window=GuidanceWindow(0, 1, 0, 0)))
    # Apart: conditional and unconditional, twice in the guided step; together in the others.
    assert [calls.count(timestep) for timestep in TIMESTEPS] == [4, 1, 1]


def test_words_of_a_reference_lie_where_its_cross_attention_says(host):
    latent = draw(1, 4, FRAMES, SIZE, SIZE, seed=1)
    made = extract(host, latent, TEXT, blocks="up_blocks.1", words=CAT.tokens, inverted=NOISE, t_alpha=500)
    _, attention = watched(host, NOISE, 500)
    low, high = attention.min(1, keepdim=True).values, attention.max(1, keepdim=True).values
    expected = ((attention - low) / (high - low + 1e-5)).unflatten(1, (SIZE, SIZE))
    assert expected.std() > 0.1
    torch.testing.assert_close(made.foreground.double(), expected, atol=1e-3, rtol=0)


def test_several_clips_and_windows_are_named(host, motion):
    with pytest.raises(ValueError, match="one clip at a time, got 2"):
        denoise(host, NOISE.expand(2, -1, -1, -1, -1), guidance(motion))
    with pytest.raises(ValueError, match="sees whole, not in 2 windows"):
        extract(host, NOISE, TEXT, blocks="up_blocks.1", words=(1,), windows=[(0, 1, 2), (1, 2, 3)])


def test_a_network_without_cross_attention_there_is_named(motion):
    host = DiffusersAnimateDiff(tiny_unet().double().eval())
    with pytest.raises(UnsupportedModelError, match=r"no cross-attention in up_blocks\.1"):
        extract(host, NOISE, TEXT, blocks="up_blocks.1", words=(1,))
