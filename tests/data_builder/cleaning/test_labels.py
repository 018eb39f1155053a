"""labels.csv: rows about slices, studies and subjects, and one line for a bad cell."""

import pytest

from data_builder.errors import InputError
from tests.helpers.source_folder import (
    LABELS_HEADER,
    PSEUDONYMS,
    all_listed,
    clean,
    put_study,
    read_table,
)


def test_the_closest_of_slice_study_and_subject_decides(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    first = put_study(src, "one")
    second = put_study(src, "two", patient="B2", IssuerOfPatientID="here")
    put_study(src, "three", patient="C3")
    rows = [
        f"{first},,,,1,deep",  # by Study Instance UID
        "one,,2,,0,",  # by folder and instance number
        f"one,,{first}.1.2,0,,",  # by SOP Instance UID: not kept, its label the study's
        "two,B2,,,0,",  # by folder; the subject as the header has it
        ",C3,,,1,lobar",  # a subject
        "nowhere,,,,1,deep",
    ]
    (src / "labels.csv").write_text(LABELS_HEADER + "\n".join(rows) + "\n")
    summary = clean(src, out)
    rows = {(r["study"], r["position_mm"]): r for r in read_table(out)}
    labels = [
        (r["keep"], r["hemorrhage"], r["location"], r["label_level"])
        for z in ("0.000", "5.000", "10.000")
        for r in [rows[PSEUDONYMS.study(first), z]]
    ]
    assert labels == [
        ("1", "1", "deep", "study"),
        ("1", "0", "", "slice"),
        ("0", "1", "deep", "study"),
    ]
    two = rows[PSEUDONYMS.study(second), "0.000"]
    assert (two["hemorrhage"], two["subject"]) == ("0", PSEUDONYMS.subject("B2^here"))
    three = [r for r in read_table(out) if r["label_level"] == "subject"]
    assert len(three) == 4 and {r["location"] for r in three} == {"lobar"}
    assert summary.unmatched_labels == ("labels.csv line 7",)
    assert summary.refused == 0 and all_listed(src, out)


def test_labels_may_give_the_subject_and_a_changed_label_needs_no_cleaning(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src, "one", patient="ANON")
    put_study(src, "two", patient="ANON")
    (src / "labels.csv").write_text(LABELS_HEADER + "one,p1,,,0,\ntwo,p2,,,0,\n")
    clean(src, out)
    assert {r["subject"] for r in read_table(out)} == {
        PSEUDONYMS.subject("p1"),
        PSEUDONYMS.subject("p2"),
    }
    (src / "labels.csv").write_text(LABELS_HEADER + "one,p1,,,1,deep\ntwo,p2,,,0,\n")
    assert clean(src, out).skipped == 8
    assert sorted({r["location"] for r in read_table(out)}) == ["", "deep"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study,hemorrhage\n", "line 1: the column location"),
        (LABELS_HEADER + "one,,,,2,deep\n", "line 2, column hemorrhage"),
        (LABELS_HEADER + "one,,,,0,\none,,,,1,frontal\n", "line 3, column location"),
        (LABELS_HEADER + "one,,,yes,,\n", "line 2, column keep"),
        (LABELS_HEADER + ",,3,,1,deep\n", "line 2, column study"),
        (LABELS_HEADER + "one,,,,1,deep,more,more\n", "line 2: more cells"),
        (LABELS_HEADER + "one,,,,1,deep\none,,,,0,\n", "line 3, column hemorrhage"),
        (LABELS_HEADER.encode() + b"\xff\xfe\n", "UTF-8"),
    ],
)
def test_a_bad_label_is_one_line_with_its_place(tmp_path, text, message):
    put_study(tmp_path / "src", "one", slices=1)
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "src" / "labels.csv").write_bytes(data)
    with pytest.raises(InputError, match=message):
        clean(tmp_path / "src", tmp_path / "out")
