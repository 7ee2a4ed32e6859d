"""A seeded Inception of the published one's shape, in a file: features of use without its weights."""

from pathlib import Path
from unittest.mock import patch

import torch
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class Unloaded(FeatureExtractorInceptionV3):  # type: ignore[misc]
    def load_state_dict(self, state_dict):
        """Keep the initial weights."""


def write_inception(path: Path) -> Path:
    """Write weights of He's initialisation: PyTorch's own would leave features near 1e-8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with patch.object(feature_extractor_inceptionv3, "load_state_dict_from_url", return_value={}):
            network = Unloaded("inception", ["2048"])
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        # Logits that tell images apart, so that there is an Inception Score.
        torch.nn.init.normal_(network.fc.weight)
    torch.save(network.state_dict(), path)
    return path
