"""Relevance on the ViT: conserved, equal to what can be computed by hand, the same alone and in a batch."""

import copy

import pytest
import torch
from torch.nn.functional import interpolate

from transfer.explain import relevance
from transfer.explain.diversity import lanet_maps, resized
from transfer.explain.relevance import (
    BlockRelevance,
    Trace,
    back_through_blocks,
    heat_maps,
    relevance_maps,
    rollout,
    tokens,
    trace,
    weighted_attention,
)
from transfer.models.transfer import TransFER

pytestmark = pytest.mark.usefixtures("one_thread")
# Wide enough that every number has a positive contribution: where there is none, relevance is lost.
SIZES = {"stem_widths": (8, 16, 16, 16), "stem_units": (1, 1, 1, 1), "embed_dim": 48, "num_heads": 3}


def network(seed=0, **changes):
    """A small TransFER in evaluation mode with random weights everywhere, the head and all biases too."""
    torch.manual_seed(seed)
    options = {"num_classes": 5, "img_size": 32, "depth": 3, "mad": 0.6, "msad": 0.3} | SIZES | changes
    model = TransFER(**options)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or name.startswith(("head", "pos_embed", "cls_token")):
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def faces(n=4, side=32, seed=1):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


# --- the trace of the forward pass ---


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_lanets": 0, "mad": 0},
        {"stem_stages": 2},
        {"stem_stages": 4, "img_size": 48},
        {"msad_mode": "token"},
        {"num_heads": 1, "depth": 1},
        {"normalization": "half"},
    ],
)
def test_the_trace_is_the_model(changes):
    model, images = network(**changes), faces(side=changes.get("img_size", 32))
    with torch.no_grad():
        x = tokens(model, images)
        for block in model.blocks:
            steps = trace(block, x)
            assert torch.allclose(steps.attention.sum(-1), torch.ones(1), atol=1e-6)
            assert torch.allclose(steps.out, block(x), atol=1e-5)
            x = steps.out
        assert torch.allclose(model.head(model.norm(x)[:, 0]), model(images), atol=1e-5)


def test_a_model_in_training_is_refused():
    for function in (relevance_maps, lanet_maps):
        with pytest.raises(ValueError, match="call model.eval"):
            function(network().train(), faces())


# --- relevance ---


@pytest.mark.parametrize("changes", [{}, {"stem_stages": 2}, {"num_lanets": 0, "mad": 0}, {"num_heads": 1}])
def test_the_sum_of_relevance_is_1_at_every_block(changes):
    blocks = list(back_through_blocks(network(**changes), faces()))
    assert len(blocks) == 3
    for block in blocks:
        assert torch.allclose(block.tokens.sum((1, 2)), torch.ones(4).double(), atol=1e-9)


def test_a_block_of_one_number_by_hand():
    """Tokens of width 1 and 2 cells whose norms give 0.5: all shares can be written down."""
    model = network(num_classes=2, img_size=16, depth=1, num_heads=1, embed_dim=1, mlp_ratio=1.0, num_lanets=0, mad=0)
    model = model.double()
    block = model.blocks[0]
    with torch.no_grad():
        for norm in (block.norm1, block.norm2, model.norm):
            norm.weight.zero_()  # a norm of one number is 0; its bias is what comes out
            norm.bias.fill_(0.5)
        block.attn.qkv.weight.copy_(torch.tensor([[1.0], [1.0], [2.0]]))  # q = k = 0.5, v = 1
        block.attn.proj.weight.fill_(3.0)  # attended = 3
        block.attn.proj.bias.zero_()
        block.mlp.fc1.weight.fill_(1.0)
        block.mlp.fc2.weight.fill_(1.0)
        block.mlp.fc2.bias.zero_()
        model.head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    model.cls_token.data.fill_(1.0)
    model.pos_embed.data.zero_()
    (found,) = back_through_blocks(model, faces(1, 16).double(), torch.tensor([0]))
    # The class token alone has relevance, 1. It is 1 + 3 = 4 after the attention; the MLP adds m > 0. All terms are
    # positive, so that the skip of the MLP keeps 4 / (4 + m), and what goes through the MLP comes back to the same 4:
    # the attention has 3/4 of it all. Half of that is v's. The 5 tokens have equal attention 1/5 and equal values.
    of_attention = torch.zeros(5, 5).double()
    of_attention[0] = 3 / 4 / 2 / 5
    assert torch.allclose(found.attention[0, 0], of_attention)
    # The softmax passes it on to q (a half: the class token's) and k (a half: each token's), all of the same norm.
    tokens = torch.full((5,), 3 / 4 / 2 / 5 + 3 / 4 / 2 / 2 / 5).double()
    tokens[0] += 1 / 4 + 3 / 4 / 2 / 2
    assert torch.allclose(found.tokens[0, :, 0], tokens)
    assert torch.all(found.gradient == 0)  # the last norm lets nothing through


def shares(function, inputs, relevance):
    """Each input's value times the gradient of relevance / output: the same shares by automatic differentiation."""
    inputs = [value.detach().requires_grad_() for value in inputs]
    out = function(*inputs)
    gradients = torch.autograd.grad(out, inputs, relevance / out.detach())
    return [value.detach() * gradient for value, gradient in zip(inputs, gradients, strict=True)]


def test_a_block_by_automatic_differentiation():
    model, images, classes = network(depth=2).double(), faces(1).double(), torch.tensor([4])
    last, first = back_through_blocks(model, images, classes)
    block = model.blocks[0]
    x = tokens(model, images).detach()
    steps = Trace(*(value.detach() for value in trace(block, x)))

    def linear(layer, inputs, relevance):
        def excited(positive, negative):
            return positive @ layer.weight.clamp(min=0).T + negative @ layer.weight.clamp(max=0).T

        return sum(shares(excited, [inputs.clamp(min=0), inputs.clamp(max=0)], relevance))

    def terms(one, other, relevance):
        parts = shares(torch.add, [one, other], relevance)
        sizes = [abs(part.sum()) for part in parts]
        return [
            part / part.sum() * size / sum(sizes) * relevance.sum() for part, size in zip(parts, sizes, strict=True)
        ]

    middle, mlp = terms(steps.middle, steps.transformed, last.tokens)
    middle = middle + linear(block.mlp.fc1, steps.middle_normed, linear(block.mlp.fc2, steps.activated, mlp))
    of_x, attended = terms(x, steps.attended, middle)
    heads = linear(block.attn.proj, steps.heads, attended).reshape(1, -1, 3, 16).transpose(1, 2)
    attention, values = (part / 2 for part in shares(torch.matmul, [steps.attention, steps.values], heads))

    def looked(queries, keys):
        return torch.einsum("nhid,nhjd->nhij", queries, keys)

    queries, keys = (part / 2 for part in shares(looked, [steps.queries, steps.keys], attention))
    qkv = torch.cat([part.transpose(1, 2).reshape(1, -1, 48) for part in (queries, keys, values)], dim=2)
    assert torch.allclose(first.attention, attention)
    assert torch.allclose(first.tokens, of_x + linear(block.attn.qkv, steps.normed, qkv))


def test_without_attention_the_map_is_flat():
    """Where the attention's output does not count, no cell explains anything."""
    model = network(depth=1)
    torch.nn.init.zeros_(model.blocks[0].attn.proj.weight)
    torch.nn.init.zeros_(model.blocks[0].attn.proj.bias)
    assert torch.equal(relevance_maps(model, faces()), torch.zeros(4, 32, 32))


def test_a_head_that_knows_nothing_gives_a_flat_map():
    model = network()
    torch.nn.init.zeros_(model.head.weight)  # as a training begins
    assert torch.equal(relevance_maps(model, faces()), torch.zeros(4, 32, 32))


def test_the_gradient_of_the_attention_is_that_of_finite_differences():
    model, images, classes = network(depth=2), faces(2), torch.tensor([3, 1])
    blocks = list(back_through_blocks(model, images, classes))[::-1]

    start, double = tokens(model, images).double(), copy.deepcopy(model).double()

    def logit(number, change):
        """The classes' logits where the attention of block ``number`` is changed by so much."""
        x = start
        for i, block in enumerate(double.blocks):
            steps = trace(block, x)
            x = steps.out
            if i == number:
                heads = ((steps.attention + change) @ steps.values).transpose(1, 2).flatten(2)
                middle = steps.middle - steps.attended + block.attn.proj(heads)
                x = middle + block.mlp(block.norm2(middle))
        return double.head(double.norm(x)[:, 0]).gather(1, classes[:, None])[:, 0]

    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for number, block in enumerate(blocks):
            direction = torch.randn(block.gradient.shape, generator=generator).double()
            slope = (logit(number, 1e-5 * direction) - logit(number, -1e-5 * direction)) / 2e-5
            assert torch.allclose((block.gradient * direction).sum((1, 2, 3)), slope, rtol=1e-6)


def test_weighted_attention_takes_the_positive_part_before_the_mean():
    gradient, attention = torch.tensor([[[[2.0]], [[-3.0]]]]), torch.tensor([[[[1.0]], [[1.0]]]])
    assert weighted_attention(BlockRelevance(gradient, attention, attention)).tolist() == [[[1.0]]]


def test_rollout_by_hand():
    first = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]]])
    second = torch.tensor([[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    # rows of I + first: (1/2, 1/2, 0), (0, 1/4, 3/4), (0, 0, 1); class token's row of I + second: (1/2, 0, 1/2)
    assert rollout([first, second]).tolist() == [[0.25, 0.25, 0.5]]
    # row of first: (1/2, 1/2, 0); times second's rows (1/2, 0, 1/2), (1/2, 1/2, 0)
    assert rollout([second, first]).tolist() == [[0.5, 0.25, 0.25]]


def test_heat_maps_lie_as_the_cells_do():
    tokens = torch.zeros(2, 1 + 9)
    tokens[:, 0] = 100.0  # the class token is no cell
    tokens[0, 1 + 2] = 5.0  # right end of the first row
    tokens[1, 1 + 3] = -1.0  # left end of the second row
    maps = heat_maps(tokens, 3)
    assert maps[0].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert maps[1].tolist() == [[1, 1, 1], [0, 1, 1], [1, 1, 1]]
    assert heat_maps(tokens, 12).shape == (2, 12, 12)


@pytest.mark.parametrize(("stages", "side"), [(1, 16), (2, 32), (3, 48), (4, 64)])
def test_maps_of_every_grid(stages, side):
    maps = relevance_maps(network(stem_stages=stages, img_size=side), faces(2, side))
    assert maps.shape == (2, side, side) and maps.dtype == torch.float32
    assert maps.amin((1, 2)).tolist() == [0, 0] and maps.amax((1, 2)).tolist() == [1, 1]
    assert relevance_maps(network(stem_stages=stages, img_size=side), faces(2, side), side=20).shape == (2, 20, 20)


def test_a_map_is_the_same_alone_and_in_a_batch():
    model, images = network(), faces(5)
    together = relevance_maps(model, images)
    for i in range(5):
        assert torch.allclose(relevance_maps(model, images[i : i + 1])[0], together[i], atol=1e-3)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(relevance_maps(model, images[order]), together[order], atol=1e-3)


def test_every_sample_has_its_own_class():
    model, images = network(), faces(1).expand(5, -1, -1, -1)
    maps = relevance_maps(model, images, torch.arange(5))
    for label in range(5):
        alone = relevance_maps(model, images[:1], torch.tensor([label]))[0]
        assert torch.allclose(maps[label], alone, atol=1e-3)
        others = maps[[other for other in range(5) if other != label]]
        assert (others - alone).abs().amax((1, 2)).min() > 0.01
    predicted = model(images[:1]).argmax(dim=1)
    assert torch.equal(relevance_maps(model, images[:1]), relevance_maps(model, images[:1], predicted))


def test_cells_may_be_numbered_in_another_order(monkeypatch):
    """Tokens know their places by the position embedding alone: a permutation of all permutes the relevance."""
    model, images = network(), faces(2)
    cells = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + cells])
    before = rollout([weighted_attention(block) for block in back_through_blocks(model, images)][::-1])
    monkeypatch.setattr(relevance, "tokens", lambda model, images: tokens(model, images)[:, order])
    after = rollout([weighted_attention(block) for block in back_through_blocks(model, images)][::-1])
    assert torch.allclose(after, before[:, order])


def test_the_model_and_the_mode_of_gradients_stay_as_they_are():
    model, images = network(), faces()
    state = copy.deepcopy(model.state_dict())
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    with torch.no_grad():  # as somebody may call it
        inside = relevance_maps(model, images)
        assert not torch.is_grad_enabled()
    assert torch.equal(relevance_maps(model, images), inside) and torch.is_grad_enabled()
    assert not model.training and not inside.requires_grad and not images.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()][:2] == [False, True]
    for module in model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


# --- the LANets' maps ---


def test_lanet_maps_one_by_one():
    model, images = network(num_lanets=3), faces(2)
    maps = lanet_maps(model, images)
    assert maps.shape == (2, 3, 4, 4)
    features = model.stem(images)
    for k, lanet in enumerate(model.local_cnns.lanets):
        assert torch.equal(maps[:, k : k + 1], lanet(features))
    gated = features * maps.amax(dim=1, keepdim=True)
    assert torch.allclose(gated, model.local_cnns(features))
    large = resized(maps, 8)
    assert torch.equal(large, interpolate(maps, (8, 8), mode="bilinear", align_corners=False))


def test_no_lanets_no_maps():
    maps = lanet_maps(network(num_lanets=0, mad=0), faces(2))
    assert maps.shape == (2, 0, 4, 4)
    assert resized(maps, 32).shape[:2] == (2, 0)
