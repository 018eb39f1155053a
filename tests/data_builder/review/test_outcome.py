"""The decisions of all readers together: agreement, disagreements, progress."""

import pytest

from data_builder.review.outcome import Progress, agreement, disputes
from data_builder.review.store import Change, Store
from tests.helpers.review_folder import A, B, new_action


def test_decisions_after_unblinding_do_not_count_for_agreement(folder, store):
    for key in folder.rows:
        store.append("AB", new_action(), [Change(key, "label", "normal")])
        label = "deep" if key in (A, B) else "normal"
        store.append("CD", new_action(), [Change(key, "label", label)])
    before = agreement(folder, store)["tasks"]["hemorrhage"]["cohen"][0]
    assert before["observed"] == pytest.approx(16 / 18)
    store.note_event("CD", "unblinded", "1", new_action())
    store.append("CD", new_action(), [Change(A, "label", "normal"), Change(B, "label", "normal")])
    after = agreement(folder, store)
    assert after["tasks"]["hemorrhage"]["cohen"][0] == before
    assert [bool(reader["unblinded"]) for reader in after["readers"]] == [False, True]
    assert disputes(folder, store) == []


def test_progress_includes_decisions_of_other_processes(folder, store):
    progress = Progress(folder, store)
    assert progress.of("AB") == dict.fromkeys(folder.studies, (0, 0))
    other = Store(folder.own / "decisions.sqlite")
    other.append("AB", new_action(), [Change("stu-0001", "label", "deep"), Change(A, "keep", "0")])
    other.append("AB", new_action(), [Change(B, "label", "ich"), Change(B, "unsure", "1")])
    other.append("CD", new_action(), [Change("stu-0002", "label", "deep")])
    assert progress.of("AB") == {"stu-0000": (1, 1), "stu-0001": (6, 0), "stu-0002": (0, 0)}
    other.undo("AB", new_action())
    other.undo("AB", new_action())
    assert (
        progress.of("AB")
        == Progress(folder, store).of("AB")
        == dict.fromkeys(folder.studies, (0, 0))
    )
