"""The audit reports planted copies and confounds, and nothing in a clean data set."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from data_builder.__main__ import main
from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.records import Record
from data_builder.shards.audit import audit, confounds
from data_builder.shards.audit_report import table_1
from data_builder.shards.build import build
from data_builder.shards.near_duplicates import read_near_duplicates
from data_builder.shards.sources import open_source
from data_builder.shards.splits import SplitPlan
from tests.helpers.published import write_published


def published_with(folder, plant) -> None:
    """Writes the published folder, then calls `plant(ICH slice, folder of normal slices)`."""
    write_published(folder)
    plant(sorted((folder / "yes" / "Deep").iterdir())[0], folder / "no")


def copy_bytes(source, folder):
    (folder / "0999-1Other Person d.png").write_bytes(source.read_bytes())


def copy_resized(source, folder):
    Image.open(source).resize((72, 72), Image.Resampling.BILINEAR).save(
        folder / "0999-1Other Person d.jpg", quality=90
    )


def copy_shifted(source, folder):
    image = np.asarray(Image.open(source))
    lighter = Image.fromarray(np.minimum(image, 254) + np.uint8(1))
    lighter.save(folder / "0999-1Other Person d.png")


@pytest.fixture(params=[copy_bytes, copy_resized, copy_shifted])
def planted(request, tmp_path):
    published_with(tmp_path / "source", request.param)
    return tmp_path / "source"


def halves(source, tmp_path):
    """A splits.csv with ICH slices in training and normal ones in test."""
    rows = [f"{r.key},{'train' if r.hemorrhage else 'test'}\n" for r in source.records]
    path = tmp_path / "mine.csv"
    path.write_text("key,split\n" + "".join(rows))
    return path


def test_a_copy_across_sides_is_a_leak_and_two_labels(planted, tmp_path, capsys):
    source = open_source(planted, Pseudonyms(PUBLIC_KEY))
    mine = halves(source, tmp_path)
    assert main(["audit", str(planted), "--key", "public", "--splits", str(mine)]) == 1
    printed = capsys.readouterr().out
    # Near: the three slices of the copied subject differ by noise alone.
    assert re.search(r"leak: (1 slice|[123] pair)\(s\)", printed)
    assert "more than one side: sub-" not in printed
    assert "one slice under two labels: sli-" in printed
    assert "Person" not in printed and "Jane" not in printed and "John" not in printed


def test_the_builders_own_split_keeps_copies_together(planted, tmp_path, capsys):
    assert main(["audit", str(planted), "--key", "public"]) == 0
    assert "no leak" in capsys.readouterr().out
    data = tmp_path / "data"
    assert main(["build", str(planted), "--data_dir", str(data), "--size=48", "--key=public"]) == 0
    capsys.readouterr()
    assert main(["audit", str(data), "--key", "public"]) == 0
    printed = capsys.readouterr().out
    assert "one slice under two labels: sli-" in printed and "no leak" in printed


def test_a_clean_split_of_a_clean_source_is_clean(published, tmp_path, capsys):
    source = open_source(published, Pseudonyms(PUBLIC_KEY))
    mine = halves(source, tmp_path)
    assert main(["audit", str(published), "--key", "public", "--splits", str(mine)]) == 0
    printed = capsys.readouterr().out
    assert "confound: 'year' is known for ICH slices only: a total confound" in printed
    assert "2020     36   0" in printed and "unknown  0    24" in printed
    assert "under two labels" not in printed and "no leak" in printed


def test_the_split_of_the_paper_is_reported_as_a_leak(published, tmp_path, capsys):
    assert main(["audit", str(published), "--key", "public", "--split", "slice"]) == 1
    printed = capsys.readouterr().out
    assert "subject(s) are on more than one side" in printed
    source = open_source(published, Pseudonyms(PUBLIC_KEY))
    folder = build(source, tmp_path, SplitPlan("slice"), 36)
    capsys.readouterr()
    assert main(["audit", str(folder)]) == 1
    assert "subject(s) are on more than one side" in capsys.readouterr().out


def test_a_subject_split_that_leaks_is_not_built(tmp_path):
    """Known subjects on two sides get a shared slice: neither can move, so nothing is built."""
    folder = write_published(tmp_path / "source")
    source = open_source(folder, Pseudonyms(PUBLIC_KEY))
    first = build(source, tmp_path / "data", SplitPlan(), 36)
    rows = [row.split(",") for row in (first / "splits.csv").read_text().splitlines()[1:]]
    side_of = {row[0]: row[2] for row in rows}
    trained = next(r for r in source.records if side_of[r.key] == "train" and r.hemorrhage)
    tested = next(r for r in source.records if side_of[r.key] == "test" and r.hemorrhage)
    name = tested.image.rsplit("/", 1)[1].split("-", 1)[1]
    parent = tested.image.rsplit("/", 1)[0]
    shutil.copy(trained.image, f"{parent}/0888-{name}")
    with pytest.raises(InputError, match=r"by subject leaks: 1 slice.*sli-\w+ = sli-\w+"):
        build(open_source(folder, Pseudonyms(PUBLIC_KEY)), tmp_path / "data", SplitPlan(), 36)
    assert len(list((tmp_path / "data").rglob("splits.csv"))) == 1
    fresh = build(open_source(folder, Pseudonyms(PUBLIC_KEY)), tmp_path / "new", SplitPlan(), 36)
    assert main(["audit", str(fresh)]) == 0


def test_slices_with_little_tissue_are_not_copies(tmp_path):
    folder = write_published(tmp_path / "source")
    for subfolder, name in (("no", "0990-1Roe A d"), ("yes/Deep", "0990-2020_filtered-1Doe-777")):
        Image.new("L", (96, 96)).save(folder / subfolder / f"{name}.png")
    source = open_source(folder, Pseudonyms(PUBLIC_KEY))
    sides = {r.key: "train" if r.hemorrhage else "test" for r in source.records}
    findings = audit(source.records, sides, read_near_duplicates(source.records))
    assert findings.too_empty == 2 and findings.leaks == [] and findings.two_labels == []


def test_a_bad_splits_file_is_refused(published, tmp_path, capsys):
    mine = tmp_path / "mine.csv"
    mine.write_text("key,split\nsli-a,train\n")
    command = ["audit", str(published), "--key", "public", "--splits", str(mine)]
    assert main(command) == 2
    assert "no row for 60 of 60 slices" in capsys.readouterr().err
    mine.write_text("key,split\nsli-a,training\n")
    assert main(command) == 2
    mine.write_text("name\n")
    assert main(command) == 2
    assert main([*command[:-1], str(tmp_path / "none.csv")]) == 2


def with_facts(key: str, hemorrhage: int, **facts: str) -> Record:
    return Record(key, "", hemorrhage, "", key, "", 0.0, key, tuple(facts.items()))


def test_confounds_are_named():
    one_sided = [with_facts("a", 0), with_facts("b", 1, year="2020")]
    assert confounds(one_sided) == ["'year' is known for ICH slices only: a total confound"]
    separated = [with_facts("a", 0, scanner="A"), with_facts("b", 1, scanner="B")]
    assert "no 'scanner' is shared" in confounds(separated)[0]
    assert confounds([with_facts("a", 0, sex="F"), with_facts("b", 1, sex="F")]) == []


def test_table_1_has_the_numbers_of_the_paper():
    """Table 1 of arXiv 2405.06814, on as many slices; its 221 patients are those with an ICH."""
    slices = [(0, "", 4407), (1, "deep", 6093), (1, "lobar", 1656), (1, "subtentorial", 495)]
    records = []
    for hemorrhage, location, n in slices:
        for i in range(n):
            subject = f"{'ich' if hemorrhage else 'no'}{i % 221}"
            facts = (("sex", "M" if i % 221 < 117 else "F"),) if hemorrhage else ()
            key = f"{location}{i}"
            records.append(Record(key, "", hemorrhage, location, subject, "", 0.0, key, facts))
    rows = [line.split() for line in table_1(records)[1:]]
    assert [row[2:] for row in rows] == [
        ["221", "Male", "117", "52.94%"],
        ["221", "Female", "104", "47.06%"],
        ["12651", "Yes", "8244", "65.16%"],
        ["12651", "No", "4407", "34.84%"],
        ["8244", "Deep", "6093", "73.91%"],
        ["8244", "Lobar", "1656", "20.09%"],
        ["8244", "Subtentorial", "495", "6.00%"],
    ]
