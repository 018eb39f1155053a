"""The command `review`: bad arguments, and Ctrl-C."""

import signal
import socket

from data_builder.__main__ import main
from tests.helpers.review_folder import Served, write_folder


def test_bad_arguments_are_one_line_and_status_2(tmp_path, folder, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    cleaned = str(folder.path)
    taken = socket.create_server(("127.0.0.1", 0))
    busy = str(taken.getsockname()[1])
    for arguments, message in (
        ([str(empty)], "holds no manifest.csv"),
        ([cleaned, "--dicom", str(tmp_path / "no"), "--key", "public"], "is not a folder"),
        ([cleaned, "--dicom", str(empty), "--key", "public"], "holds no file that the manifest"),
        ([cleaned, "--labels", str(tmp_path / "no.csv")], "names no file"),
        ([cleaned, "--export", cleaned], "the reviewed folder itself"),
        ([cleaned, "--port", busy], "can't be listened on"),
    ):
        assert main(["review", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    taken.close()
    other = write_folder(tmp_path / "other")
    (other / "review").mkdir()
    (other / "review" / "decisions.sqlite").write_text("no database at all, but some text\n" * 99)
    assert main(["review", str(other)]) == 2
    assert "can't be opened" in capsys.readouterr().err


def test_ctrl_c_ends_the_page(folder):
    server = Served(folder.path)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 130
    server.process.stdout.close()
