"""Order of batches: from the seed alone, whole, and from the middle of an epoch."""

import pytest

from adapters._shared.training.config import TrainConfig
from adapters._shared.training.loader import KeyedBatches, closing_epoch


def make(images=10, batch=3, seed=1, *, shuffle=True, closing_from=99, **more):
    return KeyedBatches(images, batch, seed, shuffle=shuffle, closing_from=closing_from, **more)


def test_an_epoch_shows_each_image_at_most_once_in_an_order_of_its_own():
    batches = make(images=12)
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        keys = [key for keys in batches for key in keys]
        assert {key.epoch for key in keys} == {epoch}
        assert sorted(key.index for key in keys) == list(range(12))
        orders.append([key.index for key in keys])
    assert orders[0] != orders[1] != orders[2]
    assert [[k.index for k in b] for b in make(images=12)] == [orders[0][i : i + 3] for i in range(0, 12, 3)]


def test_the_order_depends_on_the_seed():
    assert list(make(seed=1)) != list(make(seed=2))


def test_without_shuffling_the_order_is_that_of_the_set():
    assert [k.index for b in make(shuffle=False) for k in b] == list(range(9))


def test_a_batch_that_is_not_full_is_dropped_but_a_small_set_is_one_batch():
    assert [len(b) for b in make(images=10, batch=4)] == [4, 4]
    assert [len(b) for b in make(images=3, batch=16)] == [3]
    assert len(make(images=3, batch=16)) == 1


def test_a_resumed_epoch_goes_on_where_it_was_left_and_the_next_one_is_whole():
    whole = list(make())
    resumed = make()
    resumed.start = 2
    assert list(resumed) == whole[2:]
    assert len(resumed) == len(whole)
    assert list(resumed) == whole


def test_keys_say_from_when_on_mosaic_is_closed():
    batches = make(closing_from=2)
    batches.set_epoch(1)
    assert not any(key.closing for keys in batches for key in keys)
    batches.set_epoch(2)
    assert all(key.closing for keys in batches for key in keys)


def test_processes_share_an_epoch_without_overlap():
    parts = [[k.index for b in make(images=12, rank=r, world=2) for k in b] for r in range(2)]
    assert len(parts[0]) == len(parts[1]) == 6
    assert sorted(parts[0] + parts[1]) == list(range(12))


@pytest.mark.parametrize(
    ("options", "batches", "epoch"),
    [
        ({"epochs": 20, "close_mosaic": 0.15}, 10, 17),
        ({"epochs": 20, "close_mosaic": 0.0}, 10, 20),
        ({"epochs": 20, "close_mosaic": 1.0}, 10, 0),
        ({"epochs": 100, "close_mosaic": 0.5, "max_steps": 40}, 10, 2),
        ({"epochs": 100, "close_mosaic": 0.5, "max_steps": 20, "grad_accum": 2}, 10, 2),
    ],
)
def test_mosaic_is_closed_for_the_last_share_of_the_run_that_really_happens(options, batches, epoch):
    assert closing_epoch(TrainConfig(**options), batches) == epoch
