"""The server of the review page: answers, refusals, tokens, full disks."""

import concurrent.futures
import shutil
import sqlite3

import numpy as np
import pytest

from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.records import LOCATIONS
from data_builder.review.folder import Folder
from data_builder.review.server import STATIC
from data_builder.review.store import Change, Store
from tests.helpers.review_folder import A, B, Served, new_action, write_folder


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


def test_the_page_needs_no_other_host_and_may_not_be_framed(served):
    server, _ = served
    status, page = server.ask("/")
    assert status == 200 and b"http" not in page.replace(b"http-equiv", b"")
    for path in STATIC.iterdir():
        status, text = server.ask(f"/static/{path.name}")
        assert status == 200 and b"://" not in text
        if path.suffix in (".js", ".css"):  # the page preloads each of them
            assert f"/static/{path.name}".encode() in page


def change(target=A, field="label", value="deep"):
    return {"target": target, "field": field, "value": value}


def body(**fields):
    return {"reader": "AB", "action": new_action(), "changes": [change()]} | fields


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
        ("/api/settle", body(), 400),  # still blinded
        ("/api/unsettle", body(), 400),
        ("/api/probabilities", body(study="stu-0000"), 400),
        ("/api/probabilities", body(study="stu-9999"), 404),
        ("/api/order", body(by="likely"), 400),
        ("/api/nothing", body(), 404),
        ("/api/start?reader=", None, 400),
        ("/api/start", None, 400),
        ("/api/study/stu-9999?reader=AB", None, 404),
        ("/api/study/stu-0000", None, 400),
        ("/api/readings/stu-0000?reader=AB", None, 400),
        ("/api/disputes?reader=AB", None, 400),
        ("/api/agreement?reader=AB", None, 400),
        ("/api/image/sli-9", None, 404),
        ("/api/image/..%2f..%2fmanifest.csv", None, 404),
        ("/api/image/sli-out-0", None, 404),
        ("/api/image/sli-out-1", None, 404),
        ("/api/image/sli-out-2", None, 404),
        ("/api/hu/sli-0000-0000", None, 404),
        ("/api/sheet/..%2fmanifest", None, 404),
        ("/static/../api.py", None, 404),
        ("/static/..%2fapi.py", None, 404),
        ("/static/%2fetc%2fpasswd", None, 404),
        ("/api/decide", None, 405),
    ],
)
def test_bad_input_is_refused_and_stores_nothing(served, path, sent, status):
    server, folder = served
    before = len(Store(folder / "review" / "decisions.sqlite").history())
    answered, text = server.ask(path, sent)
    assert answered == status, text
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
def test_writes_are_accepted_from_the_own_page_only(served, headers, status):
    server, _ = served
    assert server.ask("/api/decide", body(), **headers)[0] == status
    assert server.ask("/", None, host="evil.example")[0] == 403


def test_an_address_other_than_loopback_needs_its_token(tmp_path):
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
            server.decide(f"R{number}", (key, "label", LOCATIONS[number % 3]), (key, "unsure", "1"))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    store = Store(folder / "review" / "decisions.sqlite")
    for number in range(8):
        state = store.state(f"R{number}")
        assert state == {key: {"label": LOCATIONS[number % 3], "unsure": "1"} for key in keys}


def test_readers_are_blinded_until_they_ask_and_this_is_recorded(served):
    server, _ = served
    server.decide("ann", ("stu-0003", "label", "normal"))
    server.decide("bob", ("stu-0003", "label", "deep"))
    state = server.json("/api/study/stu-0003?reader=ann")["state"]
    assert state == {"stu-0003": {"label": "normal"}}
    history = server.json("/api/history/sli-0003-0000?reader=ann")
    assert {row["reader"] for row in history} == {"ann"}
    server.json("/api/unblind", {"reader": "ann", "action": new_action()})
    disputes = server.json("/api/disputes?reader=ann")
    dispute = next(row for row in disputes if row["study"] == "stu-0003")
    assert dispute["first"] == 0
    assert {"ann", "bob"} <= {reading["reader"] for reading in dispute["readings"]}
    server.decide("ann", ("stu-0003", "label", "deep"), request="settle")
    history = server.json("/api/history/sli-0003-0000?reader=ann")
    assert history[-1] | {"at": ""} == {
        "at": "", "reader": "ann", "settles": True, "target": "stu-0003", "field": "label",
        "value": "deep", "before": "", "undo": False,
    }  # fmt: skip
    answer = server.json("/api/readings/stu-0003?reader=ann")
    assert answer["state"] == {"stu-0003": {"label": "deep"}}


def test_the_page_gets_the_hounsfield_units_of_the_scan(phantoms, tmp_path):
    from data_builder.dicom.read import read_slices

    scans, original, _ = phantoms
    cleaned = shutil.copytree(original, tmp_path / "cleaned")
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


def test_a_full_disk_is_reported_and_stores_nothing(tmp_path):
    folder = write_folder(tmp_path / "cleaned")
    server = Served(folder)
    try:
        server.decide("AB", (A, "label", "deep"))
        with sqlite3.connect(folder / "review" / "decisions.sqlite") as database:
            database.execute("CREATE TRIGGER full BEFORE INSERT ON decisions BEGIN SELECT "
                             "RAISE(ABORT, 'database or disk is full'); END")  # fmt: skip
        status, text = server.ask("/api/decide", body(changes=[change(B)]))
        assert status == 503 and b"disk full" in text
        assert server.json("/api/study/stu-0000?reader=AB")["state"] == {A: {"label": "deep"}}
    finally:
        server.kill()


def test_undo_includes_slices_that_are_no_longer_in_the_folder(tmp_path):
    folder = write_folder(tmp_path / "cleaned")
    Store(folder / "review" / "decisions.sqlite").append(
        "AB", new_action(), [Change("sli-gone", "keep", "0"), Change(A, "keep", "0")]
    )
    server = Served(folder)
    try:
        answer = server.json("/api/undo", {"reader": "AB", "action": new_action()})
        assert answer["studies"] == ["stu-0000"] and len(answer["saved"]) == 2
    finally:
        server.kill()
