"""Update rules: from the energy's gradient to a corrected ``denoised`` (paper, Eq. 2). Pure: no model, no state."""

from __future__ import annotations

import torch
from torch import Tensor

from .schedule import DEFAULT_WEIGHT, UPDATE_RULES, UpdateRule

# Of the rule ``normalised``: the published weight pushes by 0.07 of the noise in a step.
PUSH_PER_WEIGHT = 0.07 / DEFAULT_WEIGHT


def corrected_denoised(
    denoised: Tensor,
    gradient: Tensor,
    *,
    strength: float,
    sigma: float,
    sigma_next: float,
    sigma_from: float | None = None,
    rule: UpdateRule = "published",
    limit: float | None = None,
) -> Tensor:
    """Fold one guidance step into the predicted clean latent, so that no sampler is edited.

    With ``delta = strength * sigma * gradient`` (the gradient by x = z * sqrt(1 + sigma^2)):

    - ``published``: delta joins the noise of DDIM's "direction to x_t" alone, which moves the next
      latent by ``-sigma_next * delta``. An Euler step, x + (x - denoised) / sigma * (sigma_next - sigma),
      moves it by just that if ``denoised`` falls by ``delta * sigma * sigma_next / (sigma - sigma_next)``.
    - ``paper``: Eq. 2 to the letter, delta in the predicted noise everywhere:
      ``denoised`` falls by ``sigma * delta``.
    - ``normalised`` (this project): as ``published``, but the gradient gives delta its direction alone, and
      ``strength * PUSH_PER_WEIGHT`` its root mean square, whose measure is the noise's own 1. A weight means the
      same whatever the model and the size of the video. It has no point of rest: where the motion is that of the
      reference already, what is left of the gradient pushes as hard, so let the strength fall towards the end.

    A sampler that evaluates the model several times in one step (Heun, DPM-2) weighs the evaluations by
    parts of the step, so that each of them is corrected as if the whole step were taken from it: with its
    own sigma in delta, and ``sigma_from`` in place of sigma in the fraction.

    Args:
        denoised: predicted z_0, any shape.
        gradient: of the energy by x, same shape.
        strength: lambda * w_i.
        sigma: where the model was evaluated; positive.
        sigma_next: where the step ends, below where it starts.
        sigma_from: where the step starts; ``sigma`` if it is left out.
        rule: which of the three.
        limit: the largest root mean square of delta, whose measure is the noise's own 1; None is as published.
            A stronger push is shortened to it, its direction kept (this project).

    Raises:
        ValueError: the rule is unknown, or sigma_next is not below the start of the step.
    """
    sigma_from = sigma if sigma_from is None else sigma_from
    if rule not in UPDATE_RULES:
        raise ValueError(f"update rule {rule!r} is unknown: choose one of {', '.join(UPDATE_RULES)}")
    if not 0.0 <= sigma_next < sigma_from:
        raise ValueError(
            f"guidance needs a falling noise level, but sigma goes from {sigma_from} to {sigma_next}"
        )
    span = 1.0 if rule == "paper" else sigma_next / (sigma_from - sigma_next)
    delta = _delta(gradient, strength=strength, sigma=sigma, rule=rule, limit=limit)
    return denoised - (delta * (sigma * span)).to(denoised)


def push_of(gradient: Tensor, *, strength: float, sigma: float) -> float:
    """Root mean square of ``strength * sigma * gradient``, whose measure is the noise's own 1.

    It is that of `corrected_denoised`'s delta, if it is neither normalised nor limited.
    """
    return strength * sigma * _root_mean_square(gradient)


def _delta(
    gradient: Tensor, *, strength: float, sigma: float, rule: UpdateRule, limit: float | None
) -> Tensor:
    """See `corrected_denoised`; in float32 or finer, and 0 where the gradient is, which has no direction then."""
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    if rule != "normalised" and limit is None:
        return (strength * sigma) * gradient
    push = push_of(gradient, strength=strength, sigma=sigma)
    wanted = strength * PUSH_PER_WEIGHT if rule == "normalised" and push > 0 else push
    if limit is not None:
        wanted = min(wanted, limit)
    return (strength * sigma) * gradient if wanted == push else gradient / _root_mean_square(gradient) * wanted


def _root_mean_square(gradient: Tensor) -> float:
    """Of its squares none underflows, and it asks no device for float64."""
    largest = float(gradient.abs().amax())
    # What is smaller than this counts as 0: its inverse is no number.
    if not largest > torch.finfo(torch.float32).tiny:
        return 0.0
    return largest * float((gradient / largest).square().mean().sqrt())
