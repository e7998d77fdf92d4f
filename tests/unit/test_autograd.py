"""Gradients through weights made under inference mode, against the same network with ordinary tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from motionclone_core.hosts.autograd import ConstantWeights, recording


class Everything(nn.Module):
    """What a video UNet is made of: convolution, norms, linear layers, attention, buffers, lists."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.group = nn.GroupNorm(2, 8)
        self.layer = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8, bias=False)
        self.scale = nn.Parameter(torch.rand(8))
        self.register_buffer("shift", torch.rand(8))

    def forward(self, x, context):
        h = F.silu(self.group(self.conv(x))).flatten(2).transpose(1, 2)
        h = torch.cat([self.layer(h), context], dim=1)
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        h = torch.addcmul(self.shift, self.out(h), self.scale)
        return torch.stack([h, context.expand_as(h[:, :1]).repeat(1, h.shape[1], 1) * h]).square().mean()


def build(*, requires_grad=False):
    torch.manual_seed(0)
    model = Everything().double()
    model.requires_grad_(requires_grad)
    return model, torch.rand(2, 1, 8, dtype=torch.float64)


def given(seed=1):
    return torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ordinary_gradient():
    model, context = build()
    x = given().requires_grad_()
    y = model(x, context)
    return y.item(), torch.autograd.grad(y, x)[0]


def recorded_gradient(model, context):
    with recording():
        x = given().requires_grad_()
        y = model(x, context)
        (gradient,) = torch.autograd.grad(y, x)
    return y.item(), gradient


def test_the_gradient_is_that_of_ordinary_tensors():
    expected_value, expected = ordinary_gradient()
    with torch.inference_mode():
        model, context = build()
        value, gradient = recorded_gradient(model, context)
    assert value == pytest.approx(expected_value, rel=1e-14)
    assert expected.abs().min() > 0
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-16)


def test_without_the_mode_torch_refuses():
    """What the mode is for: should torch ever allow this, the mode can go."""
    with torch.inference_mode():
        model, context = build()
        with torch.inference_mode(False), torch.enable_grad():
            x = given().requires_grad_()
            with pytest.raises(RuntimeError, match=r"[Ii]nference tensors"):
                model(x, context)


def test_inference_weights_serve_after_the_mode_was_left():
    with torch.inference_mode():
        model, context = build()
    torch.testing.assert_close(
        recorded_gradient(model, context)[1], ordinary_gradient()[1], rtol=1e-12, atol=1e-16
    )


def test_weights_remain_the_same_objects_with_the_same_content():
    with torch.inference_mode():
        model, context = build()
        before = dict(model.named_parameters()) | dict(model.named_buffers())
        copies = copy.deepcopy(model).state_dict()
        recorded_gradient(model, context)
        after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor is before[name]
        assert tensor.is_inference()
        assert torch.equal(tensor, copies[name])
        assert tensor.grad is None


def graph_leaves(tensor):
    """Every tensor that a backward pass from here would accumulate a gradient in."""
    seen, stack, leaves = set(), [tensor.grad_fn], []
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    return leaves


def test_parameters_that_require_grad_are_not_in_the_graph():
    model, context = build(requires_grad=True)
    ordinary = given().requires_grad_()
    assert len(graph_leaves(model(ordinary, context))) == 1 + len(list(model.parameters()))
    with recording():
        x = given().requires_grad_()
        y = model(x, context)
        leaves = graph_leaves(y)
        (gradient,) = torch.autograd.grad(y, x)
    assert len(leaves) == 1
    assert leaves[0] is x
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(gradient, ordinary_gradient()[1], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize(
    "use",
    [
        lambda w, x: w.T @ x,
        lambda w, x: w.mT @ x,
        lambda w, x: w.data @ x,
        lambda w, x: w[0] * x,
        lambda w, x: w.to(torch.float64) * x,
        lambda w, x: torch.einsum("ij,jk->ik", w, x),
        lambda w, x: torch.cat([w, x]),
        lambda w, x: torch.where(x > 0, w, x),
        lambda w, x: x * w,
        lambda w, x: torch.addmm(input=x, mat1=w, mat2=x),
    ],
    ids=["T", "mT", "data", "index", "to", "einsum", "list", "where", "right operand", "keywords"],
)
@pytest.mark.parametrize("kind", ["inference", "parameter"])
def test_ways_to_use_a_weight(use, kind):
    weight = torch.arange(9, dtype=torch.float64).reshape(3, 3) / 7
    start = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(3, 3)
    x = start.clone().requires_grad_()
    (expected,) = torch.autograd.grad(use(weight, x).square().sum(), x)
    with torch.inference_mode(kind == "inference"):
        constant = nn.Parameter(weight.clone(), requires_grad=kind == "parameter")
        with recording():
            x = start.clone().requires_grad_()
            y = use(constant, x).square().sum()
            leaves = graph_leaves(y)
            (gradient,) = torch.autograd.grad(y, x)
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)
    assert len(leaves) == 1
    assert leaves[0] is x


def test_views_with_strides_and_offsets_are_read_as_they_are():
    whole = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    expected = whole[1:, ::2].T.clone()
    with torch.inference_mode():
        weight = whole.clone()[1:, ::2].T
        with recording():
            x = torch.ones(3, 3, dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad((weight * x).sum(), x)
    assert torch.equal(gradient, expected)


def test_an_attribute_that_is_set_reaches_the_tensor_itself():
    with torch.inference_mode():
        model = nn.Linear(2, 2)
        with recording():
            model.weight.data = torch.full((2, 2), 3.0)
            model.weight.note = "kept"
        assert model.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]
        assert model.weight.note == "kept"


def test_an_ordinary_parameter_can_be_given_a_gradient():
    parameter = nn.Parameter(torch.zeros(2))
    with recording():
        parameter.grad = torch.ones(2)
    assert parameter.grad.tolist() == [1.0, 1.0]
    with recording():
        parameter.grad = None
    assert parameter.grad is None


def test_a_buffer_changed_in_place_is_changed():
    with torch.inference_mode():
        buffer = torch.zeros(3)
        with recording():
            buffer.add_(1)
            buffer[1] = 5.0
            buffer.mul_(2)
            torch.add(buffer, 1, out=buffer)
        assert buffer.tolist() == [3.0, 11.0, 3.0]
        assert buffer.is_inference()


def test_a_weight_that_is_replaced_while_recording_is_the_one_used():
    with torch.inference_mode():
        model = nn.Linear(2, 1, bias=False)
        with recording():
            x = torch.ones(1, 2, requires_grad=True)
            model.weight = nn.Parameter(torch.tensor([[4.0, 9.0]]), requires_grad=False)
            (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert gradient.tolist() == [[4.0, 9.0]]


def test_the_input_is_left_to_autograd():
    with recording():
        x = torch.tensor([2.0], requires_grad=True)
        assert (x * x).requires_grad
        assert torch.autograd.grad(x * x, x)[0].item() == 4.0


def modes():
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), len(
        torch.overrides._get_current_function_mode_stack()
    )


@pytest.mark.parametrize(
    "outside", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=["grad", "no grad", "inference"]
)
def test_recording_works_inside_any_mode_and_gives_it_back(outside):
    with outside():
        before = modes()
        with recording():
            assert modes() == (True, False, before[2] + 1)
            x = torch.ones(1, requires_grad=True)
            assert (3 * x).requires_grad
        assert modes() == before
        with pytest.raises(ZeroDivisionError), recording():
            torch.set_grad_enabled(False)
            raise ZeroDivisionError
        assert modes() == before


def test_turned_off_inside_it_stays_off_until_the_end():
    with torch.no_grad():
        with recording():
            x = torch.ones(1, requires_grad=True)
            torch.set_grad_enabled(False)
            assert not (3 * x).requires_grad
        assert not torch.is_grad_enabled()


def test_without_grad_the_mode_changes_no_result():
    with torch.inference_mode():
        model, context = build()
        expected = model(given(), context)
        with ConstantWeights():
            assert torch.equal(model(given(), context), expected)


def streamed_gradient(is_reused):
    """Two layers whose weights pass through one buffer, as weights do that live in another memory."""
    stored = [torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2)]
    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(3)).double()
    with torch.inference_mode():
        buffer = torch.empty(6, 6, dtype=torch.float64)
        with recording(None if is_reused is None else lambda tensor: is_reused(tensor, buffer)):
            x = h = start.clone().requires_grad_()
            for weight in stored:
                buffer.copy_(weight)
                h = F.linear(h, buffer).sin()
            (gradient,) = torch.autograd.grad(h.sum(), x)
    x = start.clone().requires_grad_()
    ordinary = F.linear(F.linear(x, stored[0]).sin(), stored[1]).sin().sum()
    return gradient, torch.autograd.grad(ordinary, x)[0]


def test_a_weight_in_a_buffer_that_is_overwritten_is_kept_when_it_is_known_to_be():
    gradient, expected = streamed_gradient(lambda tensor, buffer: tensor.data_ptr() == buffer.data_ptr())
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_an_overwritten_buffer_goes_unnoticed_otherwise():
    gradient, expected = streamed_gradient(None)
    assert not torch.allclose(gradient, expected, rtol=0.1)
