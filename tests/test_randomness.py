import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.randomness import image_noise, numpy_generator, sde_noise, seed_of, seeded, torch_generator

few = settings(deadline=None, max_examples=15)
words = st.one_of(st.integers(), st.text(max_size=5))


def test_the_hash_never_changes():
    assert seed_of("noise", 0, 1, 17) == 5881692194026988471


@settings(deadline=None, max_examples=50)
@given(a=st.lists(words, max_size=4), b=st.lists(words, max_size=4))
def test_positions_have_seeds_of_their_own(a, b):
    assert (seed_of(*a) == seed_of(*b)) == (a == b)
    assert 0 <= seed_of(*a) < 2**63


@pytest.mark.parametrize(("a", "b"), [((1, 23), (12, 3)), (("1",), (1,)), (("a", "b"), ("a, b",)), ((0,), (0, 0))])
def test_positions_that_read_alike_are_told_apart(a, b):
    assert seed_of(*a) != seed_of(*b)


@few
@given(cut=st.integers(0, 12), seed=st.integers(0, 2**40))
def test_image_noise_does_not_depend_on_the_batch(cut, seed):
    whole = image_noise(seed, range(12), (3, 4))
    parts = [image_noise(seed, part, (3, 4)) for part in (range(cut), range(cut, 12))]
    assert torch.equal(whole, torch.cat(parts))


@few
@given(order=st.permutations(range(6)), step=st.integers(0, 50))
def test_sde_noise_follows_seed_index_and_step(order, step):
    noise = sde_noise(1, range(6), step, (2, 5))
    assert torch.equal(sde_noise(1, order, step, (2, 5)), noise[order])
    alone = numpy_generator("sde", 1, 4, step).standard_normal(10, dtype=np.float32)
    assert noise[4].flatten().tolist() == alone.tolist()
    others = [sde_noise(2, range(6), step, (2, 5)), sde_noise(1, range(6), step + 1, (2, 5))]
    for other in (*others, image_noise(1, range(6), (2, 5))):
        assert not torch.isin(noise, other).any()


@few
@given(order=st.permutations(range(6)))
def test_image_noise_follows_the_index(order):
    assert torch.equal(image_noise(0, order, (5,)), image_noise(0, range(6), (5,))[order])


def test_image_noise_is_one_value_for_ever():
    # Philox and its normal variates; a change here changes every picture ever logged.
    expected = numpy_generator("image", 3, 17).standard_normal(6, dtype=np.float32)
    assert image_noise(3, [17], (2, 3)).flatten().tolist() == expected.tolist()


def test_image_noise_is_standard_normal_and_unlike_between_images_and_seeds():
    noise = torch.cat([image_noise(seed, range(50), (200,)) for seed in (0, 1)])
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 5 / 20_000**0.5
    assert abs(noise.std() - 1) < 5 / 40_000**0.5
    assert (torch.corrcoef(noise) - torch.eye(100)).abs().max() < 6 / 200**0.5


def test_numpy_indices_give_the_same_noise():
    assert torch.equal(image_noise(0, np.arange(3), (4,)), image_noise(0, range(3), (4,)))  # type: ignore[arg-type]


def test_generators_belong_to_their_position_alone():
    cpu = torch.device("cpu")

    def draw(*position) -> list[float]:
        return torch.rand(4, generator=torch_generator(cpu, *position)).tolist()

    assert draw("t", 0, 1) == draw("t", 0, 1)
    assert len({tuple(draw(*position)) for position in [("t", 0, 1), ("t", 1, 0), ("eps", 0, 1), ("t", 0, 2)]}) == 4


def test_seeded_blocks_repeat_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded("weights", 0):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    with seeded("weights", 0):
        assert torch.equal(torch.rand(3), first)
    with seeded("weights", 1):
        assert not torch.equal(torch.rand(3), first)


def test_seeded_restores_the_global_generator_after_an_error():
    before = torch.get_rng_state()
    with contextlib.suppress(ZeroDivisionError), seeded("weights", 0):
        torch.rand(3)
        1 / 0  # noqa: B018
    assert torch.equal(torch.get_rng_state(), before)


def test_numpy_and_python_generators_are_not_touched():
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    image_noise(0, range(3), (4,))
    with seeded("weights", 0):
        torch.rand(1)
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]
