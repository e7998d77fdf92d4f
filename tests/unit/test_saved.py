"""Tensors that are written to after autograd has saved them: the gradient is that of a network that writes nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from motionclone_core.hosts.saved import copied_before_written

WAYS: dict[str, Callable[[Tensor], object]] = {
    "itself": lambda t: t.add_(1.0),
    "a view from elsewhere in it": lambda t: t[3:].mul_(2.0),
    "a function's out": lambda t: torch.zeros(8, out=t),
    "one of a list": lambda t: torch._foreach_mul_([t], 3.0),
    "detached": lambda t: t.detach().zero_(),
}


def leaf(seed: int = 0) -> Tensor:
    return torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("saved", [slice(None), slice(0, 4)], ids=["whole", "as a view"])
def test_what_is_saved_is_what_was_there(way: str, saved: slice) -> None:
    x = leaf()
    with copied_before_written():
        y = x * 2.0
        total = y[saved].exp().detach()  # writes nothing
        energy = y[saved].square().sum()
        with torch.no_grad():
            WAYS[way](y)
    (gradient,) = torch.autograd.grad(energy, x)
    expected = torch.zeros(8, dtype=torch.float64)
    expected[saved] = 8.0 * x.detach()[saved]
    assert total.isfinite().all()
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)


def test_memory_that_is_used_again_is_not_taken_for_what_was_there() -> None:
    """Residuals are added in place to activations, which then go: what follows is given their memory."""
    x, residual = leaf(), leaf(1).detach()

    def network(x: Tensor, *, in_place: bool) -> Tensor:
        total = x
        for step in range(200):
            h = (total * 0.1 + step).cos()
            g = h.square() * 0.5  # saves h
            h = h.add_(residual) if in_place else h + residual
            total = g + h.sin()
        return total.sum()

    with copied_before_written():
        energy = network(x, in_place=True)
    (gradient,) = torch.autograd.grad(energy, x)
    (expected,) = torch.autograd.grad(network(x, in_place=False), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)


def test_nothing_is_copied_that_is_not_written_to() -> None:
    x = leaf()
    with copied_before_written():
        y = x * 2.0
        energy = y.square().sum()
    assert energy.grad_fn.next_functions[0][0]._saved_self.data_ptr() == y.data_ptr()


def test_a_graph_that_nobody_went_back_through_goes_with_what_it_has_saved() -> None:
    x = leaf()
    with copied_before_written():
        y = (x * 2.0).exp()  # saves what it gives
        gone = weakref.ref(y)
    del y
    gc.collect()
    assert gone() is None
