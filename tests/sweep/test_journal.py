"""The file of a sweep: nothing that was measured is lost, whenever it is killed."""

from __future__ import annotations

import json

import pytest

from polarindex.errors import FormatError, LockedError
from polarindex.sweep.journal import LOCK, NAME, Journal
from polarindex.sweep.plan import Plan
from polarindex.sweep.results import Bound, Measurement, Recall, Row

PLAN = Plan(("x.npy",), ("eden",), (1, 2))
BOUND = Bound("x", "content", ((0.0, 1.0), (1.0, 0.2)))


def row(key: str, recall: float = 0.5, error: str = "") -> Row:
    shares = {1: Recall(recall / 2, 0.1, 0.3, 0.4), 10: Recall(recall, 0.2, 0.9, 0.6)}
    measured = Measurement(12.0, 3.0, shares, 0.1, None, 0.01, 0.001, 1.0, 2.0, 3.0, 0.4, 0.5, 0.6, "a note")
    where = ("x", "l2", 100, 32, 10, "eden", 2, "ivf", 16, 4, "none", 0, 0, 2)
    return Row(key, *where, None if error else measured, error)


@pytest.fixture
def opened():
    """A function that opens a journal, and closes the one that it opened before: there is one at a time."""
    journals: list[Journal] = []

    def open_one(folder, plan: Plan = PLAN, fresh: bool = False) -> Journal:
        for journal in journals:
            journal.close()
        journals.append(Journal(folder, plan, {"cpu": "some"}, fresh=fresh))
        return journals[-1]

    yield open_one
    for journal in journals:
        journal.close()


def kept(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def test_what_was_added_is_there_again(tmp_path, opened):
    journal = opened(tmp_path)
    journal.add_bound(BOUND)
    journal.add(row("a"))
    journal.add(row("b", error="RuntimeError: out of luck"))
    again = opened(tmp_path).results
    assert again.rows == [row("a"), row("b", error="RuntimeError: out of luck")]
    assert again.bounds == {"x": BOUND}
    assert not again.complete


def test_every_line_says_on_what_and_when_it_was_measured(tmp_path, opened):
    opened(tmp_path).add(row("a"))
    plan, cell = kept(tmp_path)
    assert (plan["kind"], plan["key"], plan["plan"]) == ("plan", PLAN.key, PLAN.as_dict())
    assert {"kind": "cell", "key": "a", "environment": {"cpu": "some"}, "seed": 0, "threads": 2}.items() <= cell.items()
    assert cell["when"].endswith("+00:00")


def test_a_row_that_failed_gives_way_to_one_that_did_not(tmp_path, opened):
    journal = opened(tmp_path)
    journal.add(row("a", error="RuntimeError"))
    journal.add(row("a", 0.7))
    assert opened(tmp_path).results.rows == journal.results.rows == [row("a", 0.7)]


@pytest.mark.slow
def test_a_sweep_goes_on_from_any_byte_where_it_was_killed(tmp_path, opened):
    journal = opened(tmp_path)
    journal.add(row("a"))
    journal.add(row("b"))
    whole = (tmp_path / NAME).read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        (tmp_path / NAME).write_bytes(whole[:length])
        found = opened(tmp_path)
        wanted = [row(key) for key, end in zip("ab", ends[1:], strict=True) if length >= end]
        assert found.results.rows == wanted
        if length % 50 == 0 or length in ends:
            found.add(row("c"))
            assert opened(tmp_path).results.rows == [*wanted, row("c")]


def test_nothing_is_written_before_there_is_a_row(tmp_path, opened):
    opened(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    opened(tmp_path).add(row("a"))
    before = (tmp_path / NAME).read_bytes()
    opened(tmp_path, Plan(seed=9))
    assert (tmp_path / NAME).read_bytes() == before


def test_an_unfinished_sweep_of_another_plan_is_kept(tmp_path, opened):
    opened(tmp_path).add(row("a"))
    other = opened(tmp_path, Plan(seed=9))
    assert other.results.rows == []
    other.add(row("b"))
    assert other.kept == tmp_path / f"sweep-{PLAN.key}.jsonl"
    assert json.loads(other.kept.read_text().splitlines()[1])["key"] == "a"
    assert opened(tmp_path, Plan(seed=9)).results.rows == [row("b")]


def test_a_sweep_that_was_kept_goes_on_and_the_other_is_kept_in_its_turn(tmp_path, opened):
    opened(tmp_path).add(row("a"))
    opened(tmp_path, Plan(seed=9)).add(row("b"))
    first = opened(tmp_path)
    assert first.results.rows == [row("a")]
    first.add(row("c"))
    assert opened(tmp_path).results.rows == [row("a"), row("c")]
    assert opened(tmp_path, Plan(seed=9)).results.rows == [row("b")]
    names = {NAME, LOCK, f"sweep-{Plan(seed=9).key}.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_second_sweep_in_the_folder_is_refused(tmp_path):
    with Journal(tmp_path, PLAN, {}) as journal:
        journal.add(row("a"))
        with pytest.raises(LockedError, match="another sweep writes to"):
            Journal(tmp_path, PLAN, {})
    with Journal(tmp_path, PLAN, {}) as journal:
        assert journal.results.rows == [row("a")]


def test_a_finished_sweep_of_another_plan_is_replaced(tmp_path, opened):
    journal = opened(tmp_path)
    journal.add(row("a"))
    journal.end()
    assert opened(tmp_path).results.complete
    other = opened(tmp_path, Plan(seed=9))
    other.add(row("b"))
    assert (other.kept, sorted(path.name for path in tmp_path.iterdir())) == (None, [NAME, LOCK])


def test_a_fresh_sweep_begins_anew(tmp_path, opened):
    opened(tmp_path).add(row("a"))
    journal = opened(tmp_path, fresh=True)
    assert journal.results.rows == []
    journal.add(row("b"))
    assert opened(tmp_path).results.rows == [row("b")]


def test_a_fresh_sweep_keeps_what_another_plan_began(tmp_path, opened):
    opened(tmp_path).add(row("a"))
    opened(tmp_path, Plan(seed=9), fresh=True).add(row("b"))
    assert opened(tmp_path).results.rows == [row("a")]


@pytest.mark.parametrize(
    "text",
    [
        "hello\n",
        "hello",
        '{"kind": "plan"}\n',
        '{"kind": "plan", "format": "polarindex-sweep-2", "key": "a", "plan": {}}\n{"kind": "bound"}\n',
        "[1]\n",
        '{"kind": "plan", "format": "polarindex-sweep-9", "key": "a", "plan": {}}\n',
        '{"kind": "plan", "format": "polarindex-sweep-2", "key": "a", "plan": {}}\n{"kind": "cell"}\n',
        '{"kind": "plan", "format": "polarindex-sweep-2", "key": "a", "plan": {}}\nnonsense\n',
    ],
)
def test_another_file_of_the_name_is_not_touched(text, tmp_path, opened):
    (tmp_path / NAME).write_text(text)
    for fresh in (False, True):
        with pytest.raises(FormatError, match="move it away"):
            opened(tmp_path, fresh=fresh)
    assert (tmp_path / NAME).read_text() == text
