"""Files of a source that the system does not give: refused by pseudonym, and the rest goes on."""

import os
from pathlib import Path

import pytest

from data_builder.__main__ import main
from data_builder.errors import InputError
from data_builder.parallel import processes
from data_builder.pseudonyms import PUBLIC_KEY
from data_builder.review.folder import Folder
from dtvit_jax.prediction import intake
from tests.helpers.review_folder import write_folder
from tests.helpers.source_folder import clean, put_study, read_table

DEEP = "d" * 200  # 25 such folders are more than the 4096 bytes that a path may have


@pytest.fixture
def src(tmp_path):
    """A study, and in a folder beside it a file at a path that no system call takes."""
    src = tmp_path / "src"
    put_study(src)
    here = os.open(src, os.O_RDONLY)
    for _ in range(25):
        os.mkdir(DEEP, dir_fd=here)
        inner = os.open(DEEP, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("Doe John.dcm", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    return src


@pytest.fixture
def folder(tmp_path):
    return Folder(write_folder(tmp_path / "cleaned", hemorrhage="0"))


def test_a_path_that_is_too_long_is_refused_and_the_rest_is_cleaned(src, tmp_path, capfd):
    out = tmp_path / "out"
    assert main(["clean", str(src), "--out", str(out), "--key", "public", "--jobs", "2"]) == 1
    assert len(read_table(out)) == 4
    (row,) = read_table(out, "refused.csv")
    assert row["reason"] == "unreadable" and "File name too long" in row["detail"]
    printed = "".join(capfd.readouterr())
    assert "dddd" not in printed and "Doe" not in printed
    assert clean(src, out).skipped == 4  # the file may be read by now: it is tried again


def test_predict_lists_a_path_that_is_too_long(src):
    tasks = intake.files_in([src], PUBLIC_KEY)
    sizes = [intake.identify(task).size for task in tasks]
    assert sorted(size > 0 for size in sizes) == [False, True, True, True, True]
    (deep,) = [task for task, size in zip(tasks, sizes, strict=True) if size < 0]
    lost = intake.identified(deep, processes.Lost("hung"))
    assert lost.study == "" and lost.size == -1


@pytest.mark.parametrize("long", ["x" * 300, "x/" * 3000])
def test_a_path_of_the_command_line_that_is_too_long_is_one_line(tmp_path, capsys, folder, long):
    src, out, data = tmp_path / "src", str(tmp_path / "out"), str(tmp_path / "data")
    put_study(src, slices=1)
    cleaned = str(folder.path)
    for words in (
        ["clean", long, "--out", out],
        ["clean", str(src), "--out", long],
        ["build", long, "--data_dir", data],
        ["build", cleaned, "--data_dir", long],
        ["audit", long],
        ["review", long],
        ["review", cleaned, "--dicom", long],
        ["review", cleaned, "--labels", long],
    ):
        assert main([*words, "--key", "public"]) == 2, words[:2]
        error = capsys.readouterr().err
        assert error.count("error:") == 1 and long not in error
    with pytest.raises(InputError, match="PATH 1 does not exist"):
        intake.files_in([Path(long)], PUBLIC_KEY)
