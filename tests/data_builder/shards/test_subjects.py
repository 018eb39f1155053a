"""Subjects that are no people: refused by build, said by audit, and never named."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from data_builder.__main__ import main
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.shards.build import build
from data_builder.shards.files import data_sets
from data_builder.shards.metadata import read_metadata
from data_builder.shards.sources import open_source
from data_builder.shards.splits import SplitPlan
from data_builder.shards.subjects import masked, subjects_read
from tests.helpers.dicom_files import ct, head_hu
from tests.helpers.published import write_published
from tests.helpers.source_folder import LABELS_HEADER, put

PSEUDONYMS = Pseudonyms(PUBLIC_KEY)


def renamed(folder, name_of):
    """The published folder with files named `name_of(class number, subject, slice)`."""
    write_published(folder)
    for number, place in enumerate(("no", "yes/Deep", "yes/Lobar", "yes/Subtentorial")):
        for i, path in enumerate(sorted((folder / place).iterdir())):
            path.rename(path.with_name(name_of(number, i // 3, i % 3) + ".png"))
    return folder


def flat(number, subject, piece):
    return f"Doe{number}_{100 * subject + piece:04d}"


def person_first(number, subject, piece):
    return f"DOE{10 * number + subject:03d}-{100 + piece}"


def piece_after_a_number(number, subject, piece):
    return f"{10 * number + subject:04d}-{200 + piece}"


def nobody(number, subject, piece):
    return f"{1000 * number + 10 * subject + piece:04d}-"


MISREAD = [
    (flat, "60 of 60 file names do not begin with a number and '-'", "'a9_9999'"),
    (flat, "each of the 24 slices in no/ is a subject of its own", "as subject 'a9_9999'"),
    (person_first, "subjects have slices of several locations", "'a999-999' read as subject '999'"),
    (piece_after_a_number, "3 of 3 subjects have slices of several locations", "subject '999'"),
    (nobody, "60 file name(s) hold no subject", "such as '9999-'"),
]


def command(name, source, tmp_path, *options):
    folder = [] if name == "audit" else ["--data_dir", str(tmp_path / "data"), "--size=36"]
    return main([name, str(source), "--key", "public", *folder, *options])


@pytest.mark.parametrize(("name_of", "why", "sample"), MISREAD)
def test_names_that_hold_no_subject_are_refused_with_a_masked_sample(
    tmp_path, capsys, name_of, why, sample
):
    source = renamed(tmp_path / "source", name_of)
    assert command("build", source, tmp_path) == 2
    printed = capsys.readouterr()
    assert why in printed.err and sample in printed.err and "NUMBER-SUBJECT" in printed.err
    assert not (tmp_path / "data").exists()
    assert command("audit", source, tmp_path) in (1, 2)
    audited = "".join(capsys.readouterr())
    assert why in audited and "no leak" not in audited
    assert not re.search("doe", printed.err + audited, re.IGNORECASE)


def test_one_subject_for_all_is_refused(tmp_path, capsys):
    source = write_published(tmp_path / "source")
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        stem = f"{number:04d}-555" if path.parent.name == "no" else f"{number:04d}-2020_x-555"
        path.rename(path.with_name(stem + ".png"))
    assert command("build", source, tmp_path) == 2
    assert "all 60 slices are of one subject" in capsys.readouterr().err
    assert command("audit", source, tmp_path) == 2
    assert "all 60 slices are of one subject" in capsys.readouterr().err


def test_a_split_by_slice_claims_nothing_and_carries_the_doubt(tmp_path, capsys):
    source = renamed(tmp_path / "source", flat)
    assert command("build", source, tmp_path, "--split", "slice") == 0
    assert "warning: the subjects of the source are in doubt" in capsys.readouterr().err
    (folder,) = data_sets(tmp_path / "data")
    doubts = read_metadata(folder)["subjects"]["doubts"]
    assert any("24 slices in no/" in doubt for doubt in doubts)
    assert main(["audit", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "subjects in doubt: each of the 24 slices" in printed and "no leak" not in printed


def test_a_data_set_of_an_earlier_version_is_judged_by_its_slices(published, tmp_path, capsys):
    folder = build(open_source(published, PSEUDONYMS), tmp_path, SplitPlan(), 36)
    metadata = read_metadata(folder)
    del metadata["subjects"]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    assert main(["audit", str(folder)]) == 0
    assert "not known: what the subjects were read from" in capsys.readouterr().out


def test_the_published_names_are_read_without_a_doubt_and_with_what_is_not_known(published):
    read = subjects_read(open_source(published, PSEUDONYMS))
    assert read["doubts"] == []
    assert "in no/ such as '9999-9a a9a' read as subject '9a9a'" in read["read_from"]
    # One made-up name stands under all admission numbers of the folder.
    assert any("1 name(s) that stand under several admission" in line for line in read["unknown"])
    assert not any("Doe" in str(value) or "Roe" in str(value) for value in read.values())


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("s0_0000", "a9_9999"),
        ("0001-2020_filtered-1Doe Jane-123456", "9999-9999_a-9a a-999999"),
        ("D\u00f6e", "a"),
        ("Do\u0308e", "a"),
        ("\u674e\u56db\uff0c\u0661", "a?9"),
    ],
)
def test_a_mask_keeps_the_form_and_no_letter(text, form):
    assert masked(text) == form


def test_companions_of_macos_are_passed_over_and_counted(published, tmp_path, capsys):
    source = shutil.copytree(published, tmp_path / "source")
    for path in [*source.rglob("*.png")][:5]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (source / "__MACOSX" / "no").mkdir(parents=True)
    (source / "__MACOSX" / "no" / "._0000-1Roe.png").write_bytes(b"\0\5\x16\7")
    opened = open_source(source, PSEUDONYMS)
    assert opened.companions == 6
    assert opened.fingerprint == open_source(published, PSEUDONYMS).fingerprint
    assert command("build", source, tmp_path) == 0
    assert "passed over 6 companions" in capsys.readouterr().err
    # An image is no companion by its name alone.
    Image.new("L", (8, 8)).save(source / "no" / "._0999-1Roe.png")
    assert len(open_source(source, PSEUDONYMS).records) == len(opened.records) + 1


def test_a_folder_that_cannot_be_read_is_not_passed_over(published, tmp_path, capsys):
    source = shutil.copytree(published, tmp_path / "source")
    (source / "yes" / "Deep").rename(tmp_path / "elsewhere")
    (source / "yes" / "Deep").symlink_to(tmp_path / "elsewhere")
    assert command("build", source, tmp_path) == 2
    assert "is a link to a folder" in capsys.readouterr().err


def write_people(src, patient, study, slices=3, locations=("", "deep")):
    """Four people a label with `slices` slices each; `patient` and `study` make their IDs."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4 * len(locations)):
        location = locations[number // 4]
        for piece in range(slices):
            noise = rng.integers(0, 30, (8, 8)).repeat(8, 0).repeat(8, 1)
            ds = ct(
                head_hu() + np.where(head_hu() > 0, noise, 0),
                PatientID=patient(number, piece),
                StudyInstanceUID=study(number, piece),
                SOPInstanceUID=f"1.2.{number}.{piece}",
                InstanceNumber=piece + 1,
                ImagePositionPatient=[-30, -30, 5 * piece],
            )
            put(src, f"person{number}/{piece}.dcm", ds)
        rows.append(f"person{number},{{}},,,{int(bool(location))},{location}")
    return rows


def write_labels(src, rows, subject=""):
    lines = [row.format(subject and f"{subject}{number}") for number, row in enumerate(rows)]
    (src / "labels.csv").write_text(LABELS_HEADER + "\n".join(lines) + "\n")


def a_study(number, piece):
    return f"1.3.{number}"


def a_study_for_each_file(number, piece):
    return f"1.3.{number}.{piece}"


@pytest.mark.parametrize(
    ("patient", "study", "why"),
    [
        ("ANONYMOUS", a_study, "all 24 slices, of 8 studies, are of one subject"),
        ("", a_study, "8 subject(s) are studies whose Patient ID is empty"),
        ("", a_study_for_each_file, "each of the 24 slices is a subject of its own"),
    ],
)
def test_ids_that_are_empty_or_shared_are_refused_and_labels_may_state_them(
    tmp_path, capsys, patient, study, why
):
    src = tmp_path / "src"
    rows = write_people(src, lambda number, piece: patient, study)
    write_labels(src, rows)
    assert command("build", src, tmp_path) == 2
    error = capsys.readouterr().err
    assert why in error and "column subject of labels.csv" in error
    (cleaned,) = (tmp_path / "data" / "cleaned").iterdir()
    assert command("audit", cleaned, tmp_path) in (1, 2)
    audited = "".join(capsys.readouterr())
    assert why in audited and "no leak" not in audited
    write_labels(src, rows, "p")
    assert command("build", src, tmp_path) == 0
    capsys.readouterr()
    assert command("audit", cleaned, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "24 slices of 8 subjects, read from headers: 8 by labels.csv" in printed
    assert "not known: whether one person has two Patient IDs" in printed
    assert "no leak between the subjects as read" in printed


def test_one_new_patient_id_a_file_is_refused_unless_labels_state_it(tmp_path, capsys):
    src = tmp_path / "src"
    one_a_file = (lambda number, piece: f"X{number}.{piece}"), a_study_for_each_file
    write_labels(src, write_people(src, *one_a_file))
    assert command("build", src, tmp_path) == 2
    assert "each of the 24 slices is a subject of its own" in capsys.readouterr().err
    pieces = [(number, piece) for number in range(8) for piece in range(3)]
    stated = [
        f"1.3.{number}.{piece},p{number}.{piece},,,{number // 4},{'deep' if number > 3 else ''}"
        for number, piece in pieces
    ]
    write_labels(src, stated)
    assert command("build", src, tmp_path) == 0


def test_a_person_may_have_two_bleeds_where_labels_are_of_slices(tmp_path, capsys):
    src = tmp_path / "src"
    rows = write_people(src, lambda number, piece: f"A{number}", a_study)
    write_labels(src, [*rows, "person4,,1,,1,lobar"])
    assert command("build", src, tmp_path) == 0
    (folder,) = data_sets(tmp_path / "data")
    unknown = read_metadata(folder)["subjects"]["unknown"]
    assert any("1 subject(s) with slices of several locations" in line for line in unknown)
