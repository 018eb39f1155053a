import hashlib
import json
import stat
import subprocess
import sys

import pytest

from data_builder.errors import InputError
from data_builder.files import draft_of, hold, sha256_of, write_json, write_private

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


def test_a_draft_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), draft_of(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError):
        write_json(path, {"loss": float("nan")})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_files_are_written_whole(tmp_path):
    write_json(tmp_path / "run.json", {"steps": [1, 2]})
    assert json.loads((tmp_path / "run.json").read_text()) == {"steps": [1, 2]}
    write_private(tmp_path / "key", b"secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert sha256_of(tmp_path / "key") == hashlib.sha256(b"secret").hexdigest()
