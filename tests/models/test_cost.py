import pytest
import torch
from torch import nn

from jitlab.models.cost import cost
from jitlab.models.jit import published

# GFLOPs of Tables 5 and 6, which count a multiply-add as one operation.
PAPER = {"jit_b_16": 25, "jit_b_32": 26, "jit_l_16": 88, "jit_h_32": 183, "jit_g_16": 383}


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, z, t, y) -> torch.Tensor:
        out: torch.Tensor = self.layer(z)
        return out


def test_a_multiply_add_counts_twice():
    found = cost(Linear, (6,))
    assert (found.parameters, found.forward_flops) == (35, 2 * 6 * 5)


@pytest.mark.parametrize(("name", "giga"), PAPER.items())
def test_the_paper_s_sizes_cost_what_it_says(name, giga):
    size = 16 * int(name.rpartition("_")[2])
    found = cost(lambda: published(name), (3, size, size))
    assert found.forward_flops / 2e9 == pytest.approx(giga, rel=0.03)
