import subprocess
import sys

import pytest

from data_builder.errors import InputError
from data_builder.files import hold

HOLDER = """
import sys, pathlib
from data_builder.files import hold
hold(pathlib.Path(sys.argv[1]), "--out")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_ends_even_by_kill(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"another process is writing to .*--out"):
            hold(tmp_path, "--out")
        first.kill()
    hold(tmp_path, "--out")
    hold(tmp_path, "--out")  # the process that holds it may ask again


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*give another --workdir"):
        hold(tmp_path / "file" / "inside", "--workdir")
