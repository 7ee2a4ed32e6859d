import resource

import pytest
import torch

from jitlab.metrics.feature_table import FeatureTable


def rows(n, dimensions=3, seed=0):
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed))


def test_rows_come_back_by_number_whoever_wrote_them(tmp_path):
    vectors = rows(20)
    first, second = FeatureTable(tmp_path / "new" / "table", 20, 3), FeatureTable(tmp_path / "new" / "table", 20, 3)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    for table, numbers in zip((first, second, first), order.split(7), strict=True):
        table.write(numbers.tolist(), vectors[numbers])
    assert torch.equal(second.read(), vectors)
    assert torch.equal(first.read()[torch.tensor([3, 1])], vectors[[3, 1]])


def test_taken_up_again_it_says_what_is_missing_and_keeps_what_was_written(tmp_path):
    FeatureTable(tmp_path / "table", 5, 3).write([0, 3], rows(2))
    table = FeatureTable(tmp_path / "table", 5, 3)
    with pytest.raises(ValueError, match="3 of 5 images have no features"):
        table.read()
    table.write([1, 2, 4], rows(3, seed=1))
    assert torch.equal(table.read()[[0, 3, 1, 2, 4]], torch.cat([rows(2), rows(3, seed=1)]))


def test_a_file_of_other_features_is_refused(tmp_path):
    FeatureTable(tmp_path / "table", 5, 3)
    with pytest.raises(ValueError, match="80 bytes, expected 100"):
        FeatureTable(tmp_path / "table", 5, 4)


def test_no_features_are_a_row_that_is_written(tmp_path):
    table = FeatureTable(tmp_path / "table", 2, 3)
    table.write([0, 1], torch.zeros(2, 3))
    assert torch.equal(table.read(), torch.zeros(2, 3))


def test_it_says_which_images_it_has(tmp_path):
    table = FeatureTable(tmp_path / "table", 10, 3)
    assert not table.has(range(2))
    table.write([4, 5, 6], torch.ones(3, 3))
    assert table.has(range(4, 7))
    assert not table.has(range(4, 8))
    assert not table.has(range(3, 5))


@pytest.mark.parametrize("written", [1, 2.5, 3])
def test_a_row_that_was_cut_off_is_not_there(tmp_path, written):
    # As long as Inception's features: longer than the buffer that files are written through.
    table = FeatureTable(tmp_path / "table", 4, 2048)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # In the middle of the row of image 2, of which the beginning is still written; or at its end.
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(written * 4 * 2049), before[1]))
    try:
        if written == 3:
            table.write([2], rows(1, 2048))
        else:
            with pytest.raises(OSError, match="File too large"):
                table.write([2], rows(1, 2048))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert table.has(range(2, 3)) == (written == 3)
