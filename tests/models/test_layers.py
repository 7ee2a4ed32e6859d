import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.models.layers import Attention, JiTBlock, PatchEmbed, Rope2d, SwiGLU, TimeEmbedder, modulate

GRID = 3


def random(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=10)
@given(prefix=st.integers(0, 5), head_dim=st.sampled_from([4, 8, 16]))
def test_rotary_positions_leave_class_tokens_and_lengths_as_they_are(prefix, head_dim):
    x = random(2, 2, prefix + GRID**2, head_dim)
    rotated = Rope2d(head_dim, GRID, prefix)(x)
    assert torch.equal(rotated[..., :prefix, :], x[..., :prefix, :])
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    if prefix:
        torch.testing.assert_close(rotated[..., prefix:, :], Rope2d(head_dim, GRID, 0)(x[..., prefix:, :]))


def test_rotary_positions_turn_every_patch_but_the_first_differently():
    x = torch.ones(1, 1, GRID**2, 8)
    rotated = Rope2d(8, GRID, 0)(x)[0, 0]
    assert torch.equal(rotated[0], x[0, 0, 0])
    assert len(rotated.unique(dim=0)) == GRID**2


def test_rotated_products_depend_on_the_offset_alone():
    q, k = random(2, 8)
    rope = Rope2d(8, GRID, 0)
    products = rope(q.expand(1, 1, GRID**2, 8))[0, 0] @ rope(k.expand(1, 1, GRID**2, 8))[0, 0].T
    products = products.view(GRID, GRID, GRID, GRID)
    torch.testing.assert_close(products[0, 0, 1, 1], products[1, 1, 2, 2])
    torch.testing.assert_close(products[0, 1, 1, 0], products[1, 2, 2, 1])
    assert not torch.isclose(products[0, 0, 0, 1], products[0, 0, 1, 0])


def test_half_of_a_head_turns_with_the_row_and_half_with_the_column():
    turned = (Rope2d(8, GRID, 0)(torch.ones(1, 1, GRID**2, 8))[0, 0] - 1).view(GRID, GRID, 8)
    assert turned[0, 1, :4].abs().max() == 0
    assert turned[0, 1, 4:].abs().max() > 0
    assert turned[1, 0, :4].abs().max() > 0
    assert turned[1, 0, 4:].abs().max() == 0


def test_attention_without_positions_does_not_know_the_order_of_tokens():
    torch.manual_seed(0)
    attention = Attention(16, 2, qk_norm=True, dropout=0.0)
    unmoved = Rope2d(8, 0, prefix=6)
    x, order = random(2, 6, 16), [3, 1, 5, 0, 4, 2]
    torch.testing.assert_close(attention(x[:, order], unmoved), attention(x, unmoved)[:, order])


def test_attention_does_not_depend_on_the_length_of_queries_and_keys():
    torch.manual_seed(0)
    attention, rope, x = Attention(16, 2, qk_norm=True, dropout=0.0), Rope2d(8, GRID, 0), random(2, GRID**2, 16)
    before = attention(x, rope)
    with torch.no_grad():
        attention.qkv.weight[:32] *= 3  # queries and keys; qk-norm undoes it
        attention.qkv.bias[:32] *= 3
    torch.testing.assert_close(attention(x, rope), before, rtol=1e-3, atol=1e-5)


def test_a_block_without_gates_is_the_identity():
    block, x = JiTBlock(16, 2, 4.0, qk_norm=True, norm="rmsnorm", mlp="swiglu", dropout=0.0), random(2, GRID**2, 16)
    for parameter in block.adaLN_modulation.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(block(x, random(2, 16), Rope2d(8, GRID, 0)), x)


@pytest.mark.parametrize(("hidden", "ratio", "inner"), [(128, 4.0, 341), (768, 4.0, 2048), (48, 2.0, 64)])
def test_the_gated_mlp_has_two_thirds_of_the_width(hidden, ratio, inner):
    mlp = SwiGLU(hidden, ratio, 0.0)
    assert (mlp.w12.out_features, mlp.w3.in_features) == (2 * inner, inner)


def test_patches_are_embedded_row_by_row_and_apart():
    torch.manual_seed(0)
    embed = PatchEmbed(4, 3, 5, 16)
    images = random(1, 3, 8, 12)
    changed = images.clone()
    changed[..., 4:8, 8:12] += 1  # row 1, column 2 of a 2 x 3 grid
    moved = (embed(changed) - embed(images)).abs().amax(-1)[0]
    assert moved.gt(1e-4).tolist() == [False] * 5 + [True]
    assert torch.linalg.matrix_rank(embed(random(40, 3, 4, 4)).flatten(0, 1) - embed.proj2.bias).item() == 5


def test_times_are_told_apart_and_embedded_in_float32():
    torch.manual_seed(0)
    embedder = TimeEmbedder(16)
    embedded = embedder(torch.linspace(0, 1, 101))
    assert torch.cdist(embedded, embedded).add(torch.eye(101) * 9).min() > 1e-4
    assert torch.equal(embedder(torch.tensor([0.5], dtype=torch.float64)), embedder(torch.tensor([0.5])))


def test_modulation_is_per_sample():
    x = torch.ones(2, 3, 4)
    shift, scale = torch.tensor([0.0, 1.0])[:, None].expand(2, 4), torch.tensor([1.0, 2.0])[:, None].expand(2, 4)
    assert modulate(x, shift, scale)[:, 0, 0].tolist() == [2.0, 4.0]
