"""Diffusion transformers as hosts: taps by their blocks, queries and keys laid out over frames; without ComfyUI.

Shapes used here:
    b   batch entries      s   tokens      n   heads      d   channels per head      f, r, c   frames, rows, columns
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from motionclone_core.grids import RepresentationMismatchError
from motionclone_core.hosts.base import StopForward, UnsupportedModelError, VideoSize
from motionclone_core.hosts.comfy_dit import ATTENTION, TransformerHost
from motionclone_core.hosts.comfy_dit_cogvideox import FAMILY as COGVIDEOX
from motionclone_core.hosts.comfy_dit_wan import FAMILY as WAN

HEADS, WIDTH, TEXT = 2, 8, 3
TAP = "blocks.{}.attention".format


def attention(q, k, v, heads, **_):
    """As ComfyUI's: ``[b, s, n * d]`` in and out."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Joint attention, then a second one, to which no tap belongs."""

    def __init__(self):
        super().__init__()
        self.self_attn = SimpleNamespace(num_heads=HEADS)
        self.q, self.k, self.v, self.ffn = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.seen = None

    def forward(self, tokens, options):
        run = options.get(ATTENTION, lambda func, *args, **kwargs: func(*args, **kwargs))
        self.seen = self.q(tokens), self.k(tokens)
        tokens = tokens + run(attention, *self.seen, self.v(tokens), heads=HEADS)
        return tokens + run(attention, tokens, tokens, tokens, HEADS)


class Network(nn.Module):
    def __init__(self, blocks=4):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, tokens, options):
        for block in self.blocks:
            tokens = block(tokens, options)
        return tokens


class Toy:
    """A family with its text first, and tokens of 1 x 2 x 2 latent cells."""

    name, title, default_blocks, group = "toy", "Toy", (0.4, 0.6), 4

    def recognises(self, network):
        return isinstance(network, Network)

    def blocks(self, network):
        return list(network.blocks)

    def heads(self, block):
        return HEADS

    def query_weight(self, block):
        return block.q.weight

    def patch(self, network):
        return 1, 2, 2

    def image_tokens(self, tokens, count):
        return tokens[:, tokens.shape[1] - count :]


class Observer:
    def __init__(self, *taps, stop=False):
        self.taps, self.stop, self.seen = taps, stop, []

    def observe(self, tap, q, k, heads):
        self.seen.append((tap, q, k, heads))
        if self.stop:
            raise StopForward


def host_of(network, *, family=None, backup=None, **options):
    patcher = SimpleNamespace(get_model_object=lambda name: network, model_options=options, backup=backup or {})
    return TransformerHost(patcher, family or Toy())


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


def run(network, observer, *, size=(3, 4, 6), batch=2, options=None, before=lambda: None):
    """One call under observation; the latent of ``size`` and what the network gave."""
    host, options = host_of(network), {} if options is None else options
    x = torch.zeros(batch, 16, *size)
    tokens = torch.randn(batch, TEXT + size[0] * -(-size[1] // 2) * -(-size[2] // 2), WIDTH)
    with host.observing(observer, before, x=x, transformer_options=options):
        return tokens, network(tokens, options)


def hooks(network):
    return [m for m in network.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]


def test_each_tap_is_handed_on_once_in_the_order_of_execution(network):
    observer = Observer(TAP(1), TAP(3))
    run(network, observer)
    assert [seen[0] for seen in observer.seen] == [TAP(1), TAP(3)]
    assert {seen[3] for seen in observer.seen} == {HEADS}


@pytest.mark.parametrize("size", [(3, 4, 6), (2, 5, 7)], ids=["even", "padded"])
def test_queries_are_laid_out_over_frames_and_text_is_left_out(network, size):
    observer = Observer(TAP(2))
    run(network, observer, size=size)
    ((_, q, k, _),) = observer.seen
    frames, rows, columns = size[0], -(-size[1] // 2), -(-size[2] // 2)
    assert q.shape == k.shape == (2 * rows * columns, frames, WIDTH)
    for found, tokens in zip((q, k), network.blocks[2].seen, strict=True):
        for b in range(2):
            for r in range(rows):
                for c in range(columns):
                    for f in range(frames):
                        place = TEXT + (f * rows + r) * columns + c
                        assert torch.equal(found[(b * rows + r) * columns + c, f], tokens[b, place])


def test_what_the_network_gives_is_the_same_under_observation(network):
    torch.manual_seed(1)
    tokens, watched = run(network, Observer(TAP(0), TAP(1), TAP(2), TAP(3)))
    assert torch.equal(watched, network(tokens, {}))


def test_another_override_still_runs(network):
    calls = []

    def other(func, *args, **kwargs):
        calls.append(kwargs.get("heads"))
        return func(*args, **kwargs)

    options = {ATTENTION: other}
    observer = Observer(TAP(1))
    run(network, observer, options=options)
    assert len(calls) == 8 and len(observer.seen) == 1


@pytest.mark.parametrize("stop", [False, True])
def test_hooks_are_removed_however_it_ends(network, stop):
    def fail():
        raise RuntimeError("cancelled")

    expected = StopForward if stop else RuntimeError
    with pytest.raises(expected):
        run(network, Observer(TAP(1), TAP(2), stop=stop), before=(lambda: None) if stop else fail)
    assert hooks(network) == []


def test_hooks_are_there_only_while_it_is_observed(network):
    host = host_of(network)
    with host.observing(Observer(TAP(1)), lambda: None, x=torch.zeros(1, 16, 3, 4, 4), transformer_options={}):
        assert hooks(network) == [network.blocks[1]]
    assert hooks(network) == []


def test_too_few_tokens_are_refused(network):
    observer = Observer(TAP(0))
    host, options = host_of(network), {}
    x = torch.zeros(1, 16, 3, 4, 6)
    with (
        pytest.raises(UnsupportedModelError, match=r"\[1, 9, 8\].*3 frames of 6 places"),
        host.observing(observer, lambda: None, x=x, transformer_options=options),
    ):
        network(torch.randn(1, 9, WIDTH), options)


# --- what it says of itself -------------------------------------------------------------------------


def test_taps_blocks_and_identity():
    host = host_of(Network(10))
    assert list(host.sites) == [TAP(i) for i in range(10)]
    assert host.default_blocks == "blocks.4, blocks.5"
    assert host_of(Network(1)).default_blocks == "blocks.0"
    assert host.title == "Toy, 10 blocks"
    identity = host.identity
    assert identity.architecture == "toy/8" and set(identity.heads.values()) == {HEADS}
    assert identity.fingerprint != host_of(Network(10)).identity.fingerprint


def test_a_lora_leaves_the_fingerprint_whether_or_not_it_is_applied(network):
    before, own = host_of(network).identity, network.blocks[2].q.weight.detach().clone()
    with torch.no_grad():
        network.blocks[2].q.weight += 1.0
    backup = {"diffusion_model.blocks.2.q.weight": SimpleNamespace(weight=own)}
    assert host_of(network, backup=backup).identity == before
    assert host_of(network).identity != before


def test_a_video_is_counted_in_tokens_and_cells(network):
    host = host_of(network)
    assert host.video(torch.zeros(2, 16, 5, 8, 6)) == VideoSize(5, 8, 6, 4)
    assert host.clips(torch.zeros(2, 16, 5, 8, 6)) == 2
    assert host.window({}, torch.zeros(1, 16, 3, 4, 4)) == (0, 1, 2)
    with pytest.raises(RepresentationMismatchError, match="5 dimensions, this latent has 4"):
        host.video(torch.zeros(5, 4, 8, 6))


def test_a_single_frame_and_context_windows_are_refused(network):
    with pytest.raises(RepresentationMismatchError, match="has 1 frame"):
        host_of(network).require_video(VideoSize(1, 8, 8))
    with pytest.raises(UnsupportedModelError, match="Toy in context windows"):
        host_of(network, context_handler=object()).require_video(VideoSize(5, 8, 8))
    host_of(network).require_video(VideoSize(2, 8, 8))


def test_a_token_of_two_latent_frames_is_eight_of_the_video(network):
    family = Toy()
    family.patch = lambda network: (2, 2, 2)
    host = host_of(network, family=family)
    assert host.group == 8
    assert host.video(torch.zeros(1, 16, 5, 8, 6)) == VideoSize(3, 8, 6, 8)


# --- the families -----------------------------------------------------------------------------------


def wan_network(kind="WanModel", module="comfy.ldm.wan.model"):
    made = type(kind, (nn.Module,), {"__module__": module, "patch_size": (1, 2, 2)})()
    made.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    for block in made.blocks:
        block.self_attn = nn.Module()
        block.self_attn.num_heads, block.self_attn.q = 5, nn.Linear(10, 10)
    return made


def test_wan_is_the_plain_network_alone():
    assert WAN.recognises(wan_network())
    assert not WAN.recognises(wan_network("VaceWanModel"))
    assert not WAN.recognises(wan_network("WanModel", "another_pack.model"))
    assert not WAN.recognises(wan_network("CogVideoXTransformer3DModel"))
    block = WAN.blocks(wan_network())[1]
    assert WAN.heads(block) == 5 and WAN.query_weight(block).shape == (10, 10)
    assert WAN.patch(wan_network()) == (1, 2, 2)


def test_wan_refuses_tokens_of_reference_pictures():
    tokens = torch.randn(1, 12, 4)
    assert WAN.image_tokens(tokens, 12) is tokens
    with pytest.raises(UnsupportedModelError, match=r"16 tokens, and the video has 12.*reference latents"):
        WAN.image_tokens(torch.randn(1, 16, 4), 12)


@pytest.mark.parametrize(("in_time", "patch"), [(None, (1, 2, 2)), (2, (2, 2, 2))])
def test_cogvideox_has_its_text_first(in_time, patch):
    network = type("CogVideoXTransformer3DModel", (nn.Module,), {"patch_size": 2, "patch_size_t": in_time})()
    assert COGVIDEOX.recognises(network) and not COGVIDEOX.recognises(nn.Linear(1, 1))
    assert COGVIDEOX.patch(network) == patch
    tokens = torch.arange(10.0).reshape(1, 10, 1)
    assert COGVIDEOX.image_tokens(tokens, 6).flatten().tolist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("family", [COGVIDEOX, WAN], ids=["cogvideox", "wan"])
def test_what_a_family_says_is_in_range(family):
    def spanning(*span):
        toy = Toy()
        toy.default_blocks = span
        return toy

    for count in (1, 2, 3):
        named = host_of(Network(count), family=spanning(*family.default_blocks)).default_blocks
        assert set(named.split(", ")) <= {f"blocks.{i}" for i in range(count)}
    first, last = family.default_blocks
    assert 0 <= first < last <= 1
    assert family.group == 4  # of both autoencoders
    assert family.name.isidentifier() and family.title
