import pickle
import time
from itertools import chain, islice

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlab.datasets.index import Index
from jitlab.datasets.order import Order, Position, PositionSampler, Reference
from tests.datasets.folders import images_of

shard_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=12)
seeds = st.integers(0, 2**31)
START = Position(0, 0)
few = settings(deadline=None, max_examples=40)


def ordered(sizes, batch_size=1, seed=0, partitions=1):
    return Order(sizes, batch_size, seed, window=4, partitions=partitions)


def epoch_order(sizes, seed, epoch):
    return np.concatenate(list(ordered(sizes, seed=seed).batches(Position(epoch, 0))))


def sampler(sizes, batch_size, seed=0, rank=0, world_size=1, position=START):
    return PositionSampler(ordered(sizes, batch_size, seed), rank, world_size, lambda: position)


def trained_batches(sizes, batch_size, step, steps):
    """Train from `step` to `steps`, and never ask for a batch more than an epoch has, as Lightning does."""
    order, found = ordered(sizes, batch_size), []
    length = order.batches_per_epoch
    made = PositionSampler(order, 0, 1, lambda: order.after(START, step))
    while step < steps:
        for batch in islice(made, length - step % length):
            found.append(batch)
            step += 1
    return found[: len(found) - (step - steps)]


@given(shard_sizes, seeds, st.integers(0, 1000))
@few
def test_epoch_order_is_a_permutation_and_always_the_same(sizes, seed, epoch):
    order = epoch_order(sizes, seed, epoch)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    np.testing.assert_array_equal(order, epoch_order(sizes, seed, epoch))


@given(st.lists(st.integers(20, 40), min_size=1, max_size=10), seeds, st.integers(0, 1000))
@few
def test_epoch_order_differs_between_epochs_and_seeds(sizes, seed, epoch):
    order = epoch_order(sizes, seed, epoch).tolist()
    assert order != epoch_order(sizes, seed, epoch + 1).tolist()
    assert order != epoch_order(sizes, seed + 1, epoch).tolist()


def test_epoch_order_mixes_the_samples_of_neighbouring_shards():
    order = epoch_order([100] * 4, 0, 0)
    assert len({index // 100 for index in order[:20]}) == 4


@given(st.data())
@few
def test_what_follows_a_restored_position_is_the_tail_of_the_undisturbed_run(data):
    sizes = data.draw(shard_sizes)
    batch_size = data.draw(st.integers(1, sum(sizes)))
    steps = 3 * (sum(sizes) // batch_size)
    step = data.draw(st.integers(0, steps - 1))
    whole = trained_batches(sizes, batch_size, 0, steps)
    assert len(whole) == steps
    assert trained_batches(sizes, batch_size, step, steps) == whole[step:]


@given(st.lists(st.integers(20, 40), min_size=1, max_size=6))
@few
def test_every_epoch_of_a_run_has_an_order_of_its_own(sizes):
    first, second = trained_batches(sizes, sum(sizes), 0, 2)
    assert [reference.index for reference in first] != [reference.index for reference in second]


@given(st.data())
@few
def test_ranks_together_hold_the_global_batches_in_order(data):
    sizes = data.draw(shard_sizes)
    world_size = data.draw(st.integers(2, 4))
    local = data.draw(st.integers(1, max(1, sum(sizes) // world_size)))
    position = Position(data.draw(st.integers(0, 3)), 0)
    alone = list(sampler(sizes, local * world_size, position=position))
    shared = [list(sampler(sizes, local * world_size, 0, r, world_size, position)) for r in range(world_size)]
    assert [list(chain(*parts)) for parts in zip(*shared, strict=True)] == alone


@given(st.data())
@few
def test_length_is_a_whole_epoch_wherever_the_sampler_stands(data):
    sizes = data.draw(shard_sizes)
    batch_size = data.draw(st.integers(1, sum(sizes)))
    length = sum(sizes) // batch_size
    batch = data.draw(st.integers(0, length - 1))
    made = sampler(sizes, batch_size, position=Position(data.draw(st.integers(0, 5)), batch * batch_size))
    assert len(made) == length
    assert len(list(made)) == length - batch
    assert len(made) == length


@given(shard_sizes, st.integers(0, 5))
@few
def test_an_epoch_holds_no_sample_twice_and_says_which_epoch_it_is(sizes, epoch):
    batch_size = max(1, sum(sizes) // 3)
    references = [reference for batch in sampler(sizes, batch_size, position=Position(epoch, 0)) for reference in batch]
    assert len({reference.index for reference in references}) == len(references)
    assert {reference.epoch for reference in references} == {epoch}


@given(st.data())
@few
def test_partitions_give_equal_shares_of_every_batch_from_their_own_shards(data):
    partitions = data.draw(st.integers(2, 4))
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=partitions, max_size=12))
    share = data.draw(st.integers(1, min(sum(sizes[group::partitions]) for group in range(partitions))))
    order = ordered(sizes, share * partitions, partitions=partitions)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    epoch = data.draw(st.integers(0, 3))
    batches = list(order.batches(Position(epoch, 0)))
    assert len(batches) == order.batches_per_epoch >= 1
    for batch in batches:
        for group, part in enumerate(np.split(batch, partitions)):
            assert set(shard_of[part] % partitions) == {group}
    assert len(np.unique(np.concatenate(batches))) == len(batches) * share * partitions
    assert all(set(order.shards(epoch, group)) == set(range(len(sizes))[group::partitions]) for group in range(2))


@given(st.data())
@few
def test_the_position_after_some_steps_is_where_the_rest_of_the_run_goes_on(data):
    partitions = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.integers(4, 30), min_size=partitions, max_size=12))
    order = ordered(sizes, partitions * data.draw(st.integers(1, 4)), partitions=partitions)
    steps = data.draw(st.integers(0, 2 * order.batches_per_epoch))
    whole = [b.tolist() for epoch in range(3) for b in order.batches(Position(epoch, 0))]
    position = order.after(START, steps)
    rest = [b.tolist() for b in order.batches(position)]
    assert rest == whole[steps:][: len(rest)]
    assert len(rest) == order.batches_left(position) >= 1


@given(st.data())
@few
def test_another_batch_size_goes_on_with_the_samples_that_are_left(data):
    sizes, before, after = data.draw(shard_sizes), data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    before = min(before, sum(sizes))
    taken = data.draw(st.integers(0, sum(sizes) // before)) * before
    whole = epoch_order(sizes, 0, 0)
    rest = [*ordered(sizes, after).batches(Position(0, taken))]
    flat = np.concatenate(rest) if rest else whole[:0]
    np.testing.assert_array_equal(flat, whole[taken:][: len(flat)])
    assert len(whole) - taken - len(flat) < after


def test_going_on_deep_in_an_epoch_of_imagenet_takes_under_two_seconds():
    sizes = [1000] * 1281 + [167]
    order = Order(sizes, 1024, 0, 16)
    started = time.perf_counter()
    position = order.after(START, 5 * order.batches_per_epoch + 1200)
    batch = next(iter(PositionSampler(order, 0, 1, lambda: position)))
    assert time.perf_counter() - started < 2
    assert batch[0].epoch == 5
    assert position.taken == 1200 * 1024


def flips(images, epoch, count=60):
    plain = images_of(images.store.folder, images.index)
    flipped = []
    for place in range(count):
        image, unflipped = images[Reference(epoch, place)][0], plain[Reference(0, place)][0]
        mirrored = torch.equal(image, unflipped.flip(-1))
        assert mirrored or torch.equal(image, unflipped)
        flipped.append(mirrored)
    return flipped


def test_flips_are_a_function_of_seed_epoch_and_key(folder, index):
    one, other = (images_of(folder, index, seed=seed, flip=True) for seed in (1, 2))
    assert flips(one, 0) == flips(images_of(folder, index, seed=1, flip=True), 0)
    assert flips(one, 0) != flips(one, 1)
    assert flips(one, 0) != flips(other, 0)
    assert 0.25 < np.mean(flips(one, 0)) < 0.75
    # The key decides, not the place: the last shard alone flips as it does behind the others.
    start = int(one.starts[-2])
    shards, rows = index.split("train")
    last = Index(index.facts, {"train": shards[-1:]}, rows[start:])
    alone = images_of(folder, last, seed=1, flip=True)
    for row in range(60):
        assert torch.equal(alone[Reference(3, row)][0], one[Reference(3, start + row)][0])


def test_images_travel_to_a_worker_without_open_files(folder, index):
    images = images_of(folder, index)
    before = images[Reference(0, 5)][0]
    copy = pickle.loads(pickle.dumps(images))
    assert not copy._files
    assert torch.equal(copy[Reference(0, 5)][0], before)
