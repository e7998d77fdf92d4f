"""The diffusers host, on a UNetMotionModel of 0.2 million random weights in float64."""

import math

import pytest
import torch
from einops import rearrange

from motionclone_core.attention import temporal_attention
from motionclone_core.energy import sparse_energy
from motionclone_core.extraction import RepresentationBuilder
from motionclone_core.grids import RepresentationMismatchError
from motionclone_core.guidance import MotionGuidance
from motionclone_core.headless import extract
from motionclone_core.hosts.base import UnsupportedModelError
from motionclone_core.hosts.diffusers_animatediff import (
    DiffusersAnimateDiff,
    observe_reference,
    sample,
    steps_of,
)
from motionclone_core.representation import MotionRepresentation, Provenance
from motionclone_core.schedule import GuidanceWindow, alphas_cumprod, uneven_timesteps
from motionclone_core.taps import UnknownTapError
from motionclone_core.windows import sliding_windows
from tiny_unet import tiny_unet

diffusers = pytest.importorskip("diffusers")

FRAMES, SIZE = 4, 8
TIMESTEPS = uneven_timesteps(6, 4, 0.3)


@pytest.fixture(scope="module")
def unet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = tiny_unet(motion_max_seq_length=FRAMES + 2)
        # Fresh attention is all but uniform: sharpen it, so that an energy has something to say.
        for name, parameter in made.named_parameters():
            if "motion_modules" in name and ("to_q" in name or "to_k" in name):
                parameter.data.mul_(6)
    return made.double().eval()


@pytest.fixture
def host(unet):
    return DiffusersAnimateDiff(unet)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def latent():
    return draw(1, 4, FRAMES, SIZE, SIZE, seed=1)


@pytest.fixture
def noise():
    return draw(1, 4, FRAMES, SIZE, SIZE, seed=2)


@pytest.fixture
def texts():
    return draw(1, 3, 8, seed=3), draw(1, 3, 8, seed=4)


@pytest.fixture
def motion(host, latent, texts):
    return extract(host, latent, texts[1], blocks="up_blocks.1")


def guidance(motion, weight=50.0, **window):
    return MotionGuidance(motion, weight, GuidanceWindow(**{"guided_steps": 4, "warm_up": 0, "cool_down": 0} | window))


class Watcher:
    """Keeps the attention of every tap that it asks for."""

    def __init__(self, taps):
        self.taps, self.seen = tuple(taps), {}

    def observe(self, tap, q, k, heads):
        self.seen[tap] = (q, k, heads)


def test_taps_are_named_by_place_and_listed_in_the_order_of_execution(host, latent, noise, texts):
    watcher = Watcher(host.sites)
    observe_reference(host, watcher, latent=latent, noise=noise, timestep=400, text=texts[1])
    assert list(watcher.seen) == list(host.sites)
    assert len(host.sites) == (1 + 1 + 1 + 2 + 2) * 2
    assert {name.split(".motion")[0] for name in host.sites} == {
        "down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"
    }  # fmt: skip


def test_what_a_tap_hands_over_is_what_the_model_attends_with(host, unet, latent, noise, texts):
    """The model's own attention, taken from diffusers' get_attention_scores, is the independent answer."""
    name = "up_blocks.0.motion.1.attention.1"
    site, inputs = host.sites[name], []
    handle = site.register_forward_pre_hook(
        lambda _module, args, kwargs: inputs.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    watcher = Watcher([name])
    try:
        observe_reference(host, watcher, latent=latent, noise=noise, timestep=400, text=texts[1])
    finally:
        handle.remove()
    q, k, heads = watcher.seen[name]
    own = site.get_attention_scores(
        site.head_to_batch_dim(site.to_q(inputs[0])), site.head_to_batch_dim(site.to_k(inputs[0]))
    )
    ours = temporal_attention(q, k, heads)
    torch.testing.assert_close(ours.flatten(0, 1), own, rtol=1e-9, atol=1e-12)
    assert q.shape[:2] == ((SIZE // 2) ** 2, FRAMES)


def test_the_reference_is_noised_to_t_alpha(host, latent, noise, texts, unet):
    """One unobserved call of the model on the formula's z_t reads the same attention."""
    name = "down_blocks.0.motion.0.attention.0"
    watcher, by_hand = Watcher([name]), Watcher([name])
    observe_reference(host, watcher, latent=latent, noise=noise, timestep=600, text=texts[1])
    abar = float(torch.cumprod(1 - torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64), 0)[600])
    with host.observing(by_hand), torch.no_grad():
        unet(abar**0.5 * latent + (1 - abar) ** 0.5 * noise, 600, encoder_hidden_states=texts[1].repeat(FRAMES, 1, 1))
    torch.testing.assert_close(watcher.seen[name][0], by_hand.seen[name][0], rtol=1e-9, atol=1e-12)


def test_ddim_is_what_an_unguided_run_does(host, unet, noise, texts):
    """The DDIM formula, written out in z with the model called by hand."""
    z = noise
    abar = torch.from_numpy(alphas_cumprod())
    for t, t_next in zip(TIMESTEPS, [*TIMESTEPS[1:], None], strict=True):
        with torch.no_grad():
            conditional, null = (unet(z, t, encoder_hidden_states=text.repeat(FRAMES, 1, 1)).sample for text in texts)
        eps = null + 3.0 * (conditional - null)
        clean = (z - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
        after = abar[t_next] if t_next is not None else torch.ones(())
        z = after.sqrt() * clean + (1 - after).sqrt() * eps
    ours = sample(host, noise, *texts, timesteps=TIMESTEPS, cfg=3.0)
    torch.testing.assert_close(ours, z, rtol=1e-8, atol=1e-9)


def test_a_guided_step_is_the_published_one(host, unet, noise, texts, motion):
    """z_prev = sqrt(abar') z0 + sqrt(1 - abar') (eps - sqrt(1 - abar) grad_z(lambda g)), gradient by plain autograd."""
    weight, t, t_next = 50.0, 900, 500
    z = noise.clone().requires_grad_()
    watcher = Watcher(motion.taps)
    with host.observing(watcher):
        conditional = unet(z, t, encoder_hidden_states=texts[0].repeat(FRAMES, 1, 1)).sample
    attentions = {name: temporal_attention(*watcher.seen[name]) for name in motion.taps}
    energy = sum(sparse_energy(attentions[name], tap.values, tap.indices) for name, tap in motion.taps.items())
    (gradient,) = torch.autograd.grad(weight * energy, z)
    with torch.no_grad():
        null = unet(noise, t, encoder_hidden_states=texts[1].repeat(FRAMES, 1, 1)).sample
    eps = (null + 3.0 * (conditional - null)).detach()
    abar = torch.from_numpy(alphas_cumprod())
    clean = (noise - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
    push = eps - (1 - abar[t]).sqrt() * gradient
    expected = abar[t_next].sqrt() * clean + (1 - abar[t_next]).sqrt() * push
    reached = []
    guide = guidance(motion, weight, guided_steps=1)
    sample(
        host, noise, *texts, timesteps=[t, t_next], cfg=3.0, guide=guide,
        on_step=lambda step, denoised, gradient: reached.append((denoised, gradient)),
    )  # fmt: skip
    denoised, found = reached[0]
    sigma, sigma_next = (((1 - abar[s]) / abar[s]).sqrt() for s in (t, t_next))
    x = noise * (1 + sigma**2).sqrt()
    after = (x + (x - denoised) / sigma * (sigma_next - sigma)) / (1 + sigma_next**2).sqrt()
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-7)
    assert found.energies == pytest.approx([float(energy.detach())], rel=1e-9)
    unguided = abar[t_next].sqrt() * clean + (1 - abar[t_next]).sqrt() * eps
    assert (after - unguided).abs().max() > 1e-3


def test_weight_0_is_no_guidance_bit_for_bit(host, noise, texts, motion):
    plain = sample(host, noise, *texts, timesteps=TIMESTEPS)
    assert torch.equal(sample(host, noise, *texts, timesteps=TIMESTEPS, guide=guidance(motion, 0.0)), plain)
    assert not torch.equal(sample(host, noise, *texts, timesteps=TIMESTEPS, guide=guidance(motion)), plain)


def test_guidance_lowers_the_energy(host, noise, texts, motion):
    def energies(weight):
        seen = []
        sample(host, noise, *texts, timesteps=TIMESTEPS, cfg=1.0, guide=guidance(motion, weight),
               on_step=lambda step, denoised, found: seen.append(found.energies if found else ()))  # fmt: skip
        return seen

    faint, strong = energies(1e-6), energies(20.0)
    assert [len(found) for found in strong] == [1, 1, 1, 1, 0, 0]
    assert strong[0] == faint[0]
    for step in (1, 2, 3):
        assert strong[step][0] < faint[step][0]


def test_a_reference_against_itself_has_no_energy(host, latent, noise, texts):
    taps = ["up_blocks.1.motion.0.attention.0"]
    builder = RepresentationBuilder(taps, k=1, frames=FRAMES, latent_size=(SIZE, SIZE))
    watcher = Watcher(taps)
    observe_reference(host, builder.observer(), latent=latent, noise=noise, timestep=400, text=texts[1])
    observe_reference(host, watcher, latent=latent, noise=noise, timestep=400, text=texts[1])
    ((name, (q, k, heads)),) = watcher.seen.items()
    kept = builder.representation(Provenance()).taps[name]
    assert float(sparse_energy(temporal_attention(q, k, heads), kept.values, kept.indices)) < 1e-7


def test_runs_repeat_and_leave_nothing_behind(host, unet, noise, texts, motion):
    guide = guidance(motion)
    first = sample(host, noise, *texts, timesteps=TIMESTEPS, guide=guide)
    assert torch.equal(sample(host, noise, *texts, timesteps=TIMESTEPS, guide=guide), first)
    assert not any(module._forward_hooks for module in unet.modules())
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert all(parameter.requires_grad for parameter in unet.parameters())


def test_hooks_are_removed_when_the_model_fails(host, unet, noise, texts, motion):
    with pytest.raises(RuntimeError):
        sample(host, noise, texts[0][..., :5], texts[1], timesteps=TIMESTEPS, guide=guidance(motion))
    assert not any(module._forward_hooks for module in unet.modules())
    assert torch.is_grad_enabled()


def test_it_works_on_weights_made_in_inference_mode(unet, noise, texts, motion):
    expected = sample(DiffusersAnimateDiff(unet), noise, *texts, timesteps=TIMESTEPS, guide=guidance(motion))
    with torch.inference_mode():
        copy = diffusers.UNetMotionModel.from_config(unet.config).double().eval()
        copy.load_state_dict(unet.state_dict())
        for module in copy.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(parameter.clone(), requires_grad=False)
        ours = sample(DiffusersAnimateDiff(copy), noise, *texts, timesteps=TIMESTEPS, guide=guidance(motion))
    torch.testing.assert_close(ours.clone(), expected, rtol=1e-9, atol=1e-10)


def test_two_clips_in_a_batch_are_what_each_is_alone(host, texts, motion):
    noise = draw(2, 4, FRAMES, SIZE, SIZE, seed=5)
    both = sample(host, noise, *texts, timesteps=TIMESTEPS)
    for i in range(2):
        alone = sample(host, noise[i : i + 1], *texts, timesteps=TIMESTEPS)
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-8, atol=1e-9)


def test_added_noise_is_each_clips_own(host, texts):
    noise = draw(2, 4, FRAMES, SIZE, SIZE, seed=5)

    def run(clips):
        scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
        scheduler.set_timesteps(timesteps=TIMESTEPS)
        generators = [torch.Generator().manual_seed(i) for i in clips]
        return sample(
            host, noise[clips], *texts, timesteps=TIMESTEPS, scheduler=scheduler, generator=generators
        )  # fmt: skip

    both = run([0, 1])
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], run([i]), rtol=1e-6, atol=1e-7)


def test_a_half_precision_network_loses_none_of_the_gradient(unet, noise, texts, motion):
    """Beside plain autograd through the same network: state and gradient stay in float32.

    How near either is to float64 depends on how a processor adds up half numbers.
    """
    rounded = diffusers.UNetMotionModel.from_config(unet.config).eval()
    rounded.load_state_dict(unet.state_dict())
    rounded.half()
    host, scale = DiffusersAnimateDiff(rounded), 2.0**12
    texts = [text.half() for text in texts]
    z, watcher = noise.float().requires_grad_(), Watcher(motion.taps)
    with host.observing(watcher):
        rounded(z.half(), 900, encoder_hidden_states=texts[0].repeat(FRAMES, 1, 1))
    seen = {name: (q.double(), k.double(), heads) for name, (q, k, heads) in watcher.seen.items()}
    attentions = {name: temporal_attention(*seen[name]) for name in motion.taps}
    energy = sum(sparse_energy(attentions[name], tap.values, tap.indices) for name, tap in motion.taps.items())
    (theirs,) = torch.autograd.grad(scale * energy, z)
    seen = []
    result = sample(
        host, noise.half(), *texts, timesteps=[900, 500], guide=guidance(motion, 1e-3, guided_steps=1),
        on_step=lambda s, d, found: seen.append(found),
    )  # fmt: skip
    ours = seen[0].value
    assert ours.dtype == result.dtype == torch.float32
    theirs = rearrange(theirs, "b c f h w -> (b f) c h w")
    alike = torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
    assert alike > 0.999
    assert len(ours.unique()) > 0.9 * ours.numel()  # float16 knows far fewer values of one size


class Overflowing:
    """A guide whose gradient overflows for the second clip of a batch."""

    def __init__(self, guide):
        self._guide, self.taps, self.reuse = guide, guide.taps, guide.reuse
        self.require, self.guides, self.correct = lambda *_: None, guide.guides, guide.correct
        self.compares = guide.compares

    def observer(self, x, view, **options):
        observer = self._guide.observer(x, view, **options)
        result = observer.result

        def overflowed():
            gradient = result()
            gradient.value[FRAMES:, 0, 0, 0] = math.inf
            return gradient

        observer.result = overflowed
        return observer


def test_an_overflow_leaves_the_other_clips_guided(host, texts, motion, caplog):
    noise = draw(2, 4, FRAMES, SIZE, SIZE, seed=5)
    both = sample(host, noise, *texts, timesteps=TIMESTEPS, guide=Overflowing(guidance(motion, 50.0)))
    first = sample(host, noise[:1], *texts, timesteps=TIMESTEPS, guide=guidance(motion, 50.0))
    second = sample(host, noise[1:], *texts, timesteps=TIMESTEPS)
    torch.testing.assert_close(both[:1], first, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(both[1:], second, rtol=1e-7, atol=1e-8)
    assert "goes unguided" in caplog.text


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"])
def test_schedulers_of_diffusers_are_guided(host, noise, texts, motion, name):
    def run(guide):
        scheduler = getattr(diffusers, name)(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
        scheduler.set_timesteps(timesteps=TIMESTEPS)
        seen = []
        result = sample(
            host, noise, *texts, timesteps=TIMESTEPS, guide=guide, scheduler=scheduler,
            generator=torch.Generator().manual_seed(0),
            on_step=lambda s, d, found: seen.append(found.energies if found else ()),
        )  # fmt: skip
        return result, seen

    _, faint = run(guidance(motion, 1e-6))
    result, strong = run(guidance(motion, 100.0))
    assert bool(result.isfinite().all())
    assert strong[2][0] < faint[2][0]
    assert len(strong[3]) == (1 if name.startswith("Euler") else 0)  # beside the seam


def test_a_multistep_sampler_is_not_guided_beside_a_seam_and_euler_is(host, noise, texts, motion):
    timesteps = [999, 850, 700, 699, 400, 0]

    def guided(scheduler, steps=3):
        if scheduler is not None:
            scheduler.set_timesteps(timesteps=timesteps)
        seen, guide = [], guidance(motion, guided_steps=steps)
        sample(host, noise, *texts, timesteps=timesteps, guide=guide, scheduler=scheduler,
               on_step=lambda s, d, found: seen.append(found is not None))  # fmt: skip
        return seen

    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
    assert guided(None) == [True, True, True, False, False, False]
    assert guided(diffusers.EulerDiscreteScheduler(**options)) == [True, True, True, False, False, False]
    assert guided(diffusers.DPMSolverMultistepScheduler(**options)) == [True, True, False, False, False, False]
    # A step that leaves no noise could not be pushed.
    assert guided(None, steps=6) == [True] * 5 + [False]


def test_diffusers_euler_is_our_euler(host, noise, texts):
    scheduler = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    scheduler.set_timesteps(timesteps=TIMESTEPS)
    theirs = sample(host, noise, *texts, timesteps=TIMESTEPS, scheduler=scheduler)
    ours = sample(host, noise, *texts, timesteps=TIMESTEPS)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)  # diffusers keeps its sigmas in float32


def test_a_motion_knows_its_model(host, motion, latent):
    assert motion.provenance.architecture == "animatediff/8-16"
    assert motion.provenance.fingerprint == host.identity.fingerprint
    assert motion.frames == FRAMES and motion.latent_size == (SIZE, SIZE) and motion.k == 1


# --- bad input --------------------------------------------------------------------------------------------


def test_a_unet_without_motion_is_refused():
    with pytest.raises(UnsupportedModelError, match="no temporal self-attention"):
        DiffusersAnimateDiff(torch.nn.Conv2d(4, 4, 1))


def test_an_unknown_block_lists_what_exists(host, latent, texts):
    with pytest.raises(UnknownTapError, match=r"up_blocks\.0"):
        extract(host, latent, texts[1], blocks="up_blocks.7")


def test_too_many_frames(host, texts):
    long = draw(1, 4, FRAMES + 3, SIZE, SIZE)
    with pytest.raises(RepresentationMismatchError, match=f"{FRAMES + 3} frames are more than the {FRAMES + 2}"):
        extract(host, long, texts[1])
    with pytest.raises(RepresentationMismatchError, match=f"{FRAMES + 3} frames are more than the {FRAMES + 2}"):
        sample(host, long, *texts, timesteps=TIMESTEPS)


LONG = 6
WINDOWS = sliding_windows(LONG, FRAMES, 2)


@pytest.fixture
def long_motion(host, texts):
    return extract(host, draw(1, 4, LONG, SIZE, SIZE, seed=9), texts[1], blocks="up_blocks.1", windows=WINDOWS)


def test_a_window_of_all_frames_is_no_window(host, texts, motion):
    noise, whole = draw(1, 4, FRAMES, SIZE, SIZE), [tuple(range(FRAMES))]
    runs = [sample(host, noise, *texts, timesteps=TIMESTEPS, guide=guidance(motion), windows=w) for w in (None, whole)]
    assert torch.equal(*runs)


def test_in_windows_each_is_read_by_itself(host, texts, long_motion):
    latent = draw(1, 4, LONG, SIZE, SIZE, seed=9)
    assert tuple(long_motion.windows) == WINDOWS == ((0, 1, 2, 3), (2, 3, 4, 5))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(latent)
    builder = RepresentationBuilder(long_motion.taps, k=1, frames=FRAMES, latent_size=(SIZE, SIZE))
    seen = {"latent": latent[:, :, 2:], "noise": noise[:, :, 2:]}
    observe_reference(host, builder.observer(), **seen, timestep=400, text=texts[1])
    for name, tap in builder.representation(long_motion.provenance).taps.items():
        assert torch.equal(tap.values, long_motion.windows[WINDOWS[1]][name].values)


def test_in_windows_gradients_are_fused_as_predictions_are(host, texts, long_motion):
    """A guided step in windows, against the gradients of runs of one window each."""
    noise, seen = draw(1, 4, LONG, SIZE, SIZE), []
    step = {"timesteps": TIMESTEPS[:2], "cfg": 1.0}
    sample(
        host, noise, *texts, guide=guidance(long_motion), windows=WINDOWS, **step,
        on_step=lambda _, __, gradient: seen.append(gradient),
    )  # fmt: skip
    total, weights = draw(LONG, 4, SIZE, SIZE) * 0, draw(LONG, 1, 1, 1) * 0
    for window in WINDOWS:
        alone = MotionRepresentation.whole(long_motion.windows[window], (SIZE, SIZE))
        parts = []
        sample(
            host, noise[:, :, list(window)], *texts, guide=guidance(alone), **step,
            on_step=lambda _, __, gradient, parts=parts: parts.append(gradient),
        )  # fmt: skip
        own = torch.tensor([1.0, 2.0, 2.0, 1.0], dtype=torch.float64).reshape(4, 1, 1, 1)
        total[list(window)] += own * parts[0].value
        weights[list(window)] += own
    torch.testing.assert_close(seen[0].value, total / weights, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("size", [(SIZE // 2, SIZE), (2 * SIZE, SIZE)])
def test_a_motion_guides_another_size(host, texts, motion, size):
    noise = draw(1, 4, FRAMES, *size)
    guided, free = (sample(host, noise, *texts, timesteps=TIMESTEPS, guide=g) for g in (guidance(motion), None))
    assert guided.shape == noise.shape and not torch.equal(guided, free)


def test_a_reference_is_one_clip(host, texts):
    with pytest.raises(ValueError, match=r"\[1, c, f, h, w\], got \[2, 4, 4, 8, 8\]"):
        extract(host, draw(2, 4, FRAMES, SIZE, SIZE), texts[1])


@pytest.mark.parametrize(
    ("timesteps", "words"), [([5, 5], "5 is followed by 5"), ([], "at least|at one|one at least"), ([1000], "0 to 999")]
)
def test_timesteps_that_do_not_fall(timesteps, words):
    with pytest.raises(ValueError, match=words):
        steps_of(timesteps)


def test_schedulers_that_call_the_model_twice_a_step_are_refused(host, noise, texts):
    scheduler = diffusers.HeunDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    scheduler.set_timesteps(6)
    with pytest.raises(ValueError, match="evaluates the model once a step"):
        sample(host, noise, *texts, timesteps=TIMESTEPS, scheduler=scheduler)


def test_sigmas_follow_the_noise_schedule():
    step = steps_of([999, 0])[0]
    betas = [0.00085 + (0.012 - 0.00085) * i / 999 for i in range(1000)]
    remaining = math.exp(sum(math.log1p(-beta) for beta in betas))
    assert step.sigma == pytest.approx(((1 - remaining) / remaining) ** 0.5, rel=1e-9)
    assert steps_of([999, 0])[1].sigma_next == 0.0
