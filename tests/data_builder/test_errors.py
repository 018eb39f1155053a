"""Errors that a user can mend are one line without a path; others keep their traceback."""

import errno
import os

import pytest

from data_builder.errors import run_command
from dtvit_jax.experiments.run import run
from tests.helpers.experiment import grid, predicted


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_full_disk_or_a_forbidden_file_is_one_line_without_its_path(capsys, number):
    def command():
        raise OSError(number, os.strerror(number), "/home/Jane Doe/file")

    assert run_command(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {os.strerror(number)}: ") and error.count("\n") == 1
    assert "Jane" not in error


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone"), ValueError("a fault")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    def command():
        raise error

    with pytest.raises(type(error)):
        run_command(command)


def test_an_experiment_on_a_full_disk_ends_with_a_line(small_disk, capsys):
    disk = small_disk(16)
    assert run_command(lambda: run(grid(), disk / "out", predicted)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: No space left on device: make room, and give the same command"
