"""`--limit N`: which samples are shown, that all say so, and that no table mistakes them for the whole."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from makers import Fake

from bench.data.limited import LimitedSamples


class Samples(Fake):
    """Of three classes in turn, the second layer of which every other sample has."""

    classes = ("a", "b", "c")
    subsets = {"static": (0,)}  # noqa: RUF012
    provenance = "made here"

    def with_layer(self, name: str) -> np.ndarray:
        return np.arange(0, len(self), 2) if name == "mask" else np.empty(0, np.int64)

    def layer(self, i: int, name: str) -> np.ndarray:
        return np.full((2, 2), i, np.uint8)


def test_so_many_of_each_class_in_stored_order() -> None:
    whole = Samples(30)
    some = LimitedSamples(whole, 4)
    assert len(some) == 12 and np.bincount(some.labels).tolist() == [4, 4, 4]
    numbers = [int(key[1:]) for key in some.keys]
    assert numbers == sorted(numbers) and numbers != list(range(12))
    for i, number in enumerate(numbers):
        assert some.labels[i] == number % 3 and some.num_frames(i) == whole.num_frames(number)
    assert [numbers[i] for i in some.with_layer("mask")] == [n for n in numbers if n % 2 == 0]
    i = int(some.with_layer("mask")[1])
    assert some.layer(i, "mask")[0, 0] == numbers[i] and some.with_layer("other").size == 0
    assert pickle.loads(pickle.dumps(some)).keys == some.keys


def test_a_smaller_limit_shows_some_of_a_larger_one() -> None:
    whole = Samples(60)
    sizes = [set(LimitedSamples(whole, n).keys) for n in (1, 3, 9, 20, 99)]
    assert all(a < b for a, b in itertools.pairwise(sizes[:4]))
    assert sizes[3] == sizes[4] == set(whole.keys)
    assert set(LimitedSamples(whole, 3, seed=1).keys) != sizes[1]


def test_the_choice_hangs_on_keys_and_class_names_alone() -> None:
    """As shards may hold the same samples in another order, with other ids."""
    whole, other = Samples(30), Samples(30)
    other.keys.reverse()
    other.labels = 2 - whole.labels[::-1]
    other.classes = ("c", "b", "a")
    assert set(LimitedSamples(whole, 4).keys) == set(LimitedSamples(other, 4).keys)


def test_digest_and_provenance_say_it() -> None:
    some = LimitedSamples(Samples(30), 4)
    assert some.digest == "fake, limit 4 per class, seed 0"
    assert some.provenance == "made here; limit 4 per class, seed 0"
    assert some.classes == ("a", "b", "c") and some.subsets == {"static": (0,)}
    with pytest.raises(ValueError, match="at least 1"):
        LimitedSamples(Samples(3), 0)
