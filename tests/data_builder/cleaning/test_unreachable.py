"""Files of a source that the system does not give: refused by pseudonym, and the rest goes on."""

import os

import pytest

from data_builder.__main__ import main
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


def test_a_path_that_is_too_long_is_refused_and_the_rest_is_cleaned(src, tmp_path, capfd):
    out = tmp_path / "out"
    assert main(["clean", str(src), "--out", str(out), "--key", "public", "--jobs", "2"]) == 1
    assert len(read_table(out)) == 4
    (row,) = read_table(out, "refused.csv")
    assert row["reason"] == "unreadable" and "File name too long" in row["detail"]
    printed = "".join(capfd.readouterr())
    assert "dddd" not in printed and "Doe" not in printed
    assert clean(src, out).skipped == 4  # the file may be read by now: it is tried again
