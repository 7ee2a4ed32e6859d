"""The layers of the JiT transformer, under the official parameter names."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6
NormKind = Literal["rmsnorm", "layernorm"]
MlpKind = Literal["swiglu", "gelu"]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale tokens (B, N, D) by conditioning (B, D), as adaLN does."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def norm_layer(kind: NormKind, width: int) -> nn.Module:
    """Return a normalisation of vectors of this width; LayerNorm as in DiT, whose scale and shift are adaLN's alone."""
    if kind == "rmsnorm":
        return nn.RMSNorm(width, eps=NORM_EPS)
    return nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)


class PatchEmbed(nn.Module):
    """Embed patches linearly, through a bottleneck (Sec. 4.4) unless its width is 0, (B, 3, H, W) -> (B, N, D)."""

    def __init__(self, patch_size: int, channels: int, bottleneck_dim: int, hidden_size: int) -> None:
        super().__init__()
        if bottleneck_dim:
            self.proj1 = nn.Conv2d(channels, bottleneck_dim, patch_size, stride=patch_size, bias=False)
            self.proj2: nn.Module = nn.Conv2d(bottleneck_dim, hidden_size, 1)
        else:
            self.proj1 = nn.Conv2d(channels, hidden_size, patch_size, stride=patch_size)
            self.proj2 = nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, N, D), row by row."""
        tokens: Tensor = self.proj2(self.proj1(z))
        return tokens.flatten(2).transpose(1, 2)


class TimeEmbedder(nn.Module):
    """Embed t by sines and cosines and an MLP, (B,) -> (B, D)."""

    frequencies: Tensor

    def __init__(self, hidden_size: int, features: int = 256, max_period: float = 10_000) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(features, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        half = features // 2
        frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Embed t (B,) in [0, 1]."""
        angles = t.float()[:, None] * self.frequencies
        embedded: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))
        return embedded


class LabelEmbedder(nn.Module):
    """Look up class embeddings; the last row stands for no class, (B,) -> (B, D)."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        """Embed labels y (B,) in 0..num_classes."""
        embedded: Tensor = self.embedding_table(y)
        return embedded


class Rope2d(nn.Module):
    """Rotate queries and keys by their patch's row and column; the first `prefix` tokens stay as they are.

    Half of a head's dimensions turn with the row, half with the column; dimensions are paired (0, 1), (2, 3), ...
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, grid: int, prefix: int, theta: float = 10_000) -> None:
        super().__init__()
        half = head_dim // 2
        frequencies = theta ** -(torch.arange(0, half, 2, dtype=torch.float32) / half)
        angles = torch.arange(grid, dtype=torch.float32)[:, None] * frequencies  # (grid, half / 2)
        angles = angles.repeat_interleave(2, dim=-1)  # (grid, half)
        rows = angles[:, None].expand(grid, grid, half)
        columns = angles[None].expand(grid, grid, half)
        angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # (N, head_dim)
        angles = torch.cat([angles.new_zeros(prefix, head_dim), angles])
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate x (B, heads, N, head_dim)."""
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        rotated: Tensor = x * self.cos + turned * self.sin
        return rotated


class Attention(nn.Module):
    """Multi-head self-attention, with qk-norm and rotary positions where they are asked for."""

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        head_dim = hidden_size // num_heads
        self.q_norm = nn.RMSNorm(head_dim, eps=NORM_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(head_dim, eps=NORM_EPS) if qk_norm else nn.Identity()
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, rope: nn.Module) -> Tensor:
        """Attend within tokens x (B, N, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind()  # (B, heads, N, head_dim)
        # In float32 under autocast too, as the official implementation does.
        q, k = rope(self.q_norm(q.float())), rope(self.k_norm(k.float()))
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, dropout_p=dropout)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return F.dropout(projected, self.dropout, self.training)


class SwiGLU(nn.Module):
    """Gated MLP; two thirds of the hidden width, so that it has a plain MLP's parameters."""

    def __init__(self, hidden_size: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        inner = int(int(hidden_size * mlp_ratio) * 2 / 3)
        self.dropout = dropout
        self.w12 = nn.Linear(hidden_size, 2 * inner)
        self.w3 = nn.Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens x (B, N, D)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        transformed: Tensor = self.w3(F.dropout(F.silu(gate) * value, self.dropout, self.training))
        return transformed


class GeluMlp(nn.Module):
    """Plain MLP, as in DiT."""

    def __init__(self, hidden_size: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        inner = int(hidden_size * mlp_ratio)
        self.dropout = dropout
        self.fc1 = nn.Linear(hidden_size, inner)
        self.fc2 = nn.Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens x (B, N, D)."""
        hidden = F.gelu(self.fc1(x), approximate="tanh")
        transformed: Tensor = self.fc2(F.dropout(hidden, self.dropout, self.training))
        return transformed


MLPS: dict[MlpKind, type[SwiGLU] | type[GeluMlp]] = {"swiglu": SwiGLU, "gelu": GeluMlp}


class JiTBlock(nn.Module):
    """Transformer block whose shifts, scales and gates come from the conditioning (adaLN-Zero)."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        *,
        qk_norm: bool,
        norm: NormKind,
        mlp: MlpKind,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, hidden_size)
        self.attn = Attention(hidden_size, num_heads, qk_norm, dropout)
        self.norm2 = norm_layer(norm, hidden_size)
        self.mlp = MLPS[mlp](hidden_size, mlp_ratio, dropout)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, c: Tensor, rope: nn.Module) -> Tensor:
        """Transform tokens x (B, N, D) under conditioning c (B, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1), rope)
        transformed: Tensor = x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))
        return transformed


class FinalLayer(nn.Module):
    """Modulate tokens and project each to its patch's pixels."""

    def __init__(self, hidden_size: int, out_features: int, norm: NormKind) -> None:
        super().__init__()
        self.norm_final = norm_layer(norm, hidden_size)
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Project tokens x (B, N, D) under conditioning c (B, D) to (B, N, out_features)."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        pixels: Tensor = self.linear(modulate(self.norm_final(x), shift, scale))
        return pixels
