"""Layers that run again in the backward pass: same gradients, less kept, nothing left behind."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from motionclone_core.hosts.autograd import recording
from motionclone_core.hosts.recompute import recomputed
from motionclone_core.hosts.saved import copied_before_written


class Layer(nn.Module):
    """Counts its runs, reads and writes a dictionary that it is given, as transformers of ComfyUI do."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.runs, self.seen = 0, []

    def forward(self, x, context=None, options=None):
        self.runs += 1
        self.seen.append(options["index"])
        options["index"] += 1
        return x + self.inner(x) * context


@pytest.fixture
def layers():
    torch.manual_seed(0)
    with torch.inference_mode():
        return nn.Sequential(Layer(8), Layer(8), Layer(8))


def gradient(layers, chosen, *, write=False, hooks=nullcontext):
    """Of a sum of squares by the input, inside inference mode, with these layers run again."""
    with torch.inference_mode():
        context = torch.full((8,), 0.5)
        with recording(), hooks(), recomputed(chosen, recording):
            x = torch.linspace(-1, 1, 24).reshape(3, 8).clone().requires_grad_()
            options, y = {"index": 0}, x * 1.0
            for layer in layers:
                given, y = y, layer(y, context=context, options=options)
                if write:
                    given += 1.0
            assert options == {"index": len(layers)}
            return torch.autograd.grad(y.square().sum(), x)[0]


def test_the_gradient_is_the_same_to_the_last_bit(layers):
    assert torch.equal(gradient(layers, layers), gradient(layers, []))


def test_each_layer_runs_again_once_and_is_given_the_same(layers):
    gradient(layers, layers[1:])
    assert [layer.runs for layer in layers] == [1, 2, 2]
    assert [layer.seen for layer in layers] == [[0], [1, 1], [2, 2]]


def test_only_inputs_are_kept(layers):
    def kept(chosen):
        sizes = []
        with saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            gradient(layers, chosen)
        return sizes

    wide = 3 * 8 * 4
    assert kept([]).count(wide) == 3 and kept(layers).count(wide) == 0


def test_the_layers_are_as_before_even_after_an_error(layers):
    own = layers[2].forward = layers[2].forward
    with pytest.raises(KeyError), recomputed([layers[0], layers[0], layers[2]]):
        raise KeyError
    assert "forward" not in vars(layers[0]) and vars(layers[2])["forward"] is own


def test_nothing_runs_twice_where_nothing_is_recorded(layers):
    with torch.inference_mode(), recomputed(layers):
        layers[0](torch.ones(3, 8), context=torch.ones(8), options={"index": 0})
    with recording(), recomputed(layers), torch.no_grad():
        layers[0](torch.ones(3, 8, requires_grad=True), context=torch.ones(8), options={"index": 0})
    assert layers[0].runs == 2


def test_an_input_that_is_written_over_is_refused_or_kept(layers):
    plain = gradient(layers, [], write=True, hooks=copied_before_written)
    assert torch.equal(gradient(layers, layers, write=True, hooks=copied_before_written), plain)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient(layers, layers, write=True)
