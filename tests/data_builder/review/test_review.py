"""The review without its page: decisions on disk, readings, agreement, the export."""

import concurrent.futures
import csv
import shutil
import sqlite3
import uuid

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from data_builder.__main__ import main
from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.review.agreement import cohen, fleiss
from data_builder.review.export import export
from data_builder.review.folder import Folder
from data_builder.review.outcome import Progress, agreement, disputes
from data_builder.review.predictions import order_of, read_predictions
from data_builder.review.readings import LABELS, Reading, conclude, read, runs
from data_builder.review.store import Change, Store
from data_builder.review.suggestions import Looked, features, suggest
from data_builder.shards.sources import open_source
from tests.helpers.review_folder import write_folder

A, B = "sli-0000-0000", "sli-0000-0001"


def name():
    return uuid.uuid4().hex


@pytest.fixture
def folder(tmp_path):
    return Folder(write_folder(tmp_path / "cleaned"))


@pytest.fixture
def store(folder):
    return Store(folder.own / "decisions.sqlite")


# The store.


def test_decisions_are_appended_with_who_when_and_what_before(store):
    store.append("AB", name(), [Change(A, "label", "deep"), Change(B, "label", "deep")])
    (second,) = store.append("AB", name(), [Change(A, "label", "lobar")])
    assert (second.reader, second.value, second.before) == ("AB", "lobar", "deep")
    assert second.at.endswith("+00:00") and len(store.history()) == 3
    assert store.state("AB") == {A: {"label": "lobar"}, B: {"label": "deep"}}
    assert store.state("CD") == {}


def test_nothing_can_be_changed_or_removed_in_the_file(folder, store):
    store.append("AB", name(), [Change(A, "keep", "0")])
    database = sqlite3.connect(folder.own / "decisions.sqlite")
    for statement in ("UPDATE decisions SET value = '1'", "DELETE FROM decisions"):
        with pytest.raises(sqlite3.IntegrityError, match="only appended"):
            database.execute(statement)


def test_undo_goes_back_action_by_action_and_is_itself_recorded(store):
    store.append("AB", name(), [Change(A, "label", "deep")])
    store.append("AB", name(), [Change(A, "label", "lobar"), Change(B, "keep", "0")])
    store.append("CD", name(), [Change(A, "label", "normal")])
    assert {(d.target, d.value) for d in store.undo("AB", name())} == {(A, "deep"), (B, "")}
    assert store.state("AB") == {A: {"label": "deep"}}
    store.undo("AB", name())
    assert store.state("AB") == {} and store.state("CD") == {A: {"label": "normal"}}
    assert store.undo("AB", name()) == []
    assert len(store.history()) == 7


def test_the_same_action_sent_twice_is_done_once(store):
    action = name()
    first = store.append("AB", action, [Change(A, "label", "deep")])
    store.append("AB", name(), [Change(A, "label", "normal")])
    assert store.append("AB", action, [Change(A, "label", "deep")]) == first
    assert store.state("AB") == {A: {"label": "normal"}}
    assert store.append("CD", action, [Change(A, "label", "deep")]) == []  # no look at another's


def test_undoing_a_settled_label_leaves_what_another_settled_since(store):
    store.append("AB", name(), [Change(A, "label", "deep"), Change(B, "label", "deep")], True)
    store.append("CD", name(), [Change(A, "label", "lobar")], True)
    store.undo("AB", name(), settles=True)
    assert store.state("", settles=True) == {A: {"label": "lobar"}}


def test_eight_writers_lose_nothing_and_each_sees_the_one_before(folder):
    def write(writer):
        mine = Store(folder.own / "decisions.sqlite")
        for turn in range(20):
            mine.append("AB", name(), [Change(A, "note", f"{writer}.{turn}")])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    rows = Store(folder.own / "decisions.sqlite").history()
    assert len(rows) == 160
    assert [row.before for row in rows] == ["", *[row.value for row in rows[:-1]]]


# Readings.


@pytest.mark.parametrize(
    ("own", "whole", "dropped", "outcome", "level"),
    [
        ({}, {}, False, "", ""),
        ({"label": "deep"}, {"label": "normal"}, False, "deep", "slice"),
        ({}, {"label": "normal"}, False, "normal", "study"),
        ({"label": "ich"}, {"label": "lobar"}, False, "lobar", "study"),
        ({"label": "ich"}, {"label": "normal"}, False, "ich", "slice"),
        ({"keep": "0"}, {"label": "deep"}, False, "dropped", "study"),
        ({"keep": "1"}, {"keep": "0"}, False, "kept", ""),
        ({}, {"keep": "1", "label": "deep"}, True, "dropped", "study"),
        ({"keep": "1"}, {"label": "deep"}, True, "deep", "study"),
    ],
)
def test_a_slice_is_read_by_its_own_decisions_then_its_studys(own, whole, dropped, outcome, level):
    found = read({"slice": own, "study": whole}, "slice", "study", dropped)
    assert (found.outcome, found.level) == (outcome, level)


def said(outcome, unsure=False, own=True):
    return Reading(outcome, "slice" if outcome in LABELS else "", unsure, own)


NOBODY = said("", own=False)


@pytest.mark.parametrize(
    ("readers", "settled", "outcome", "status"),
    [
        ([NOBODY], NOBODY, "", "unread"),
        ([said("dropped", own=False)], NOBODY, "dropped", "unread"),
        ([said("deep"), NOBODY], NOBODY, "deep", "single"),
        ([said("deep"), said("deep")], NOBODY, "deep", "agreed"),
        ([said("deep"), said("kept")], NOBODY, "deep", "agreed"),
        ([said("deep"), said("lobar")], NOBODY, "", "open"),
        ([said("kept"), said("dropped")], NOBODY, "", "open"),
        ([said("deep", unsure=True)], NOBODY, "", "open"),
        ([said("deep"), said("lobar")], said("lobar"), "lobar", "settled"),
        ([said("deep"), said("dropped")], said("kept"), "deep", "settled"),
        ([said("deep"), said("normal"), said("dropped")], said("kept"), "", "open"),
        ([said("deep", unsure=True)], said("dropped"), "dropped", "settled"),
    ],
)
def test_what_all_readers_come_to(readers, settled, outcome, status):
    found = conclude(readers, settled)
    assert (found.outcome, found.status) == (outcome, status)


@given(st.lists(st.sampled_from(["", "kept", "dropped", "normal", "deep"]), max_size=4))
def test_the_order_of_readers_does_not_matter(outcomes):
    words = [said(outcome, own=bool(outcome)) for outcome in outcomes]
    assert conclude(words, NOBODY) == conclude(words[::-1], NOBODY)


def test_runs_part_where_a_slice_has_no_mark():
    marks = {"a": (1,), "b": (1,), "d": (1,), "e": (2,)}
    assert runs("abcde", marks) == [(["a", "b"], (1,)), (["d"], (1,)), (["e"], (2,))]


# Agreement.

# Wikipedia, "Fleiss' kappa", worked example: 10 items, 14 raters, 5 categories; kappa 0.210.
FLEISS_EXAMPLE = """0 0 0 0 14  0 2 6 4 2  0 0 3 5 6  0 3 9 2 0  2 2 8 1 1
                    7 7 0 0 0  3 2 6 3 0  2 5 3 2 2  6 5 2 1 0  0 2 2 3 7"""


def test_fleiss_kappa_of_the_published_example():
    votes = np.array(FLEISS_EXAMPLE.split(), int).reshape(10, 5)
    ratings = np.array([np.repeat(np.arange(5), row) for row in votes])
    found = fleiss(ratings, [str(item) for item in range(10)], 5)
    assert found.value == pytest.approx(0.210, abs=0.0005)
    assert found.observed == pytest.approx(0.378, abs=0.0005)
    assert found.low < found.value < found.high


def test_cohens_kappa_by_hand_and_as_scikit_learn_has_it():
    one, other = [0] * 25 + [1] * 25, [0] * 20 + [1] * 5 + [0] * 10 + [1] * 15
    found = cohen(one, other, [str(i) for i in range(50)], 2)
    assert found.value == pytest.approx(0.4) and found.observed == pytest.approx(0.7)
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 3, (2, 200))
    b = np.where(rng.uniform(size=200) < 0.6, a, b)
    found = cohen(a.tolist(), b.tolist(), [str(i % 20) for i in range(200)], 3)
    assert found.value == pytest.approx(cohen_kappa_score(a, b))


def test_more_slices_of_the_same_people_narrow_no_interval():
    rng = np.random.default_rng(2)
    a = rng.integers(0, 2, 60)
    b = np.where(rng.uniform(size=60) < 0.8, a, 1 - a)
    people = [str(i % 12) for i in range(60)]
    once = cohen(a.tolist(), b.tolist(), people, 2)
    often = cohen(a.tolist() * 9, b.tolist() * 9, people * 9, 2)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert often.slices == 9 * once.slices and often.subjects == once.subjects == 12


def test_where_kappa_is_not_defined_there_is_none():
    assert cohen([], [], [], 2).value is None
    alike = cohen([1, 1], [1, 1], ["a", "b"], 2)
    assert (alike.value, alike.observed) == (None, 1.0)
    assert cohen([0, 1], [0, 1], ["a", "a"], 2).low is None  # one person: no interval


def test_what_was_said_after_looking_does_not_count_for_agreement(folder, store):
    for key in folder.rows:
        store.append("AB", name(), [Change(key, "label", "normal")])
        blind = "deep" if key in (A, B) else "normal"
        store.append("CD", name(), [Change(key, "label", blind)])
    before = agreement(folder, store)["tasks"]["hemorrhage"]["cohen"][0]
    assert before["observed"] == pytest.approx(16 / 18)
    store.note_event("CD", "unblinded", "1", name())
    store.append("CD", name(), [Change(A, "label", "normal"), Change(B, "label", "normal")])
    told = agreement(folder, store)
    assert told["tasks"]["hemorrhage"]["cohen"][0] == before
    assert [bool(each["unblinded"]) for each in told["readers"]] == [False, True]
    assert disputes(folder, store) == []


# Suggestions.


def looked(folder, study):
    found = []
    for key in folder.studies[study]:
        row = folder.rows[key]
        gray = cv2.imread(str(folder.image(key)), cv2.IMREAD_GRAYSCALE)
        found.append(Looked(row["digest"], float(row["position_mm"]), features(gray)))
    return found


def test_the_crown_and_repeats_are_suggested_and_the_brain_is_not(phantoms):
    folder = Folder(phantoms[1])
    for study in folder.studies:
        stack = looked(folder, study)
        reasons = suggest(stack)
        top = [index for index, reason in enumerate(reasons) if reason]
        assert 1 <= len(top) <= 4 and top == list(range(top[0], len(stack)))
        assert set(reasons[top[0] :]) <= {"above the brain", "empty"}
        twice = suggest([*stack[:10], stack[9], *stack[10:]])
        assert twice[10] == "repeated" and twice[:10] + twice[11:] == reasons


def test_a_stack_upside_down_or_without_places(phantoms):
    folder = Folder(phantoms[1])
    stack = looked(folder, next(iter(folder.studies)))
    assert suggest(stack[::-1]) == suggest(stack)[::-1]
    lost = suggest([one._replace(position_mm=None) for one in stack])
    assert set(lost) <= {"", "empty"}


def test_heads_without_a_brain_in_view_suggest_no_end(folder):
    assert suggest(looked(folder, "stu-0000")) == [""] * 6
    assert suggest([]) == []


# Export, labels, predictions.


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_exported_is_what_was_decided(folder, store, tmp_path):
    keys = list(folder.rows)
    store.append("AB", name(), [Change("stu-0000", "label", "deep"), Change(A, "keep", "0")])
    store.append("AB", name(), [Change("stu-0001", "label", "normal")])
    store.append("CD", name(), [Change("stu-0001", "label", "normal"), Change(B, "label", "lobar")])
    store.append("CD", name(), [Change(keys[7], "label", "ich"), Change(B, "note", "Jane Roe")])
    store.append("CD", name(), [Change(keys[7], "label", "normal")])
    out = tmp_path / "out"
    counts = export(folder, store, out)
    rows = {row["key"]: row for row in table(out / "manifest.csv")}
    assert list(rows) == keys
    assert [rows[A][c] for c in ("keep", "hemorrhage", "location")] == ["0", "", ""]
    assert rows[B]["hemorrhage"] == "" and rows[B]["keep"] == ""  # open
    told = [rows[keys[2]][c] for c in ("keep", "hemorrhage", "location", "label_level")]
    assert told == ["1", "1", "deep", "study"]
    assert rows[keys[7]]["label_level"] == "slice" and rows[keys[7]]["hemorrhage"] == "0"
    assert rows[keys[12]] == folder.rows[keys[12]]
    assert counts["classes"] == {"normal": 6, "deep": 4, "lobar": 0, "subtentorial": 0}
    assert (counts["open"], counts["dropped"], counts["unread"]) == (1, 1, 6)
    source = open_source(out, Pseudonyms(PUBLIC_KEY))
    assert len(source.records) == 10 and source.kind == "cleaned"
    for path in out.rglob("*.*"):  # neither readers' names nor notes leave the store
        assert b"Jane" not in path.read_bytes()
    assert {row["reader"] for row in table(out / "decisions.csv")} == {"reader 1", "reader 2"}
    before = {p: p.read_bytes() for p in out.rglob("*.*")}
    export(folder, store, out)
    assert {p: p.read_bytes() for p in out.rglob("*.*")} == before
    assert (folder.path / "manifest.csv").read_text().count("deep") == 0


def test_phantom_labels_come_in_by_folder_name_and_go_out_again(phantoms, tmp_path, capsys):
    scans, made, labels = phantoms
    cleaned = shutil.copytree(made, tmp_path / "cleaned")
    given = ["review", str(cleaned), "--key", "public"]
    assert main([*given, "--labels", str(labels)]) == 2  # folders' names are not known
    given += ["--dicom", str(scans)]
    capsys.readouterr()
    assert main([*given, "--labels", str(labels)]) == 0
    assert "decisions taken in" in capsys.readouterr().out
    by_study = tmp_path / "labels.csv"
    by_study.write_text("study,hemorrhage,location\nphantom-0001-1,0,\n")
    assert main([*given, "--labels", str(by_study), "--reader", "AB"]) == 0
    by_key = tmp_path / "keys.csv"
    first = next(iter(Folder(cleaned).rows))
    by_key.write_text(f"study,slice,keep,hemorrhage,location\n,{first},0,,\n")
    assert main([*given, "--labels", str(by_key), "--reader", "CD"]) == 0
    store = Store(cleaned / "review" / "decisions.sqlite")
    assert store.readers() == ["labels.csv", "AB", "CD"]
    assert [*store.state("AB").values()] == [{"label": "normal"}]
    assert store.state("CD") == {first: {"keep": "0"}}
    assert main([*given, "--export", str(tmp_path / "out")]) == 0
    rows = {row["key"]: row for row in table(tmp_path / "out" / "manifest.csv")}
    names = Pseudonyms(PUBLIC_KEY)
    for row in table(labels):
        found = rows[names.slice(row["slice"])]
        if found["key"] != first and found["keep"] == "1" and found["hemorrhage"]:
            assert found["hemorrhage"] == row["hemorrhage"]
            assert found["location"] == row["location"]
    assert sum(row["hemorrhage"] == "1" for row in rows.values()) == sum(
        row["hemorrhage"] == "1" for row in table(labels)
    )


def test_a_models_order_of_work(folder, tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("key,p_hemorrhage\nsli-0002-0000,0.9\nsli-0001-0000,0.45\nsli-9,0.1\n")
    found = read_predictions(path, folder)
    assert found == {"sli-0002-0000": 0.9, "sli-0001-0000": 0.45}
    assert order_of(folder, found, "likely") == ["stu-0002", "stu-0001", "stu-0000"]
    assert order_of(folder, found, "unsure") == ["stu-0001", "stu-0002", "stu-0000"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("key\nsli-0001-0000\n", "the column p_hemorrhage is missing"),
        ("key,p_hemorrhage\nsli-0001-0000,2\n", "line 2, column p_hemorrhage"),
        ("key,p_hemorrhage\nsli-0001-0000,nan\n", "line 2, column p_hemorrhage"),
        ("key,p_hemorrhage\nsli-9,0.5\n", "speaks of no slice of this folder"),
    ],
)
def test_bad_predictions_are_told_by_line(folder, tmp_path, text, why):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=why):
        read_predictions(path, folder)


def test_progress_keeps_in_step_with_other_processes(folder, store):
    progress = Progress(folder, store)
    assert progress.of("AB") == dict.fromkeys(folder.studies, (0, 0))
    other = Store(folder.own / "decisions.sqlite")
    other.append("AB", name(), [Change("stu-0001", "label", "deep"), Change(A, "keep", "0")])
    other.append("AB", name(), [Change(B, "label", "ich"), Change(B, "unsure", "1")])
    other.append("CD", name(), [Change("stu-0002", "label", "deep")])
    assert progress.of("AB") == {"stu-0000": (1, 1), "stu-0001": (6, 0), "stu-0002": (0, 0)}
    other.undo("AB", name())
    other.undo("AB", name())
    assert (
        progress.of("AB")
        == Progress(folder, store).of("AB")
        == dict.fromkeys(folder.studies, (0, 0))
    )
