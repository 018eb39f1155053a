"""The store: decisions are appended, undone, and never lost."""

import concurrent.futures
import sqlite3

import pytest

from data_builder.review.store import Change, Store
from tests.helpers.review_folder import A, B, new_action


def test_decisions_are_appended_with_reader_time_and_value_before(store):
    store.append("AB", new_action(), [Change(A, "label", "deep"), Change(B, "label", "deep")])
    (second,) = store.append("AB", new_action(), [Change(A, "label", "lobar")])
    assert (second.reader, second.value, second.before) == ("AB", "lobar", "deep")
    assert second.at.endswith("+00:00") and len(store.history()) == 3
    assert store.state("AB") == {A: {"label": "lobar"}, B: {"label": "deep"}}
    assert store.state("CD") == {}


def test_nothing_can_be_changed_or_removed_in_the_file(folder, store):
    store.append("AB", new_action(), [Change(A, "keep", "0")])
    database = sqlite3.connect(folder.own / "decisions.sqlite")
    for statement in ("UPDATE decisions SET value = '1'", "DELETE FROM decisions"):
        with pytest.raises(sqlite3.IntegrityError, match="only appended"):
            database.execute(statement)


def test_undo_takes_back_one_action_and_is_recorded(store):
    store.append("AB", new_action(), [Change(A, "label", "deep")])
    store.append("AB", new_action(), [Change(A, "label", "lobar"), Change(B, "keep", "0")])
    store.append("CD", new_action(), [Change(A, "label", "normal")])
    assert {(d.target, d.value) for d in store.undo("AB", new_action())} == {(A, "deep"), (B, "")}
    assert store.state("AB") == {A: {"label": "deep"}}
    store.undo("AB", new_action())
    assert store.state("AB") == {} and store.state("CD") == {A: {"label": "normal"}}
    assert store.undo("AB", new_action()) == []
    assert len(store.history()) == 7


def test_an_action_sent_twice_is_stored_once(store):
    action = new_action()
    first = store.append("AB", action, [Change(A, "label", "deep")])
    store.append("AB", new_action(), [Change(A, "label", "normal")])
    assert store.append("AB", action, [Change(A, "label", "deep")]) == first
    assert store.state("AB") == {A: {"label": "normal"}}
    assert store.append("CD", action, [Change(A, "label", "deep")]) == []  # another's


def test_undo_keeps_what_another_reader_has_settled_since(store):
    store.append("AB", new_action(), [Change(A, "label", "deep"), Change(B, "label", "deep")], True)
    store.append("CD", new_action(), [Change(A, "label", "lobar")], True)
    store.undo("AB", new_action(), settles=True)
    assert store.state("", settles=True) == {A: {"label": "lobar"}}


def test_eight_writers_lose_nothing_and_each_sees_the_value_before(folder):
    def write(writer):
        mine = Store(folder.own / "decisions.sqlite")
        for turn in range(20):
            mine.append("AB", new_action(), [Change(A, "note", f"{writer}.{turn}")])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    rows = Store(folder.own / "decisions.sqlite").history()
    assert len(rows) == 160
    assert [row.before for row in rows] == ["", *[row.value for row in rows[:-1]]]
