"""Reads the golden vectors; README.md beside this file says what they hold."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jitlab.models.jit import JiT

FOLDER = Path(__file__).parent
NAMES = ("tiny", "tiny_no_context")


def load(name: str) -> tuple[JiT, dict[str, Tensor]]:
    """Return the official network with its weights, and all vectors by their names."""
    sizes = json.loads((FOLDER / f"{name}.json").read_text())
    vectors = {key: torch.from_numpy(array) for key, array in np.load(FOLDER / f"{name}.npz").items()}
    network = JiT(
        image_size=sizes["input_size"],
        patch_size=sizes["patch_size"],
        channels=sizes["in_channels"],
        hidden_size=sizes["hidden_size"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        mlp_ratio=sizes["mlp_ratio"],
        num_classes=sizes["num_classes"],
        bottleneck_dim=sizes["bottleneck_dim"],
        in_context_tokens=sizes["in_context_len"],
        in_context_start=sizes["in_context_start"],
    )
    state = {key.removeprefix("state/"): value for key, value in vectors.items() if key.startswith("state/")}
    network.load_state_dict(state, strict=True)
    return network, vectors
