from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jitlab.datasets.digits import build_digits
from jitlab.datasets.order import Position, Reference
from tests.datasets.folders import datamodule, one_line_error


def batches(module, count, rank=0, world_size=1, step=0):
    """Return the batches that follow a step, taken as Lightning takes them: never one more than an epoch has."""
    trainer = module.trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=world_size)
    loader, found, length = module.train_dataloader(), list[Any](), module.batches_per_epoch
    while len(found) < count:
        for batch in islice(loader, min(length - trainer.global_step % length, count - len(found))):
            found.append(batch)
            trainer.global_step += 1
    return found


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(first, second, strict=True)
    )


def at_step(module, step):
    module.trainer = SimpleNamespace(global_step=step, global_rank=0, world_size=1)
    return module


def test_batches_are_the_same_with_and_without_workers(folder):
    alone = batches(datamodule(folder, batch_size=600, flip=True), 5)
    helped = batches(datamodule(folder, batch_size=600, flip=True, workers=2), 5)
    assert same(alone, helped)


def test_images_and_labels_of_a_batch_have_the_declared_types(folder):
    images, labels, keys = batches(datamodule(folder), 1)[0]
    assert (images.shape, images.dtype) == ((100, 3, 16, 16), torch.uint8)
    assert (labels.shape, labels.dtype) == ((100,), torch.int64)
    assert len(set(keys)) == 100


def test_loader_has_the_length_of_an_epoch_wherever_it_starts(folder):
    module = datamodule(folder)
    assert len(module.train_dataloader()) == module.batches_per_epoch == 16
    module.load_state_dict(at_step(datamodule(folder), 57).state_dict())
    assert module.position_at(57) == Position(3, 900)
    assert len(module.train_dataloader()) == 16


@pytest.mark.parametrize("step", [0, 1, 3, 4, 5, 8, 11])
def test_restored_module_goes_on_with_the_batch_after_the_step(folder, step):
    whole = batches(datamodule(folder, batch_size=400), 12)
    state = at_step(datamodule(folder, batch_size=400), step).state_dict()
    restored = datamodule(folder, batch_size=400)
    restored.load_state_dict(state)
    assert same(batches(restored, 12 - step, step=step), whole[step:])


def test_two_processes_share_every_batch(folder):
    whole = batches(datamodule(folder), 2)
    parts = []
    for rank in range(2):
        parts.append(batches(datamodule(folder), 2, rank, 2))
    for step in range(2):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), whole[step][0])


def test_batch_that_processes_cannot_share_is_refused(folder):
    module = datamodule(folder)
    module.trainer = SimpleNamespace(global_rank=0, world_size=3)  # type: ignore[assignment]
    with one_line_error("train.batch_size = 100", 3):
        module.train_dataloader()


def test_checkpoint_of_other_shards_is_refused(folder, tmp_path):
    state = at_step(datamodule(folder), 3).state_dict()
    build_digits(tmp_path, 8)
    other = datamodule(tmp_path, image_size=8)
    with one_line_error(tmp_path, other.index.fingerprint[:12], state["fingerprint"][:12]):
        other.load_state_dict(state)


def test_wrong_image_size_is_refused(folder):
    with one_line_error(folder, "data.image_size = 32", 16):
        datamodule(folder, image_size=32)


def test_wrong_number_of_classes_is_refused(folder):
    with one_line_error(folder, "data.num_classes = 1000", 10):
        datamodule(folder, num_classes=1000)


def test_batch_larger_than_the_training_set_is_refused(folder):
    assert datamodule(folder, batch_size=1600).batches_per_epoch == 1
    with one_line_error("train.batch_size = 1601", 1600, folder):
        datamodule(folder, batch_size=1601)


def test_held_out_batch_larger_than_the_split_is_refused(folder):
    module = datamodule(folder)
    images, labels = module.held_out(197)
    assert images.shape == (197, 3, 16, 16)
    assert labels.shape == (197,)
    with one_line_error("evaluation.held_out_images = 198", 197, folder):
        module.held_out(198)


def test_held_out_images_are_fixed_unflipped_and_never_trained_on(folder):
    images, labels = datamodule(folder).held_out(50)
    again, same_labels = datamodule(folder, seed=5, flip=True).held_out(50)
    assert torch.equal(images, again)
    assert torch.equal(labels, same_labels)


def pixels(batches):
    return torch.cat([images for images, _ in batches])


@pytest.mark.parametrize("count", [1, 400, 401, 1600])
def test_fewer_reference_images_are_the_first_of_the_shards(folder, count):
    whole = pixels(datamodule(folder).reference_images())
    for batch_size in (7, 256):
        some = pixels(datamodule(folder, reference_count=count).reference_images(batch_size))
        assert torch.equal(some, whole[:count])


def test_more_reference_images_than_there_are_is_refused(folder):
    with one_line_error("evaluation.reference_images = 1601", 1600, folder, "0 for all"):
        datamodule(folder, reference_count=1601)


def test_reference_images_are_the_training_set_once_whatever_the_batch_size(folder):
    module = datamodule(folder, flip=True)
    whole = pixels(module.reference_images())
    assert whole.shape == (1600, 3, 16, 16)
    assert torch.equal(whole, pixels(module.reference_images(7)))
    assert [int(label) for _, labels in module.reference_images(7) for label in labels] == [
        module.train_set()[Reference(0, number)][1] for number in range(1600)
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 6 worker processes")
def test_more_workers_than_shards_is_no_error(folder):
    alone = batches(datamodule(folder, batch_size=600), 3)
    assert same(batches(datamodule(folder, batch_size=600, workers=6), 3), alone)


def global_keys(module, count, world_size, step):
    """Return the keys of the global batches that follow a step, as processes of that number see them."""
    parts = [batches(module, count, rank, world_size, step) for rank in range(world_size)]
    return [[key for part in parts for key in part[batch][2]] for batch in range(count)]


@pytest.mark.parametrize("partitions", [1, 2])
def test_saved_by_two_processes_it_goes_on_with_one_or_four(folder, partitions):
    def fresh():
        return datamodule(folder, batch_size=400, partitions=partitions, flip=True)

    whole = global_keys(fresh(), 8, 2, 0)
    state = at_step(fresh(), 3).state_dict()
    for world_size in (1, 2, 4):
        restored = fresh()
        restored.load_state_dict(state)
        assert global_keys(restored, 5, world_size, 3) == whole[3:]


def test_another_batch_size_is_refused_with_a_sentence(folder):
    state = at_step(datamodule(folder, batch_size=400), 3).state_dict()
    with one_line_error("train.batch_size = 200", "batches of 400", "--allow-batch-change"):
        datamodule(folder, batch_size=200).load_state_dict(state)


@pytest.mark.parametrize("batch_size", [100, 150, 800])
def test_allowed_another_batch_size_takes_the_rest_of_the_epoch_once(folder, batch_size):
    whole = [key for keys in global_keys(datamodule(folder, batch_size=200), 8, 1, 0) for key in keys]
    restored = datamodule(folder, batch_size=batch_size, allow_batch_change=True)
    restored.load_state_dict(at_step(datamodule(folder, batch_size=200), 3).state_dict())
    rest = (1600 - 600) // batch_size
    keys = [key for _, _, keys in at_step(restored, 3).train_dataloader() for key in keys]
    assert keys == whole[600:][: rest * batch_size]
    # Saved and restored once more, it knows of both kinds of batches.
    again = datamodule(folder, batch_size=batch_size)
    again.load_state_dict(at_step(restored, 3 + rest).state_dict())
    assert (again.position_at(3 + rest).epoch, again.position_at(3 + rest).taken) == (1, 0)
    assert again.samples_at(2) == 400
    assert again.samples_at(4) == 600 + batch_size
    assert [key_at(again, reference) for reference in again.batch_at(3)] == whole[400:600]
    assert [key_at(again, reference) for reference in again.batch_at(4)] == whole[600:][:batch_size]


def key_at(module, reference):
    return module.images.rows[reference.index]["key"].decode()


def test_more_partitions_than_shards_or_a_batch_too_large_for_them_are_refused(folder):
    with one_line_error("data.partitions = 5", "4 training shards"):
        datamodule(folder, partitions=5)
    assert datamodule(folder, batch_size=1600, partitions=4).batches_per_epoch == 1


def test_a_checkpoint_without_what_was_trained_on_in_which_batches_is_refused(folder):
    module = datamodule(folder)
    with one_line_error("an earlier version", "--fresh"):
        module.load_state_dict({"epoch": 0, "batch": 3, "fingerprint": module.fingerprint})
