"""Rows of labels.csv that match no slice: listed with their likely cause, and status 1."""

import csv
import unicodedata

import pytest

from data_builder.__main__ import main
from data_builder.review.folder import Folder
from data_builder.review.store import Store
from tests.helpers.source_folder import LABELS_HEADER, PSEUDONYMS, clean, put, put_study, read_table

UMLAUT = "B\u00f6hm"


def labelled(src, out, rows):
    """Cleans `src` with these rows; the unmatched rows as (line, cause)."""
    (src / "labels.csv").write_text(LABELS_HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    summary = clean(src, out)
    table = read_table(out, "unmatched_labels.csv")
    assert tuple(f"{row['file']} line {row['line']}" for row in table) == summary.unmatched_labels
    return [(int(row["line"]), row["cause"]) for row in table]


def test_what_a_spreadsheet_did_to_a_row_is_named_and_nothing_is_guessed(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src, "001", patient="0017", slices=2)
    put_study(src, "site/Doe Jane", patient="pat-b", slices=1)
    put(src, "site/Doe Jane/1.dcm", b"no scan")
    put_study(src, "site/chest", patient="C", slices=1, BodyPartExamined="CHEST")
    rows = {
        "1,,,,1,deep": "with zeros before it",
        "1.0,,,,1,deep": "without decimals",
        "site/DOE JANE,,,,1,deep": "upper and lower case",
        "site/DoeJane,,,,1,deep": "differs in spaces",
        "C:\\data\\001,,,,1,deep": "the last folder of this path is there",
        "1.23457E+15,,,,1,deep": "has shortened this number",
        "site/chest,,,,1,deep": "none of its files was used",
        "Roe Richard,,,,1,deep": "no folder that this file speaks for",
        "001,,7,,1,deep": "the study has no slice of this number",
        "001,,002,,1,deep": "",  # a number, whatever zeros it has
        "001,,1.2.3,,1,deep": "the study has no slice of this SOP Instance UID",
        ",,1.2.3,,1,deep": "the source has no slice of this SOP Instance UID",
        "site/Doe Jane,,1.dcm,,1,deep": "slice holds a file's name",
        ",17,,,1,deep": "a Patient ID has this number with zeros",
        ",17.0,,,1,deep": "a Patient ID has this number with zeros",
        ",PAT-B,,,1,deep": "a Patient ID differs in upper and lower case",
        ",Doe Jane,,,1,deep": "no slice that was used has this Patient ID",
    }
    unmatched = labelled(src, out, list(rows))
    expected = [(line, cause) for line, cause in enumerate(rows.values(), 2) if cause]
    assert [line for line, _ in unmatched] == [line for line, _ in expected]
    for (_, cause), (_, words) in zip(unmatched, expected, strict=True):
        assert words in cause
    assert sum(bool(row["hemorrhage"]) for row in read_table(out)) == 1  # of the row that matches
    text = (out / "unmatched_labels.csv").read_text()
    assert not any(word in text for word in ("Doe", "Jane", "Roe", "site", "data", "pat-", "PAT-"))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_unicode_forms_backslashes_and_decimals_match(tmp_path, form):
    src = tmp_path / "src"
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    put_study(src, f"site/{unicodedata.normalize(form, UMLAUT)}", patient="a", slices=2)
    put_study(src, "site/001", patient="b", slices=2)
    put_study(src, "two", patient="c", slices=2)
    rows = [
        f"{unicodedata.normalize(other, UMLAUT)},,,1.0,TRUE,Deep",
        "site\\001,,,1,0.0,",
        ".\\two\\,,1.0,,1,lobar",
        'two,,"2,0",,False,',
    ]
    assert labelled(src, tmp_path / "out", rows) == []
    found = sorted(
        (r["hemorrhage"], r["location"], r["label_level"]) for r in read_table(tmp_path / "out")
    )
    study, zero = ("1", "deep", "study"), ("0", "", "study")
    assert found == sorted([study, study, zero, zero, ("1", "lobar", "slice"), ("0", "", "slice")])


def test_a_subject_is_one_in_every_form_of_unicode(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src, "one", patient="a", slices=1)
    put_study(src, "two", patient="b", slices=1)
    rows = [
        f"{study},{unicodedata.normalize(form, UMLAUT)},,,0,"
        for study, form in (("one", "NFC"), ("two", "NFD"))
    ]
    assert labelled(src, out, rows) == []
    assert {row["subject"] for row in read_table(out)} == {PSEUDONYMS.subject(UMLAUT)}


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffstudy;subject;slice;keep;hemorrhage;location\r\none;;;1;1;deep\r\n",
        "sep=;\r\nstudy;hemorrhage;location\r\none;1;deep\r\n",
        "\ufeffsep=,\r\nstudy,hemorrhage,location\r\none,1,deep\r\n",
        '"study";"hemorrhage";"location"\n"one";"1,0";"Deep"\n',
        "study\themorrhage\tlocation\none\t1\tdeep\n",
        ",study,hemorrhage,location,,\n0,one,1.0,deep,,,,\n",
    ],
)
def test_tables_of_excel_and_pandas_are_read(tmp_path, text):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src, "one", slices=1)
    (src / "labels.csv").write_text(text, encoding="utf-8", newline="")
    assert clean(src, out).unmatched_labels == ()
    assert [(r["hemorrhage"], r["location"]) for r in read_table(out)] == [("1", "deep")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sep=;\nstudy;hemorrhage;location\n\none;2;deep\n", "line 4, column hemorrhage"),
        ("study;hemorrhage\n", "line 1: the column location is missing"),
        ("study,hemorrhage,location,hemorrhage\n", "the column hemorrhage is there twice"),
        ("study,hemorrhage,location,slice\none,0,,\u00b2\n", ""),  # no number, and no traceback
        ("study,hemorrhage,location,slice\none,0,," + "9" * 5000 + "\n", ""),
    ],
)
def test_what_has_no_one_meaning_is_one_line(tmp_path, capsys, text, message):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src, "one", slices=1)
    (src / "labels.csv").write_text(text, encoding="utf-8")
    status = main(["clean", str(src), "--out", str(out), "--key", "public", "--jobs", "1"])
    assert status == (2 if message else 1)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_clean_and_review_agree_on_a_table_and_end_with_status_1(tmp_path, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    uid = put_study(src, "001", patient="a", slices=2, IssuerOfPatientID="here")
    put_study(src, "2", patient="b", slices=2)
    table = tmp_path / "table.csv"
    rows = ["1,,,,1,deep", "2,,1.0,,0,", "nobody,,,,0,", ",a,,,1,lobar", f"{uid},,2,,0,"]
    table.write_text(LABELS_HEADER + "\n".join(rows) + "\n")
    command = ["clean", str(src), "--out", str(out), "--key", "public", "--jobs", "2"]
    assert main(command) == 0
    review = ["review", str(out), "--key", "public", "--dicom", str(src), "--labels", str(table)]
    capsys.readouterr()
    assert main(review) == 1
    assert "2 row(s) match no slice, the first is labels.csv line 2" in capsys.readouterr().out
    with (out / "review" / "unmatched_labels.csv").open(newline="") as file:
        imported = list(csv.DictReader(file))
    (src / "labels.csv").write_bytes(table.read_bytes())
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("warning:") == 1 and "2 row(s) of labels.csv match no slice" in error
    assert read_table(out, "unmatched_labels.csv") == imported
    assert [row["line"] for row in imported] == ["2", "4"]
    states = Store(out / "review" / "decisions.sqlite").state("labels.csv")
    labels = {}
    for study, keys in Folder(out).studies.items():
        for key in keys:
            words = states.get(key, {}).get("label") or states.get(study, {}).get("label")
            labels[key] = words or ""
    cleaned = {
        r["key"]: r["location"] or {"0": "normal", "": ""}[r["hemorrhage"]] for r in read_table(out)
    }
    assert labels == cleaned and sorted(cleaned.values()) == ["", "lobar", "normal", "normal"]


def test_a_row_for_several_folders_of_one_name_is_reported(tmp_path, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    for site in "ab":
        put_study(src, f"{site}/001", patient=site, slices=1)
    command = ["clean", str(src), "--out", str(out), "--key", "public", "--jobs", "1"]
    for row, reported in (("001", True), ("a/001", False), ("a", False)):
        (src / "labels.csv").write_text(LABELS_HEADER + f"{row},,,,0,\n")
        assert main(command) == 0
        assert ("labels.csv line 2, match several folders" in capsys.readouterr().err) == reported


def test_an_unreadable_table_stops_with_a_line(tmp_path, capsys):
    src = tmp_path / "src"
    put_study(src, "one", slices=1)
    (src / "labels.csv").symlink_to(tmp_path / "nowhere")
    assert main(["clean", str(src), "--out", str(tmp_path / "out"), "--key", "public"]) == 2
    assert "labels.csv can't be read" in capsys.readouterr().err
