"""Just image Transformers (Sec. 4, Table 9): a plain ViT on raw pixel patches, conditioned on t and class."""

import torch
from torch import Tensor, nn

from jitlab.models.layers import (
    BottleneckPatchEmbed,
    FinalLayer,
    JiTBlock,
    LabelEmbedder,
    Rope2d,
    TimeEmbedder,
)

EMBEDDING_STD = 0.02


class JiT(nn.Module):
    """The network; what its output means (x, eps or v) is the objective's affair."""

    pos_embed: Tensor

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        num_classes: int,
        bottleneck_dim: int,
        in_context_tokens: int,
        in_context_start: int,
        mlp_ratio: float = 4.0,
        channels: int = 3,
    ) -> None:
        """Build and initialise; sizes are in pixels, `in_context_start` counts blocks from 0."""
        super().__init__()
        self.patch_size = patch_size
        self.channels = channels
        self.grid = image_size // patch_size
        self.in_context_tokens = in_context_tokens
        self.in_context_start = in_context_start
        self.t_embedder = TimeEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.x_embedder = BottleneckPatchEmbed(patch_size, channels, bottleneck_dim, hidden_size)
        self.register_buffer("pos_embed", sincos_positions(hidden_size, self.grid))
        if in_context_tokens:
            self.in_context_posemb = nn.Parameter(torch.empty(1, in_context_tokens, hidden_size))
        head_dim = hidden_size // num_heads
        self.rope = Rope2d(head_dim, self.grid, prefix=0)
        self.rope_in_context = Rope2d(head_dim, self.grid, prefix=in_context_tokens)
        self.blocks = nn.ModuleList(JiTBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * channels)
        self._initialise()

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Map noisy images z (B, C, H, W), times t (B,) and labels y (B,) to an output like z."""
        y_embedding = self.y_embedder(y)
        c = self.t_embedder(t) + y_embedding
        x = self.x_embedder(z) + self.pos_embed
        rope = self.rope
        for index, block in enumerate(self.blocks):
            if self.in_context_tokens and index == self.in_context_start:
                x = torch.cat([y_embedding.unsqueeze(1) + self.in_context_posemb, x], dim=1)
                rope = self.rope_in_context
            x = block(x, c, rope)
        return self._unpatchify(self.final_layer(x[:, self.in_context_tokens :], c))

    def _unpatchify(self, pixels: Tensor) -> Tensor:
        # (B, grid², p p C) -> (B, C, grid p, grid p)
        patches = pixels.unflatten(2, (self.patch_size, self.patch_size, self.channels))
        patches = patches.unflatten(1, (self.grid, self.grid))
        images: Tensor = patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return images

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for projection in (self.x_embedder.proj1, self.x_embedder.proj2):
            nn.init.xavier_uniform_(projection.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj2.bias)  # type: ignore[arg-type]
        embeddings = [self.y_embedder.embedding_table, self.t_embedder.mlp[0], self.t_embedder.mlp[2]]
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=EMBEDDING_STD)  # type: ignore[arg-type]
        if self.in_context_tokens:
            nn.init.normal_(self.in_context_posemb, std=EMBEDDING_STD)
        # adaLN-Zero: every block starts as the identity, and the network's output as zero.
        for modulated in (*self.blocks, self.final_layer):
            nn.init.zeros_(modulated.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)


def sincos_positions(width: int, grid: int) -> Tensor:
    """Return fixed 2-D positions (1, grid², width): quarters of sine and cosine of the column, then of the row."""
    quarter = width // 4
    frequencies = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (grid, width / 2)
    columns = axis[None].expand(grid, grid, -1)
    rows = axis[:, None].expand(grid, grid, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).unsqueeze(0).float()
