"""Labels from a labels.csv: imported as decisions, and exported again."""

import shutil

from data_builder.__main__ import main
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.review.folder import Folder
from data_builder.review.store import Store
from tests.helpers.review_folder import table


def test_phantom_labels_are_imported_by_folder_name_and_exported(phantoms, tmp_path, capsys):
    scans, original, labels = phantoms
    cleaned = shutil.copytree(original, tmp_path / "cleaned")
    command = ["review", str(cleaned), "--key", "public"]
    assert main([*command, "--labels", str(labels)]) == 2  # folder names need --dicom
    command += ["--dicom", str(scans)]
    capsys.readouterr()
    assert main([*command, "--labels", str(labels)]) == 0
    assert "decisions stored" in capsys.readouterr().out
    by_study = tmp_path / "labels.csv"
    by_study.write_text("study,hemorrhage,location\nphantom-0001-1,0,\n")
    assert main([*command, "--labels", str(by_study), "--reader", "AB"]) == 0
    by_key = tmp_path / "keys.csv"
    first = next(iter(Folder(cleaned).rows))
    by_key.write_text(f"study,slice,keep,hemorrhage,location\n,{first},0,,\n")
    assert main([*command, "--labels", str(by_key), "--reader", "CD"]) == 0
    store = Store(cleaned / "review" / "decisions.sqlite")
    assert store.readers() == ["labels.csv", "AB", "CD"]
    assert [*store.state("AB").values()] == [{"label": "normal"}]
    assert store.state("CD") == {first: {"keep": "0"}}
    assert main([*command, "--export", str(tmp_path / "out")]) == 0
    rows = {row["key"]: row for row in table(tmp_path / "out" / "manifest.csv")}
    names = Pseudonyms(PUBLIC_KEY)
    for row in table(labels):
        exported = rows[names.slice(row["slice"])]
        if exported["key"] != first and exported["keep"] == "1" and exported["hemorrhage"]:
            assert exported["hemorrhage"] == row["hemorrhage"]
            assert exported["location"] == row["location"]
    assert sum(row["hemorrhage"] == "1" for row in rows.values()) == sum(
        row["hemorrhage"] == "1" for row in table(labels)
    )
