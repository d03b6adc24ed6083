"""The numbers of changed rows: all of them, each once, in little room."""

import numpy as np

from polarindex.indexes.changes import _FEW, Changes


def test_numbers_are_those_noted_ascending_and_once(rng):
    changes, noted = Changes(), set()
    assert len(changes.numbers()) == 0
    for _ in range(200):
        numbers = rng.integers(0, 2**40 if rng.random() < 0.5 else 3000, int(rng.integers(0, 300)))
        changes.note(numbers)
        noted.update(numbers.tolist())
        if rng.random() < 0.1:
            assert changes.numbers().tolist() == sorted(noted)
    assert changes.numbers().tolist() == sorted(noted) and changes.numbers().dtype == np.int64
    changes.note(range(2**41, 2**41 + 3))
    assert changes.numbers().tolist() == [*sorted(noted), 2**41, 2**41 + 1, 2**41 + 2]
    changes.clear()
    assert len(changes.numbers()) == 0


def test_the_callers_array_may_change_afterwards():
    changes, numbers = Changes(), np.array([3, 1])
    changes.note(numbers)
    numbers[:] = 7
    assert changes.numbers().tolist() == [1, 3]


def test_rows_that_change_again_take_no_room():
    changes = Changes()
    for _ in range(1000):
        changes.note(np.arange(100))
        assert sum(map(len, changes._parts)) <= _FEW + 300


def test_everything_is_noted_until_it_is_durable():
    changes = Changes()
    changes.note(np.arange(5))
    changes.note_everything()
    changes.note(np.arange(9))
    assert changes.everything and len(changes.numbers()) == 0
    changes.clear()
    changes.note(np.arange(2))
    assert not changes.everything and changes.numbers().tolist() == [0, 1]
