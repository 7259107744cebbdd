import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egem.core.errors import ConfigError
from egem.data.order import MIXTURE_BLOCK, MixtureOrder, Order, ReadingOrder


def read(order: ReadingOrder, batch_size: int, steps: range) -> list[int]:
    return [group for step in steps for group in order.groups(step, batch_size)]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 90), st.integers(0, 5))
def test_every_group_once_an_epoch(num_groups, batch_size, seed):
    order = ReadingOrder(num_groups, seed)
    places = read(order, batch_size, range(-(-3 * num_groups // batch_size)))
    for epoch in range(3):
        assert sorted(places[epoch * num_groups : (epoch + 1) * num_groups]) == list(range(num_groups))


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 7))
def test_a_function_of_seed_and_step_alone(step, batch_size):
    fresh = ReadingOrder(11, 3).groups(step, batch_size)
    used = ReadingOrder(11, 3)
    read(used, batch_size, range(45))
    assert used.groups(step, batch_size) == fresh
    assert pickle.loads(pickle.dumps(used)).groups(step, batch_size) == fresh


def test_epochs_and_seeds_differ():
    order = ReadingOrder(100, 0)
    assert order.groups(0, 100) != order.groups(1, 100)
    assert order.groups(0, 100) != ReadingOrder(100, 1).groups(0, 100)


def test_the_batch_size_does_not_change_the_order():
    order = ReadingOrder(30, 0)
    assert read(order, 4, range(15)) == read(order, 10, range(6)) == read(order, 1, range(60))


def test_without_shuffling():
    assert read(ReadingOrder(3, 0, shuffle=False), 2, range(4)) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_subset():
    order = ReadingOrder(10, 0, subset=[7, 2, 5])
    assert len(order) == 3
    assert order.steps_per_epoch(2) == 2
    assert sorted(order.groups(0, 3)) == [2, 5, 7]
    assert ReadingOrder(10, 0, shuffle=False, subset=[7, 2, 5]).groups(0, 3) == [7, 2, 5]
    with pytest.raises(ConfigError, match=r"subset names a group outside 0..9"):
        ReadingOrder(10, 0, subset=[10])
    with pytest.raises(ConfigError, match="no groups to read"):
        ReadingOrder(0, 0)


def test_each_place_has_its_own_generator():
    order = ReadingOrder(10, 0)
    draws = [order.rng(step, 4, row).random() for step in range(3) for row in range(4)]
    assert len(set(draws)) == 12
    assert draws == [order.rng(place, 1, 0).random() for place in range(12)]
    assert draws != [ReadingOrder(10, 1).rng(place, 1, 0).random() for place in range(12)]


def test_a_million_groups_take_no_time():
    order = ReadingOrder(1_000_000, 0)
    assert len(set(order.groups(123, 1000))) == 1000
    counts = np.bincount(np.array(order.groups(0, 1_000_000)), minlength=1_000_000)
    assert (counts == 1).all()


SOURCES = ("large", "middle", "small")
SOURCE = np.repeat(np.arange(3), (700, 200, 13)).astype(np.int32)


def mixture(weights=None, seed=0) -> MixtureOrder:
    return MixtureOrder(SOURCE, SOURCES, weights or {"large": 1.0, "small": 3.0}, seed)


def test_a_mixture_keeps_its_shares_in_every_block():
    for weights in ({"large": 1.0, "small": 3.0}, {"small": 0.1, "middle": 0.2, "large": 0.4}):
        total = sum(weights.values())
        groups = np.array(read(mixture(weights), 50, range(MIXTURE_BLOCK // 50)))
        counts = np.bincount(SOURCE[groups], minlength=3)
        for number, name in enumerate(SOURCES):
            assert abs(counts[number] - MIXTURE_BLOCK * weights.get(name, 0) / total) < 1


def test_each_source_of_a_mixture_is_read_to_its_end_before_it_begins_again():
    groups = np.array(read(mixture(), 40, range(MIXTURE_BLOCK // 40 + 10)))  # on into the second block
    for number, size in ((0, 700), (2, 13)):
        own = groups[SOURCE[groups] == number]
        assert len(own) > 2 * size
        rounds = own[: len(own) // size * size].reshape(-1, size)
        assert all(len(set(each.tolist())) == size for each in rounds)
        assert rounds[0].tolist() != rounds[1].tolist()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 700), st.integers(1, 37))
def test_a_mixture_is_a_function_of_seed_and_step_alone(step, batch_size):
    fresh = mixture().groups(step, batch_size)
    used = mixture()
    used.groups(3, 500)
    assert used.groups(step, batch_size) == fresh
    assert pickle.loads(pickle.dumps(used)).groups(step, batch_size) == fresh
    places = range(step * batch_size, (step + 1) * batch_size)
    assert [used.groups(place, 1)[0] for place in places] == fresh
    assert isinstance(used, Order)


def test_a_source_is_read_in_the_same_order_whatever_stands_beside_it():
    def own(order):
        groups = np.array(read(order, 100, range(20)))
        return groups[SOURCE[groups] == 2][:400].tolist()

    assert own(mixture()) == own(mixture({"small": 2.0}))
    assert own(mixture()) != own(mixture(seed=1))


def test_mixtures_that_cannot_be():
    with pytest.raises(ConfigError, match=r"unknown source in mixture 'smal'. Did you mean 'small'\?"):
        mixture({"smal": 1.0})
    with pytest.raises(ConfigError, match="the share of 'small' is below 1 in 10000"):
        mixture({"large": 1.0, "small": 1e-6})
    with pytest.raises(ConfigError, match="no source has a share above 0"):
        mixture({"large": 0.0})
