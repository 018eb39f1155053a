"""The review's server: what it answers, refuses and survives."""

import concurrent.futures
import shutil
import signal
import socket
import sqlite3
import uuid

import numpy as np
import pytest

from data_builder.__main__ import main
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.records import LOCATIONS
from data_builder.review.folder import Folder
from data_builder.review.server import STATIC
from data_builder.review.store import Change, Store
from tests.helpers.review_folder import Served, write_folder

A, B = "sli-0000-0000", "sli-0000-0001"


def name():
    return uuid.uuid4().hex


@pytest.fixture
def folder(tmp_path):
    return Folder(write_folder(tmp_path / "cleaned"))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("served") / "cleaned", studies=4)
    (folder / "outside.png").symlink_to("/etc/passwd")
    with (folder / "manifest.csv").open("a", newline="") as file:
        for number, image in enumerate(("../../etc/passwd", "/etc/passwd", "outside.png")):
            cells = f"sli-out-{number},fil-out,,sub-9,stu-9,ser-9,,{image},1,,,,robust,,,,,"
            file.write(cells + "\r\n")
    server = Served(folder)
    yield server, folder
    server.kill()


def test_the_page_asks_nothing_of_others_and_may_not_be_framed(served):
    server, _ = served
    status, page = server.ask("/")
    assert status == 200 and b"http" not in page.replace(b"http-equiv", b"")
    for path in STATIC.iterdir():
        status, text = server.ask(f"/static/{path.name}")
        assert status == 200 and b"://" not in text
        if path.suffix in (".js", ".css"):  # all of it is fetched at once
            assert f"/static/{path.name}".encode() in page


def change(target=A, field="label", value="deep"):
    return {"target": target, "field": field, "value": value}


def body(**other):
    return {"reader": "AB", "action": name(), "changes": [change()]} | other


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/api/decide", b"{", 400),
        ("/api/decide", b"[]", 400),
        ("/api/decide", body(reader=""), 400),
        ("/api/decide", body(reader="<script>"), 400),
        ("/api/decide", body(reader="A" * 41), 400),
        ("/api/decide", body(reader=7), 400),
        ("/api/decide", body(action="x"), 400),
        ("/api/decide", body(action=None), 400),
        ("/api/decide", body(changes=[]), 400),
        ("/api/decide", body(changes="deep"), 400),
        ("/api/decide", body(changes=[7]), 400),
        ("/api/decide", body(changes=[change(target="sli-9")]), 400),
        ("/api/decide", body(changes=[change(target="")]), 400),
        ("/api/decide", body(changes=[change(field="subject")]), 400),
        ("/api/decide", body(changes=[change(value="brain")]), 400),
        ("/api/decide", body(changes=[change(value=1)]), 400),
        ("/api/decide", body(changes=[change(field="note", value="x" * 501)]), 400),
        ("/api/decide", body(changes=[change(field="note", value="a\0b")]), 400),
        ("/api/decide", body(changes=[change()] * 20_001), 400),
        ("/api/settle", body(), 400),  # still blind
        ("/api/unsettle", body(), 400),
        ("/api/probabilities", body(study="stu-0000"), 400),
        ("/api/probabilities", body(study="stu-9999"), 404),
        ("/api/order", body(by="likely"), 400),
        ("/api/nothing", body(), 404),
        ("/api/start?reader=", None, 400),
        ("/api/start", None, 400),
        ("/api/study/stu-9999?reader=AB", None, 404),
        ("/api/study/stu-0000", None, 400),
        ("/api/said/stu-0000?reader=AB", None, 400),
        ("/api/disputes?reader=AB", None, 400),
        ("/api/agreement?reader=AB", None, 400),
        ("/api/image/sli-9", None, 404),
        ("/api/image/..%2f..%2fmanifest.csv", None, 404),
        ("/api/image/sli-out-0", None, 404),
        ("/api/image/sli-out-1", None, 404),
        ("/api/image/sli-out-2", None, 404),
        ("/api/hu/sli-0000-0000", None, 404),
        ("/api/sheet/..%2fmanifest", None, 404),
        ("/static/../answers.py", None, 404),
        ("/static/..%2fanswers.py", None, 404),
        ("/static/%2fetc%2fpasswd", None, 404),
        ("/api/decide", None, 405),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(served, path, sent, status):
    server, folder = served
    before = len(Store(folder / "review" / "decisions.sqlite").history())
    found, text = server.ask(path, sent)
    assert found == status, text
    assert b"Traceback" not in text and b"root:" not in text
    assert len(Store(folder / "review" / "decisions.sqlite").history()) == before


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example:80"}, 403),  # a name rebound to this address
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_length": "5000000"}, 413),
    ],
)
def test_writes_come_from_this_servers_own_page(served, headers, status):
    server, _ = served
    assert server.ask("/api/decide", body(), **headers)[0] == status
    assert server.ask("/", None, host="evil.example")[0] == 403


def test_another_address_than_loopback_asks_for_its_token(tmp_path):
    server = Served(write_folder(tmp_path / "cleaned"), "--host", "127.0.0.2")
    try:
        token = server.url.split("token=")[1]
        for path in ("/", "/static/app.js", "/api/image/sli-0000-0000", "/?token=guess"):
            assert server.ask(path)[0] == 403
        assert server.ask("/api/export", {"reader": "AB"})[0] == 403
        status, _ = server.ask(f"/?token={token}")
        assert status == 303
        cookie = f"review-{server.port}={token}"
        assert server.ask("/", None, cookie=cookie)[0] == 200
        assert server.ask("/", None, cookie=cookie, host="evil.example")[0] == 403
        assert server.ask("/", None, cookie=f"review-{server.port}=guess")[0] == 403
    finally:
        server.kill()


def test_eight_readers_at_once_over_http(served):
    server, folder = served
    keys = [key for key in Folder(folder).rows if "out" not in key]

    def work(number):
        for key in keys:
            server.say(f"R{number}", (key, "label", LOCATIONS[number % 3]), (key, "unsure", "1"))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    store = Store(folder / "review" / "decisions.sqlite")
    for number in range(8):
        state = store.state(f"R{number}")
        assert state == {key: {"label": LOCATIONS[number % 3], "unsure": "1"} for key in keys}


def test_readers_are_blind_until_they_ask_and_it_is_recorded(served):
    server, _ = served
    server.say("ann", ("stu-0003", "label", "normal"))
    server.say("bob", ("stu-0003", "label", "deep"))
    seen = server.json("/api/study/stu-0003?reader=ann")["state"]
    assert seen == {"stu-0003": {"label": "normal"}}
    history = server.json("/api/history/sli-0003-0000?reader=ann")
    assert {each["reader"] for each in history} == {"ann"}
    server.json("/api/unblind", {"reader": "ann", "action": name()})
    disputes = server.json("/api/disputes?reader=ann")
    here = [each for each in disputes if each["study"] == "stu-0003"]
    assert here[0]["first"] == 0 and {"ann", "bob"} <= {each["reader"] for each in here[0]["said"]}
    server.say("ann", ("stu-0003", "label", "deep"), way="settle")
    history = server.json("/api/history/sli-0003-0000?reader=ann")
    assert history[-1] | {"at": ""} == {
        "at": "", "reader": "ann", "settles": True, "target": "stu-0003", "field": "label",
        "value": "deep", "before": "", "undo": False,
    }  # fmt: skip
    told = server.json("/api/said/stu-0003?reader=ann")
    assert told["state"] == {"stu-0003": {"label": "deep"}}


def test_hounsfield_units_reach_the_page_as_they_are_in_the_scan(phantoms, tmp_path):
    from data_builder.dicom.read import read_slices

    scans, made, _ = phantoms
    cleaned = shutil.copytree(made, tmp_path / "cleaned")
    server = Served(cleaned, "--dicom", str(scans), "--key", "public")
    try:
        names = Pseudonyms(PUBLIC_KEY)
        path = sorted(scans.rglob("*.dcm"))[7]
        (scan,) = read_slices(path)
        status, data = server.ask(f"/api/hu/{names.slice(scan.header.slice_identity)}")
        assert status == 200
        assert np.array_equal(np.frombuffer(data, "<i2").reshape(scan.hu.shape), scan.hu)
    finally:
        server.kill()


# The command.


def test_bad_arguments_are_one_line_and_status_2(tmp_path, folder, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    cleaned = str(folder.path)
    taken = socket.create_server(("127.0.0.1", 0))
    busy = str(taken.getsockname()[1])
    for arguments, words in (
        ([str(empty)], "holds no manifest.csv"),
        ([cleaned, "--dicom", str(tmp_path / "no"), "--key", "public"], "is not a folder"),
        ([cleaned, "--dicom", str(empty), "--key", "public"], "holds no file that the manifest"),
        ([cleaned, "--labels", str(tmp_path / "no.csv")], "names no file"),
        ([cleaned, "--export", cleaned], "the reviewed folder itself"),
        ([cleaned, "--port", busy], "can't be listened on"),
    ):
        assert main(["review", *arguments]) == 2
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == 1, said.err
    taken.close()
    other = write_folder(tmp_path / "other")
    (other / "review").mkdir()
    (other / "review" / "decisions.sqlite").write_text("no database at all, but some text\n" * 99)
    assert main(["review", str(other)]) == 2
    assert "can't be opened" in capsys.readouterr().err


def test_a_full_disk_is_told_and_nothing_is_said_to_be_saved(tmp_path):
    folder = write_folder(tmp_path / "cleaned")
    server = Served(folder)
    try:
        server.say("AB", (A, "label", "deep"))
        with sqlite3.connect(folder / "review" / "decisions.sqlite") as database:
            database.execute("CREATE TRIGGER full BEFORE INSERT ON decisions BEGIN SELECT "
                             "RAISE(ABORT, 'database or disk is full'); END")  # fmt: skip
        status, text = server.ask("/api/decide", body(changes=[change(B)]))
        assert status == 503 and b"disk full" in text
        assert server.json("/api/study/stu-0000?reader=AB")["state"] == {A: {"label": "deep"}}
    finally:
        server.kill()


def test_undo_of_a_slice_that_is_gone_is_still_an_undo(tmp_path):
    folder = write_folder(tmp_path / "cleaned")
    Store(folder / "review" / "decisions.sqlite").append(
        "AB", name(), [Change("sli-gone", "keep", "0"), Change(A, "keep", "0")]
    )
    server = Served(folder)
    try:
        told = server.json("/api/undo", {"reader": "AB", "action": name()})
        assert told["studies"] == ["stu-0000"] and len(told["saved"]) == 2
    finally:
        server.kill()


def test_ctrl_c_ends_the_page(folder):
    server = Served(folder.path)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 130
    server.process.stdout.close()
