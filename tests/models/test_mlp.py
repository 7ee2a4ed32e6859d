import torch

from jitlab.models.mlp import MLP


def test_layers_are_as_many_and_as_wide_as_asked():
    shapes = [tuple(p.shape) for name, p in MLP(16, hidden_size=256, depth=5).named_parameters() if "weight" in name]
    assert shapes == [(256, 17), (256, 256), (256, 256), (256, 256), (16, 256)]


def test_output_is_like_z_and_depends_on_z_and_t_but_not_on_the_label():
    network = MLP(8, hidden_size=32, depth=3)
    z, t, y = torch.randn(4, 8), torch.rand(4), torch.zeros(4, dtype=torch.long)
    output = network(z, t, y)
    assert output.shape == z.shape
    assert torch.equal(output, network(z, t, y + 1))
    assert not torch.allclose(output, network(z, t + 0.5, y))
    assert not torch.allclose(output, network(z + 0.5, t, y))
