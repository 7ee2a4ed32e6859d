import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jitlab.training.ema import Averages

decays = st.lists(st.floats(0, 0.9999), min_size=1, max_size=4, unique=True)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2)).double()


def change(module, step):
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def copies(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@given(decays, st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_averages_have_their_closed_form(decays, steps):
    module = network()
    averages = Averages(module, decays)
    history = [copies(module)]
    for step in range(steps):
        change(module, step)
        averages.update()
        history.append(copies(module))
    for decay in decays:
        for name, average in averages.state_dict()[str(decay)].items():
            expected = decay**steps * history[0][name]
            for step in range(1, steps + 1):
                expected = expected + (1 - decay) * decay ** (steps - step) * history[step][name]
            torch.testing.assert_close(average, expected, rtol=1e-9, atol=1e-12)


def trained():
    module = network()
    averages = Averages(module, [0.5, 0.9])
    for step in range(3):
        change(module, step)
        averages.update()
    return module, averages


def test_update_leaves_the_raw_weights_alone():
    module, averages = trained()
    before = copies(module)
    averages.update()
    assert all(torch.equal(before[name], tensor) for name, tensor in copies(module).items())


@pytest.mark.parametrize("raises", [False, True])
def test_average_is_in_the_network_for_the_block_alone(raises):
    module, averages = trained()
    raw = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    wanted = {name: tensor.clone() for name, tensor in averages.state_dict()["0.9"].items()}
    try:
        with averages.applied(0.9):
            assert all(torch.equal(wanted[name], tensor) for name, tensor in copies(module).items())
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert raises
    assert all(torch.equal(raw[name], tensor) for name, tensor in module.state_dict().items())
    assert all(torch.equal(wanted[name], tensor) for name, tensor in averages.state_dict()["0.9"].items())


def test_within_autocast_the_network_computes_with_the_average_that_is_applied():
    module = network().float()
    averages = Averages(module, [0.5, 0.9])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    averages.update()
    z = torch.ones(4, 3)

    def output(decay):
        with torch.autocast("cpu", torch.bfloat16), averages.applied(decay):
            return module(z)

    alone = {decay: output(decay) for decay in (0.5, 0.9)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        module(z)
        for decay in (0.5, 0.9):
            with averages.applied(decay):
                assert torch.equal(module(z), alone[decay])
    assert not torch.equal(alone[0.5], alone[0.9])


def test_an_optimizer_still_trains_the_network_after_an_average_was_applied():
    module, averages = trained()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    with averages.applied(0.5):
        pass
    before = copies(module)
    module(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    assert not torch.equal(before["0.weight"], module[0].weight)
    assert not torch.equal(module[0].weight, averages.state_dict()["0.5"]["0.weight"])


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 200))
@settings(deadline=None)
def test_initial_share_is_what_an_average_of_one_then_zeros_holds(decay, steps):
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(module.weight)
    averages = Averages(module, [decay])
    nn.init.zeros_(module.weight)
    for _ in range(steps):
        averages.update()
    share = float(averages.state_dict()[str(decay)]["weight"])
    assert Averages.initial_share(decay, steps) == pytest.approx(share, rel=1e-9, abs=1e-12)


def test_state_is_restored_whatever_other_decays_it_holds():
    _, averages = trained()
    other = Averages(network(1), [0.9])
    other.load_state_dict(averages.state_dict())
    for name, tensor in averages.state_dict()["0.9"].items():
        assert torch.equal(other.state_dict()["0.9"][name], tensor)


def test_restored_averages_do_not_share_memory_with_the_checkpoint():
    _, averages = trained()
    state = averages.state_dict()
    other = Averages(network(1), [0.9])
    other.load_state_dict(state)
    before = state["0.9"]["0.weight"].clone()
    other.update()
    assert torch.equal(state["0.9"]["0.weight"], before)


def test_state_without_one_of_the_averages_is_refused():
    _, averages = trained()
    with pytest.raises(KeyError, match=r"0\.99"):
        Averages(network(), [0.5, 0.99]).load_state_dict(averages.state_dict())


@pytest.mark.parametrize("other", [nn.Linear(3, 5), nn.Sequential(*network(), nn.Linear(2, 2))])
def test_state_of_other_parameters_is_refused(other):
    _, averages = trained()
    with pytest.raises(KeyError, match="parameters"):
        Averages(other.double(), [0.5]).load_state_dict(averages.state_dict())
