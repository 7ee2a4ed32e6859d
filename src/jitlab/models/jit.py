"""Just image Transformers (Sec. 4, Table 9): a plain ViT on raw pixel patches, conditioned on t and class."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jitlab.models.layers import (
    FinalLayer,
    JiTBlock,
    LabelEmbedder,
    MlpKind,
    NormKind,
    PatchEmbed,
    Rope2d,
    TimeEmbedder,
)

EMBEDDING_STD = 0.02


@dataclass(frozen=True)
class JiTSize:
    """One row of Table 9; the in-context tokens' number and the MLP's ratio are the same in all."""

    depth: int
    hidden_size: int
    num_heads: int
    bottleneck_dim: int
    in_context_start: int
    dropout: float


SIZES = {
    "b": JiTSize(12, 768, 12, 128, 4, 0.0),
    "l": JiTSize(24, 1024, 16, 128, 8, 0.0),
    "h": JiTSize(32, 1280, 16, 256, 10, 0.2),
    "g": JiTSize(40, 1664, 16, 256, 10, 0.2),
}
PATCH_SIZES = (4, 16, 32, 64)
PATCHES_PER_SIDE = 16
IN_CONTEXT_TOKENS = 32
IMAGENET_CLASSES = 1000
IMAGE_CHANNELS = 3


def published_names() -> list[str]:
    """Return the names of the paper's sizes, `jit_b_4` to `jit_g_64`."""
    return [f"jit_{size}_{patch_size}" for size in SIZES for patch_size in PATCH_SIZES]


def published_side(name: str) -> int:
    """Return the height and width, pixels, that a size of the paper is for."""
    return PATCHES_PER_SIDE * int(name.rpartition("_")[2])


def published(name: str) -> "JiT":
    """Return one of the paper's networks for ImageNet, at the resolution of 16 x 16 patches (Table 9)."""
    _, size, patch_size = name.split("_")
    row = SIZES[size]
    return JiT(
        image_size=published_side(name),
        patch_size=int(patch_size),
        hidden_size=row.hidden_size,
        depth=row.depth,
        num_heads=row.num_heads,
        num_classes=IMAGENET_CLASSES,
        bottleneck_dim=row.bottleneck_dim,
        in_context_tokens=IN_CONTEXT_TOKENS,
        in_context_start=row.in_context_start,
        dropout=row.dropout,
    )


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
        rope: bool = True,
        qk_norm: bool = True,
        norm: NormKind = "rmsnorm",
        mlp: MlpKind = "swiglu",
        dropout: float = 0.0,
        class_head_block: int = 0,
    ) -> None:
        """Build and initialise.

        Args:
            image_size: pixels; a multiple of `patch_size`.
            patch_size: pixels.
            hidden_size: width of a token.
            depth: blocks.
            num_heads: attention heads.
            num_classes: classes; label `num_classes` is no class.
            bottleneck_dim: width of the patch embedding's bottleneck; 0 for none (Fig. 4).
            in_context_tokens: class tokens before the patches; 0 for none (Table 4).
            in_context_start: the first block that sees them, from 0.
            mlp_ratio: a plain MLP's hidden width over hidden_size.
            channels: of an image.
            rope: rotary positions (Table 4).
            qk_norm: normalised queries and keys (Table 4).
            norm: the blocks' normalisation (Table 4).
            mlp: the blocks' MLP (Table 4).
            dropout: of attention and MLP in the middle half of the blocks (Table 9).
            class_head_block: blocks that see no class and end in a linear classifier (Table 11); 0 for none.
        """
        super().__init__()
        self.patch_size = patch_size
        self.channels = channels
        self.grid = image_size // patch_size
        self.in_context_tokens = in_context_tokens
        self.in_context_start = in_context_start
        self.class_head_block = class_head_block
        self.t_embedder = TimeEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.x_embedder = PatchEmbed(patch_size, channels, bottleneck_dim, hidden_size)
        self.register_buffer("pos_embed", sincos_positions(hidden_size, self.grid))
        if in_context_tokens:
            self.in_context_posemb = nn.Parameter(torch.empty(1, in_context_tokens, hidden_size))
        head_dim = hidden_size // num_heads
        self.rope = Rope2d(head_dim, self.grid, prefix=0) if rope else nn.Identity()
        self.rope_in_context = Rope2d(head_dim, self.grid, prefix=in_context_tokens) if rope else nn.Identity()
        middle = range(depth // 4, depth // 4 * 3)
        self.blocks = nn.ModuleList(
            JiTBlock(
                hidden_size,
                num_heads,
                mlp_ratio,
                qk_norm=qk_norm,
                norm=norm,
                mlp=mlp,
                dropout=dropout if index in middle else 0.0,
            )
            for index in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * channels, norm)
        self._initialise()
        if class_head_block:
            # After all others, so that those start with the same weights with and without it.
            self.class_head = nn.Linear(hidden_size, num_classes)

    def forward(self, z: Tensor, t: Tensor, y: Tensor, with_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Map noisy images z (B, C, H, W), times t (B,) and labels y (B,) to an output like z.

        `with_logits` returns class logits (B, num_classes), from the blocks that see no class, beside it.
        """
        t_embedding, y_embedding = self.t_embedder(t), self.y_embedder(y)
        c = t_embedding + y_embedding
        x = self.x_embedder(z) + self.pos_embed
        rope, logits = self.rope, x.new_zeros(0)
        for index, block in enumerate(self.blocks):
            if self.in_context_tokens and index == self.in_context_start:
                x = torch.cat([y_embedding.unsqueeze(1) + self.in_context_posemb, x], dim=1)
                rope = self.rope_in_context
            x = block(x, t_embedding if index < self.class_head_block else c, rope)
            if with_logits and index + 1 == self.class_head_block:
                logits = self.class_head(x.mean(dim=1))
        output = self._unpatchify(self.final_layer(x[:, self.in_context_tokens :], c))
        return (output, logits) if with_logits else output

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
        for module in self.x_embedder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
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
