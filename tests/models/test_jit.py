from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo

from jitlab.build import build_network
from jitlab.config import load
from jitlab.config.schema import Config
from jitlab.models.jit import JiT, sincos_positions
from tests.golden import vectors as golden

ROOT = Path(__file__).parents[2]
START, TOKENS = 2, 3


def network(seed=0, *, trained=False, tokens=TOKENS, start=START, image_size=16, patch_size=4, **parts) -> JiT:
    """Return a small network; a `trained` one has no parameter at zero."""
    torch.manual_seed(seed)
    net = JiT(image_size, patch_size, 32, 4, 2, 5, parts.pop("bottleneck_dim", 8), tokens, start, **parts)
    if trained:
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def inputs(n=2, size=16, seed=1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 3, size, size, generator=generator)
    return z, torch.linspace(0.1, 0.9, n), torch.arange(n) % 5


@pytest.mark.parametrize("tokens", [0, TOKENS])
def test_the_first_output_is_exactly_zero(tokens):
    out = network(tokens=tokens)(*inputs())
    assert out.shape == (2, 3, 16, 16)
    assert out.count_nonzero() == 0


def test_the_first_gradient_reaches_the_output_layer():
    net = network()
    (net(*inputs()) - 1).square().mean().backward()
    assert net.final_layer.linear.weight.grad is not None
    assert net.final_layer.linear.weight.grad.abs().max() > 0


@pytest.mark.parametrize("tokens", [0, TOKENS])
def test_every_parameter_gets_a_gradient_once_trained(tokens):
    net = network(trained=True, tokens=tokens)
    net(*inputs()).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


PARTS: list[dict[str, Any]] = [
    {"bottleneck_dim": 0},
    {"rope": False},
    {"qk_norm": False},
    {"norm": "layernorm"},
    {"mlp": "gelu"},
    {"dropout": 0.5},
    {"bottleneck_dim": 0, "rope": False, "qk_norm": False, "norm": "layernorm", "mlp": "gelu", "tokens": 0},
]


@pytest.mark.parametrize("parts", PARTS)
def test_every_part_of_the_ladder_can_be_exchanged(parts):
    net, whole = network(trained=True, **parts), network(trained=True)
    assert not torch.equal(net(*inputs()), whole(*inputs()))
    net(*inputs()).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []
    assert network(**parts)(*inputs()).count_nonzero() == 0


def test_swiglu_and_gelu_mlp_cost_the_same_parameters():
    gated, plain = (
        sum(p.numel() for name, p in net.named_parameters() if ".mlp." in name and "blocks" in name and p.ndim > 1)
        for net in (JiT(16, 4, 48, 4, 2, 5, 8, 0, 0), JiT(16, 4, 48, 4, 2, 5, 8, 0, 0, mlp="gelu"))
    )
    assert gated == plain


def test_only_the_middle_half_of_the_blocks_drops():
    net = JiT(16, 4, 32, 12, 2, 5, 8, TOKENS, START, dropout=0.2)
    shares = [{layer.dropout for layer in block.modules() if hasattr(layer, "dropout")} for block in net.blocks]
    assert shares == [{0.2} if 3 <= index < 9 else {0.0} for index in range(12)]


def test_dropout_rests_when_the_network_is_evaluated():
    net = network(trained=True, dropout=0.5)
    assert not torch.equal(net(*inputs()), net(*inputs()))
    net.eval()
    assert torch.equal(net(*inputs()), net(*inputs()))


def test_blocks_before_the_classifier_do_not_see_the_class():
    net, (z, t, y) = network(trained=True, start=2, class_head_block=2), inputs()
    output, logits = net(z, t, y, with_logits=True)
    other, same_logits = net(z, t, y + 1, with_logits=True)
    assert logits.shape == (2, 5)
    assert torch.equal(logits, same_logits)
    assert not torch.equal(output, other)
    assert torch.equal(output, net(z, t, y))
    logits.square().mean().backward()
    reached = {name.split(".")[1] for name, p in net.named_parameters() if "blocks." in name and p.grad is not None}
    assert reached == {"0", "1"}


def test_the_classifier_leaves_all_other_initial_weights_alone():
    plain = network().state_dict()
    headed = network(class_head_block=2).state_dict()
    assert headed.keys() - plain.keys() == {"class_head.weight", "class_head.bias"}
    assert all(torch.equal(headed[name], value) for name, value in plain.items())


@pytest.mark.parametrize("name", golden.NAMES)
def test_state_has_the_official_names(name):
    net, vectors = golden.load(name)
    official = {key.removeprefix("state/"): value for key, value in vectors.items() if key.startswith("state/")}
    assert {key: value.shape for key, value in net.state_dict().items()} == {k: v.shape for k, v in official.items()}


def test_class_tokens_change_blocks_from_their_start_on():
    net, other = network(trained=True), network(trained=True)
    with torch.no_grad():
        other.in_context_posemb.add_(1)
    seen: dict[int, list[torch.Tensor]] = {}
    for candidate in (net, other):
        for index, block in enumerate(candidate.blocks):
            block.register_forward_hook(lambda _m, _a, out, index=index: seen.setdefault(index, []).append(out))
    out, changed = net(*inputs()), other(*inputs())
    same = [torch.equal(*seen[index]) for index in range(4)]
    assert same == [index < START for index in range(4)]
    assert [seen[index][0].shape[1] for index in range(4)] == [16 + (TOKENS if i >= START else 0) for i in range(4)]
    assert not torch.equal(out, changed)


@pytest.mark.parametrize("start", range(4))
def test_class_tokens_may_start_at_any_block(start):
    assert network(trained=True, start=start)(*inputs()).shape == (2, 3, 16, 16)


def test_in_context_positions_leave_class_tokens_unrotated():
    net = network()
    x = torch.randn(1, 2, TOKENS + 16, 16, generator=torch.Generator().manual_seed(0))
    rotated = net.rope_in_context(x)
    assert torch.equal(rotated[:, :, :TOKENS], x[:, :, :TOKENS])
    torch.testing.assert_close(rotated[:, :, TOKENS:], net.rope(x[:, :, TOKENS:]))
    assert not torch.allclose(rotated[:, :, TOKENS + 1 :], x[:, :, TOKENS + 1 :])


def test_output_depends_on_z_t_and_y():
    net, (z, t, y) = network(trained=True), inputs()
    out = net(z, t, y)
    for changed in [(z + 0.1, t, y), (z, t + 0.05, y), (z, t, y + 1)]:
        assert not torch.allclose(net(*changed), out, atol=1e-4)


def test_samples_of_a_batch_do_not_mix():
    net, (z, t, y) = network(trained=True), inputs(4)
    whole = net(z, t, y)
    for i in range(4):
        torch.testing.assert_close(
            net(z[i : i + 1], t[i : i + 1], y[i : i + 1]), whole[i : i + 1], rtol=1e-4, atol=1e-5
        )


def test_unpatchify_undoes_the_cutting_of_patches():
    net = network()
    image, p = inputs()[0], net.patch_size
    cut = image.unfold(2, p, p).unfold(3, p, p)  # (B, C, rows, columns, p, p)
    assert torch.equal(net._unpatchify(cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)), image)


def test_positions_are_distinct_and_fixed():
    positions = sincos_positions(32, 4)
    assert positions.shape == (1, 16, 32)
    assert len(positions[0].unique(dim=0)) == 16
    # The first half follows the column, the second the row.
    by_place = positions.view(4, 4, 32)
    assert torch.equal(by_place[0, :, :16], by_place[3, :, :16])
    assert torch.equal(by_place[:, 0, 16:], by_place[:, 3, 16:])
    assert "pos_embed" not in dict(network().named_parameters())


def test_forward_and_backward_compile_as_one_graph():
    torch._dynamo.reset()
    net = network(trained=True)
    expected = net(*inputs())
    compiled = torch.compile(net, fullgraph=True, backend="eager")(*inputs())
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-5)
    compiled.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    torch._dynamo.reset()


def test_bf16_autocast_does_not_warn():
    # torch gives this warning once a process, unless told otherwise.
    torch.set_warn_always(True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            network(trained=True)(*inputs())
    finally:
        torch.set_warn_always(False)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_bf16_autocast_stays_near_float32():
    net = network(trained=True)
    expected = net(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        out = net(*inputs())
    out.float().square().mean().backward()
    assert float((out - expected).detach().norm() / expected.detach().norm()) < 0.05
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_the_network_can_be_built_without_memory():
    with torch.device("meta"):
        net = network()
    assert {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} == {"meta"}
    assert net(*(tensor.to("meta") for tensor in inputs())).shape == (2, 3, 16, 16)
    assert net.state_dict().keys() == network().state_dict().keys()


def configs(**kwargs) -> list[Config]:
    question = load.load_question(ROOT, "noise_vs_x")
    return [load.resolve(ROOT, question, "digits", arm, [], **kwargs) for arm in question.arms]


def test_all_arms_start_from_the_same_weights():
    first, *others = [build_network(config).state_dict() for config in configs()]
    assert len(others) >= 2
    for other in others:
        assert all(torch.equal(other[name], value) for name, value in first.items())


def test_another_seed_starts_from_other_weights():
    ours, theirs = (build_network(configs(seed=seed)[0]) for seed in (0, 1))
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b) == (a.count_nonzero() == 0 or bool((a == 1).all())), name


def test_weights_do_not_depend_on_the_global_generator():
    torch.manual_seed(1)
    ours = build_network(configs()[0]).state_dict()["x_embedder.proj1.weight"]
    torch.manual_seed(2)
    assert torch.equal(ours, build_network(configs()[0]).state_dict()["x_embedder.proj1.weight"])
