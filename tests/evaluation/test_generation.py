from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer

from jitlab import build
from jitlab.evaluation.generation import Images, Round, fill
from jitlab.evaluation.observation import Observer
from jitlab.evaluation.search import Cell
from jitlab.metrics.features import Features, Pixels
from jitlab.metrics.frechet import RunningMoments
from jitlab.training.ema import Averages
from tests.callbacks.runs import tiny_config

CELLS = [Cell("raw", 1.0), Cell("raw", 2.0), Cell("ema0.5", 1.0), Cell("ema0.5", 3.0)]
COUNT, SAVED, SEED = 50, 20, 5
pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


@pytest.fixture(scope="module")
def trained():
    module = build.build_module(tiny_config(Path("nowhere"), sampler__steps=4))
    averages = Averages(module.network, [0.5])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    averages.update()
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    return module, averages


class Counting(Pixels):
    """Counts the images that it is given; breaks off after so many."""

    def __init__(self, stop_after: float = float("inf")) -> None:
        self.images, self.stop_after = 0, stop_after

    def __call__(self, images: torch.Tensor) -> Features:
        if self.images >= self.stop_after:
            raise KeyboardInterrupt
        self.images += len(images)
        return super().__call__(images)


class Done:
    def __init__(self) -> None:
        self.images = 0

    def found(self, images: int) -> None:
        self.images += images

    made = found


def filled(trained, folder, batch_size=16, world_size=1, extractor=None):
    wanted = Round(folder, SEED, CELLS, Images(COUNT, batch_size, 10), saved=SAVED)
    tables = wanted.tables(Pixels.dimensions)
    module, averages = trained
    extractor, done = extractor or Counting(), Done()
    kept = dict[int, torch.Tensor]()

    def keep(numbers, images):
        kept.update(zip(numbers, images, strict=True))

    for rank in range(world_size):
        fill(module, averages, wanted, tables, Observer(extractor, None), keep, rank, world_size, done)
    assert set(kept) <= set(range(SAVED))
    assert done.images == COUNT * len(CELLS)
    return {cell: table.read().clone() for cell, table in tables.items()}, extractor


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory):
    return filled(trained, tmp_path_factory.mktemp("undisturbed"))[0]


@given(st.integers(1, 60), st.integers(1, 25), st.integers(1, 5))
def test_processes_share_all_images_and_classes_are_balanced(count, batch_size, world_size):
    images = Images(count, batch_size, 7)
    batches = [list(images.batches(rank, world_size)) for rank in range(world_size)]
    assert {len(batch) for batch in chain(*batches)} == {batch_size}
    assert sorted(chain(*map(images.wanted, chain(*batches)))) == list(range(count))
    counts = torch.bincount(images.labels(range(count)), minlength=7)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_number_of_processes_gives_the_same_bits(trained, undisturbed, tmp_path, world_size):
    found, _ = filled(trained, tmp_path, 16, world_size)
    assert all(torch.equal(found[cell], undisturbed[cell]) for cell in CELLS)


@pytest.mark.parametrize("batch_size", [32, 100])
def test_batches_of_32_and_100_give_the_same_statistics(trained, undisturbed, tmp_path, batch_size):
    found, _ = filled(trained, tmp_path, batch_size)
    for cell in CELLS:
        ours, theirs = (RunningMoments(Pixels.dimensions) for _ in range(2))
        ours.update(found[cell])
        theirs.update(undisturbed[cell])
        torch.testing.assert_close(ours.moments, theirs.moments, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_odd_batches_differ_by_a_rounding_to_a_grey_level_at_most(trained, undisturbed, tmp_path, batch_size):
    found, _ = filled(trained, tmp_path, batch_size)
    for cell in CELLS:
        # A feature is the mean over 3 channels of 2 x 2 pixels.
        torch.testing.assert_close(found[cell], undisturbed[cell], rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize("stop_after", [1, 40, 100, 190])
def test_interrupted_it_goes_on_with_what_is_missing_and_ends_the_same(trained, undisturbed, tmp_path, stop_after):
    raw = {name: tensor.clone() for name, tensor in trained[0].network.state_dict().items()}
    interrupted = Counting(stop_after)
    with pytest.raises(KeyboardInterrupt):
        filled(trained, tmp_path, extractor=interrupted)
    assert all(torch.equal(tensor, raw[name]) for name, tensor in trained[0].network.state_dict().items())
    found, rest = filled(trained, tmp_path)
    # Four batches of 16 for each cell, the last one filled up.
    assert interrupted.images + rest.images == 64 * len(CELLS)
    assert all(torch.equal(found[cell], undisturbed[cell]) for cell in CELLS)


def test_every_cell_has_its_own_weights_and_scale(trained, undisturbed):
    module, averages = trained
    for cell in CELLS:
        with nullcontext() if cell.weights == "raw" else averages.applied(0.5):
            drawn = module.generate(range(5), torch.arange(5), guidance_scale=cell.scale, seed=SEED)
        assert torch.equal(Pixels()(drawn).vectors, undisturbed[cell][:5])
    assert not any(torch.equal(undisturbed[CELLS[0]], undisturbed[cell]) for cell in CELLS[1:])
