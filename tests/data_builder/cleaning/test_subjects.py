"""Whose a slice is: several patients in a study, issuers, and headers without a Patient ID."""

import json

from data_builder.__main__ import main
from tests.helpers.dicom_files import ct
from tests.helpers.source_folder import (
    LABELS_HEADER,
    PSEUDONYMS,
    all_listed,
    clean,
    put,
    put_study,
    read_table,
)


def subjects(out):
    return json.loads((out / "cleaning.json").read_text())["subjects"]


def test_a_study_of_several_patients_is_refused_as_predict_refuses_it(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src, "good", patient="C", slices=2)
    for number, patient in enumerate("AAB"):
        put(src, f"mixed/{number}", ct(PatientID=patient, SOPInstanceUID=f"1.2.{number}"))
    summary = clean(src, out)
    assert summary.reasons == {"mixed patients": 3} and summary.slices == 2
    details = {row["detail"] for row in read_table(out, "refused.csv")}
    assert all(detail.startswith("one study of 2 patients") for detail in details)
    assert all_listed(src, out)
    assert len(list((out / "images").rglob("*.png"))) == 2
    (src / "labels.csv").write_text(LABELS_HEADER + "mixed,D,,,0,\n")
    assert clean(src, out).refused == 0  # labels.csv makes them one
    stated = [row for row in read_table(out) if row["subject"] == PSEUDONYMS.subject("D")]
    assert len(stated) == 3 and subjects(out)["by_labels"] == 1


def test_a_patient_id_with_and_without_its_issuer_is_said_and_can_be_made_one(tmp_path, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src, "one", patient="A", slices=1, IssuerOfPatientID="here")
    put_study(src, "two", patient="A", slices=1)
    put_study(src, "three", patient="B", slices=1, IssuerOfPatientID="here")
    command = ["clean", str(src), "--out", str(out), "--key", "public", "--jobs", "2"]
    assert main(command) == 0
    assert "1 Patient ID(s) stand with and without an issuer" in capsys.readouterr().err
    assert subjects(out)["issuer_in_part"] == 1 and subjects(out)["by_patient_id"] == 3
    (src / "labels.csv").write_text(LABELS_HEADER + "one,A,,,0,\ntwo,A,,,0,\nthree,B,,,0,\n")
    assert main(command) == 0
    assert "warning" not in capsys.readouterr().err
    assert {row["subject"] for row in read_table(out)} == {
        PSEUDONYMS.subject("A"),
        PSEUDONYMS.subject("B^here"),
    }


def test_studies_without_a_patient_id_are_counted(tmp_path, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    uid = put_study(src, "one", patient="", slices=2)
    put_study(src, "two", patient="B", slices=2)
    assert main(["clean", str(src), "--out", str(out), "--key", "public", "--jobs", "2"]) == 0
    assert "1 subject(s) are studies without a Patient ID" in capsys.readouterr().err
    assert subjects(out)["without_id"] == [PSEUDONYMS.subject(uid)]
