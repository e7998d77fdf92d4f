"""docs/METHOD.md: every name on it exists, its figures are the code's, and its derivations hold in float64.

Symbols: z = sqrt(abar) z_0 + sqrt(1 - abar) eps, x = z_0 + s eps (k-diffusion), y = (1 - sigma) z_0 + sigma eps (flow
matching). A prime marks the end of a step.

Shapes used here:
    p   places of a frame      f   frames      n   heads      d   channels per head      s   tokens of a sequence
"""

from __future__ import annotations

import ast
import math
import re
import statistics
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from motionclone_core.attention import temporal_attention
from motionclone_core.editing import timing
from motionclone_core.extraction import DEFAULT_T_ALPHA
from motionclone_core.hosts.gradients import SharedGradient
from motionclone_core.inversion import PUBLISHED_STEPS, inversion_timesteps, risen
from motionclone_core.schedule import (
    BETA_RANGE,
    DEFAULT_WEIGHT,
    PRESETS,
    GuidanceWindow,
    sigma_at,
    uneven_timesteps,
)
from motionclone_core.semantics import DEFAULT_SIGMA, DEFAULT_THRESHOLD, DEFAULT_WEIGHTS
from motionclone_core.updates import PUSH_PER_WEIGHT, corrected_denoised

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "motionclone_core"
PAGE = (ROOT / "docs" / "METHOD.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())
# Formulas in blocks of their own, and what is left: text, code and formulas between dollars.
BLOCKS = re.findall(r"```math\n(.*?)```", PAGE, re.S)
PROSE = re.sub(r"```math\n.*?```", "", PAGE, flags=re.S)
INLINE = re.findall(r"\$([^$]+)\$", re.sub(r"`[^`]*`", "", PROSE))
CODE = re.findall(r"`([^`\n]+)`", PROSE)


# --- names ----------------------------------------------------------------------------------------


def is_name(code: str) -> bool:
    """Whether code on the page is a dotted name of Python, and neither a file nor a block of a model."""
    return bool(re.fullmatch(r"[a-z_]+(\.[A-Za-z_][A-Za-z_0-9]*)+", code)) and not code.endswith((".py", ".md"))


NAMES = sorted({code for code in CODE if is_name(code)})


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def defined_in(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """What a module or a class defines itself: what it imports is another's."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def resolved(name: str) -> ast.stmt | None:
    """What a name such as ``hosts.comfy_dit.Family.group`` stands for in motionclone_core; None if nothing."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        file = CORE.joinpath(*parts[:length]).with_suffix(".py")
        if file.is_file():
            node: ast.stmt | ast.Module | None = parsed(file)
            for part in parts[length:]:
                node = defined_in(node.body).get(part) if isinstance(node, ast.Module | ast.ClassDef) else None
            return node
    return None


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_exists(name):
    assert resolved(name) is not None, f"{name} is not in motionclone_core"
    assert not any(part.startswith("_") for part in name.split(".")), f"{name} is private"


def test_names_are_looked_up_where_they_are_defined():
    assert isinstance(resolved("updates.corrected_denoised"), ast.FunctionDef)
    assert isinstance(resolved("representation.MotionRepresentation.shown_frames"), ast.FunctionDef)
    assert isinstance(resolved("hosts.comfy_dit.Family.group"), ast.AnnAssign)
    # Imported there, defined elsewhere; gone; an attribute of a function; no module.
    missing = ("energy_gradient.sparse_energy", "updates.corrected", "updates.corrected_denoised.delta", "guide.Guide")
    assert [resolved(name) for name in missing] == [None] * 4
    assert is_name("hosts.comfy_dit.Family") and not any(map(is_name, ("up_blocks.1", "sigma", "docs/METHOD.md")))


@pytest.mark.parametrize("module", ["attention", "energy", "metrics", "schedule", "semantics", "updates", "windows"])
def test_every_public_function_of_the_method_is_on_the_page(module):
    functions = [node for node in parsed(CORE / f"{module}.py").body if isinstance(node, ast.FunctionDef)]
    public = {f"{module}.{node.name}" for node in functions if not node.name.startswith("_")}
    assert public and public - set(NAMES) == set()


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", PAGE, re.M)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    targets = re.findall(r"\]\(([^)]+)\)", PROSE)
    local = [target for target in targets if not target.startswith("https://")]
    lost = [target for target in local if target not in anchors and not (ROOT / "docs" / target).exists()]
    assert lost == [] and len(local) > 10


def test_every_section_is_in_the_list_of_contents():
    sections = re.findall(r"^## (.+)$", PAGE, re.M)
    assert re.findall(r"^\d+\. \[(.+)\]\(#", PAGE, re.M) == sections


def test_formulas_are_written_as_github_reads_them():
    """Between dollars its Markdown takes a backslash before punctuation away; braces have to close."""
    assert [formula for formula in INLINE if re.search(r"\\[^A-Za-z]", formula)] == []
    assert [formula for formula in (*INLINE, *BLOCKS) if formula.count("{") != formula.count("}")] == []
    assert "$" not in re.sub(r"\$[^$]+\$", "", re.sub(r"`[^`]*`", "", PROSE))


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_presets(name):
    p = PRESETS[name]
    ramps, rule = f"{p.warm_up}, {p.cool_down}", f"`{p.update_rule}`"
    ratio = "even" if p.ratio is None else p.ratio
    row = (f"`{name}`", p.steps, p.guided_steps, ratio, f"{p.weight:.6g}", ramps, p.cfg, rule, p.k)
    assert f"| {' | '.join(map(str, row))} |\n" in PAGE


def test_figures_of_readings_and_weights():
    assert f"(`extraction.DEFAULT_T_ALPHA`, {DEFAULT_T_ALPHA})" in WORDS
    assert f"$s = {sigma_at(DEFAULT_T_ALPHA):.3f}$ in AnimateDiff's" in WORDS
    flow = DEFAULT_T_ALPHA / 1000
    assert f"$\\sigma = {flow:g}$, which is $s = {flow / (1 - flow):.3f}$" in WORDS
    assert rf"\eta = {PUSH_PER_WEIGHT * DEFAULT_WEIGHT:g} / {DEFAULT_WEIGHT:g}" in WORDS
    assert f"betas from {BETA_RANGE[0]} to {BETA_RANGE[1]} in a straight line" in WORDS


def test_figures_of_the_first_version():
    preset, layers = PRESETS["first version"], 12
    blocks = dict(preset.block_weights)
    motion = [preset.weight * layers * share for share in blocks.values()]
    pulls = [float(pull) for pull in re.findall(r": (\d+)", DEFAULT_WEIGHTS)]
    said = f"{motion[0]:.6g} and {motion[1]:.6g} for motion and {pulls[0]:g} and {pulls[1]:g} for semantics"
    assert f"{said} in {' and '.join(f'`{block}`' for block in blocks)}" in WORDS
    shares = [f"{share:g}" for share in blocks.values()]
    assert f"$\\lambda = {motion[0]:.6g} / {layers}$, $\\beta = {shares[0]}$ and ${shares[1]}$" in WORDS
    assert f"`semantics.DEFAULT_THRESHOLD`, {DEFAULT_THRESHOLD}:" in WORDS
    assert f"`semantics.DEFAULT_SIGMA`, {DEFAULT_SIGMA:g} cells" in WORDS
    assert f"`inversion.PUBLISHED_STEPS`, {PUBLISHED_STEPS}," in WORDS


def test_how_much_stronger_the_published_rule_is():
    camera = PRESETS["camera"]
    timesteps = uneven_timesteps(camera.steps, camera.guided_steps, camera.ratio)
    sigmas = [sigma_at(timestep) for timestep in timesteps[: camera.guided_steps + 1]]
    factors = [after / (before - after) for before, after in pairwise(sigmas)]
    assert f"{statistics.median(factors):.0f} in the median guided step of the preset `camera`" in WORDS


@pytest.mark.parametrize(("warm", "cool"), [(10, 10), (0, 8), (3, 0), (5, 4)])
def test_the_ramp_as_it_is_written(warm, cool):
    guided = 20
    window = GuidanceWindow(0, guided, warm, cool)
    for i in range(guided):
        rise = min(1.0, (i + 1) / warm) if warm else 1.0
        assert window.ramp(i, 30) == rise * ((guided - i) / cool if i > guided - cool else 1.0)


def test_uneven_steps_as_they_are_written():
    steps, guided, ratio = 300, 180, 0.4
    boundary = math.floor((1 - ratio) * 1000)
    written = [*np.linspace(999, boundary, guided), *np.linspace(boundary - 1, 0, steps - guided)]
    assert uneven_timesteps(steps, guided, ratio) == [round(float(t)) for t in written]


def test_even_steps_as_they_are_written():
    assert uneven_timesteps(200, 120, None) == [round(float(t)) for t in np.linspace(999, 0, 200)]


def test_retiming_as_it_is_written():
    assert timing(16, 5, speed=2.0, offset=1.0) == [1 + 2 * i for i in range(5)]


# --- latents --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latent:
    """One of the three: X = a z_0 + b eps, at a noise level that its sampler calls sigma."""

    a: float
    b: float
    sigma: float

    @classmethod
    def z(cls, abar: float) -> Latent:
        return cls(math.sqrt(abar), math.sqrt(1 - abar), math.sqrt((1 - abar) / abar))

    @classmethod
    def x(cls, abar: float) -> Latent:
        s = math.sqrt((1 - abar) / abar)
        return cls(1.0, s, s)

    @classmethod
    def y(cls, abar: float) -> Latent:
        # Where sigma / (1 - sigma) is the ratio of noise to signal.
        ratio = math.sqrt(1 - abar) / math.sqrt(abar)
        sigma = ratio / (1 + ratio)
        return cls(1 - sigma, sigma, sigma)


SPACES = {"z": Latent.z, "x": Latent.x, "y": Latent.y}
STEPS = [(0.0047, 0.006), (0.02, 0.3), (0.4, 0.41), (0.9, 0.9985)]  # abar before and after
STRENGTH = 1700.0


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def energy(z: Tensor) -> Tensor:
    """Any energy of a latent."""
    return (torch.tanh(z).cumsum(0) * drawn(4, 6, seed=7)).square().mean() / 50


@dataclass(frozen=True)
class State:
    """One step's start: z, what is predicted there, and the gradient of the energy by z."""

    z: Tensor
    denoised: Tensor
    gradient: Tensor

    @classmethod
    def drawn(cls) -> State:
        z = drawn(4, 6, seed=1)
        leaf = z.clone().requires_grad_()
        return cls(z, drawn(4, 6, seed=2), torch.autograd.grad(energy(leaf), leaf)[0])


def gradient_in(space: Latent, abar: float, state: State) -> Tensor:
    """By the sampler's latent, taken by autograd through its conversion into z."""
    of_z = math.sqrt(abar) / space.a
    leaf = (state.z / of_z).requires_grad_()
    return torch.autograd.grad(energy(leaf * of_z), leaf)[0]


def converted(gradient: Tensor, sigma: float) -> Tensor:
    """The host's own function, out of a module that cannot be imported without ComfyUI."""
    node = resolved("hosts.comfy_spaces.by_sigma_space")
    scope = {"math": math, "Tensor": Tensor}
    exec(compile(ast.Module([node], []), "comfy_spaces", "exec"), scope)
    return scope["by_sigma_space"](gradient, sigma, scaled=True)


def euler(latent: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """A step in x or in y."""
    return latent + (latent - denoised) / sigma * (sigma_next - sigma)


def ddim(z: Tensor, denoised: Tensor, abar: float, abar_next: float, push: Tensor | float = 0.0) -> Tensor:
    """A step in z; the push is taken from the noise of the term that points to the next latent."""
    noise = (z - math.sqrt(abar) * denoised) / math.sqrt(1 - abar)
    return math.sqrt(abar_next) * denoised + math.sqrt(1 - abar_next) * (noise - push)


def stepped(name: str, abar: float, abar_next: float, state: State, **options) -> Tensor:
    """The sampler's next latent under guidance, as z: the whole way that a host goes."""
    space, following = SPACES[name](abar), SPACES[name](abar_next)
    gradient = gradient_in(space, abar, state)
    if name == "z":
        gradient = converted(gradient, space.sigma)
    levels = {"sigma": space.sigma, "sigma_next": following.sigma}
    denoised = corrected_denoised(state.denoised, gradient, strength=STRENGTH, **levels, **options)
    if name == "z":
        return ddim(state.z, denoised, abar, abar_next)
    latent = state.z * (space.a / math.sqrt(abar))
    return euler(latent, denoised, *levels.values()) * (math.sqrt(abar_next) / following.a)


def exactly(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("abar", [0.0047, 0.3, 0.9985])
def test_the_three_latents_are_one_point(abar):
    clean, noise = drawn(4, 6, seed=3), drawn(4, 6, seed=4)
    z, x, y = (space(abar).a * clean + space(abar).b * noise for space in SPACES.values())
    s, sigma = Latent.x(abar).sigma, Latent.y(abar).sigma
    exactly(x / math.sqrt(1 + s**2), z)
    exactly(y / math.sqrt((1 - sigma) ** 2 + sigma**2), z)
    exactly((1 - sigma) * x, y)
    assert 1 / s == pytest.approx(1 / sigma - 1, rel=1e-12)


@pytest.mark.parametrize("abar", [0.0047, 0.3, 0.9985])
def test_what_networks_predict_gives_the_clean_latent(abar):
    clean, noise = drawn(4, 6, seed=3), drawn(4, 6, seed=4)
    z, x, y = (space(abar).a * clean + space(abar).b * noise for space in SPACES.values())
    exactly(x - Latent.x(abar).sigma * noise, clean)
    velocity = math.sqrt(abar) * noise - math.sqrt(1 - abar) * clean
    exactly(math.sqrt(abar) * z - math.sqrt(1 - abar) * velocity, clean)
    exactly(y - Latent.y(abar).sigma * (noise - clean), clean)


@pytest.mark.parametrize(("abar", "abar_next"), STEPS)
@pytest.mark.parametrize("name", ["x", "y"])
def test_a_step_of_ddim_is_a_step_of_euler(name, abar, abar_next):
    state, space, following = State.drawn(), SPACES[name](abar), SPACES[name](abar_next)
    moved = euler(state.z * (space.a / math.sqrt(abar)), state.denoised, space.sigma, following.sigma)
    exactly(moved * (math.sqrt(abar_next) / following.a), ddim(state.z, state.denoised, abar, abar_next))


# --- pushes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("abar", [0.0047, 0.3, 0.9985])
def test_the_push_is_the_same_in_every_latent(abar):
    state = State.drawn()
    expected = math.sqrt(1 - abar) * state.gradient
    for space in (build(abar) for build in SPACES.values()):
        exactly(space.b * gradient_in(space, abar, state), expected)


@pytest.mark.parametrize(("abar", "abar_next"), STEPS)
@pytest.mark.parametrize("name", SPACES)
def test_the_published_rule_takes_the_push_from_the_noise_that_points_to_the_next_latent(name, abar, abar_next):
    state = State.drawn()
    push = STRENGTH * math.sqrt(1 - abar) * state.gradient
    exactly(stepped(name, abar, abar_next, state), ddim(state.z, state.denoised, abar, abar_next, push))
    assert (math.sqrt(1 - abar_next) * push).abs().max() > 1e-2


@pytest.mark.parametrize(("abar", "abar_next"), STEPS)
@pytest.mark.parametrize("name", SPACES)
def test_the_normalised_rule_is_as_hard_in_every_latent_and_a_limit_shortens_it(name, abar, abar_next):
    state = State.drawn()
    size = STRENGTH * 0.07 / 2000
    push = size * state.gradient / state.gradient.square().mean().sqrt()
    for options, share in (({}, 1.0), ({"limit": size / 3}, 1 / 3)):
        found = stepped(name, abar, abar_next, state, rule="normalised", **options)
        exactly(found, ddim(state.z, state.denoised, abar, abar_next, push * share))


@pytest.mark.parametrize(("abar", "abar_next"), STEPS)
@pytest.mark.parametrize("name", ["z", "x"])
def test_the_papers_rule_adds_the_push_to_the_noise(name, abar, abar_next):
    """Everywhere in the step: in the predicted clean latent too."""
    state = State.drawn()
    noise = (state.z - math.sqrt(abar) * state.denoised) / math.sqrt(1 - abar)
    noise = noise + STRENGTH * math.sqrt(1 - abar) * state.gradient
    clean = (state.z - math.sqrt(1 - abar) * noise) / math.sqrt(abar)
    expected = math.sqrt(abar_next) * clean + math.sqrt(1 - abar_next) * noise
    exactly(stepped(name, abar, abar_next, state, rule="paper"), expected)


@pytest.mark.parametrize(("abar", "abar_next"), STEPS)
def test_the_papers_rule_adds_the_push_to_a_flows_velocity(abar, abar_next):
    state, (sigma, sigma_next) = State.drawn(), (Latent.y(level).sigma for level in (abar, abar_next))
    y = state.z * math.sqrt((1 - sigma) ** 2 + sigma**2)
    velocity = (y - state.denoised) / sigma + STRENGTH * math.sqrt(1 - abar) * state.gradient
    expected = (y + (sigma_next - sigma) * velocity) / math.sqrt((1 - sigma_next) ** 2 + sigma_next**2)
    exactly(stepped("y", abar, abar_next, state, rule="paper"), expected)


@pytest.mark.parametrize("rule", ["published", "paper", "normalised"])
def test_a_flow_is_pushed_from_pure_noise_on(rule):
    """At sigma 1, where y is the noise itself and the gradient by it that by z, all is finite, and as stated."""
    state, sigma_next = State.drawn(), 0.93
    denoised = corrected_denoised(
        state.denoised, state.gradient, strength=STRENGTH, sigma=1.0, sigma_next=sigma_next, rule=rule
    )
    push = STRENGTH * state.gradient
    if rule == "normalised":
        push = STRENGTH * 0.07 / 2000 * state.gradient / state.gradient.square().mean().sqrt()
    fall = {"paper": push}.get(rule, push * sigma_next / (1 - sigma_next))
    exactly(state.denoised - denoised, fall)
    moved = euler(state.z, state.denoised, 1.0, sigma_next) - euler(state.z, denoised, 1.0, sigma_next)
    exactly(moved, push * (1 - sigma_next if rule == "paper" else sigma_next))


@pytest.mark.parametrize("name", SPACES)
def test_steps_share_the_gradient_by_z(name):
    abar, later = 0.3, 0.52
    state, space, following = State.drawn(), SPACES[name](abar), SPACES[name](later)
    gradient = gradient_in(space, abar, state)
    shared = SharedGradient(2, flow=name == "y")
    shared.keep(converted(gradient, space.sigma) if name == "z" else gradient, 0, space.sigma)
    push = following.sigma * shared.at(1, following.sigma)
    exactly(push, math.sqrt(1 - later) * state.gradient)


# --- inversion ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("abar", "abar_next"), [(1.0, 0.9991), (0.9985, 0.9), (0.41, 0.4), (0.006, 0.0047)])
def test_an_inversion_takes_steps_of_ddim_upwards(abar, abar_next):
    z, noise = drawn(4, 6, seed=1), drawn(4, 6, seed=5)
    clean = (z - math.sqrt(1 - abar) * noise) / math.sqrt(abar)
    found = risen(z, noise, Latent.x(abar).sigma, Latent.x(abar_next).sigma)
    exactly(found, math.sqrt(abar_next) * clean + math.sqrt(1 - abar_next) * noise)
    # Where the network says the same again, a sampler's step leads back.
    exactly(ddim(found, clean, abar_next, abar), z)


def test_the_levels_of_an_inversion_as_they_are_written():
    assert inversion_timesteps(50) == [round(float(t)) for t in np.linspace(0, 999, 50)]
    # Published: the level before is the timestep less 1000 // N. With N = 1000 that is the level before itself.
    assert all(after - before == 1000 // PUBLISHED_STEPS for before, after in pairwise(inversion_timesteps(1000)))


# --- transformers ---------------------------------------------------------------------------------


def test_attention_over_frames_is_a_transformers_own_at_one_place_scaled_to_sum_to_1():
    frames, places, heads, text, d = 3, 4, 2, 5, 6
    q, k = (drawn(text + frames * places, heads * d, seed=seed) for seed in (10, 11))
    whole = [(q[:, h * d : (h + 1) * d] @ k[:, h * d : (h + 1) * d].T / math.sqrt(d)).softmax(-1) for h in range(heads)]
    own = (tokens[text:].reshape(frames, places, -1).transpose(0, 1) for tokens in (q, k))
    found = temporal_attention(*own, heads)
    for p in range(places):
        at = [text + i * places + p for i in range(frames)]
        for head in range(heads):
            among = whole[head][at][:, at]
            exactly(found[p, head], among / among.sum(-1, keepdim=True))
