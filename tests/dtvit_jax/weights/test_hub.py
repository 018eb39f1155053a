"""Fetching weights by name, against a server on loopback that misbehaves on purpose."""

import hashlib
import http.server
import sys
import threading
import time

import numpy as np
import pytest

from data_builder.errors import InputError
from dtvit_jax.weights import hub
from dtvit_jax.weights.hub import Published

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; breaks off each of the next `drops` replies half-way through its rest.

    With `silent` set it sends nothing more from there and keeps the connection open.
    """

    content, etag, drops, ranges, requests, status = CONTENT, '"one"', 0, True, None, 200
    silent = None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        if server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.content):
            self.send_error(416)
            return
        rest = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if server.drops:
            server.drops -= 1
            self.wfile.write(rest[: len(rest) // 2])
            if server.silent:
                self.wfile.flush()
                server.silent.wait(20)
            self.close_connection = True
        else:
            self.wfile.write(rest)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)
    server = Server(("127.0.0.1", 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def at(server, sha256=SHA256[:8]):
    return Published(f"http://127.0.0.1:{server.server_port}/w.pth", "w.pth", sha256)


def test_fetches_once_and_records_the_hash(server, tmp_path):
    target = tmp_path / "cache" / "w.pth"
    hub.fetch(at(server), target)
    assert target.read_bytes() == CONTENT
    assert (tmp_path / "cache" / "w.pth.sha256").read_text() == f"{SHA256}  w.pth  (verified)\n"
    hub.fetch(at(server), target)
    assert server.requests == [None]


def test_no_published_hash_is_called_unverified(server, tmp_path, capsys):
    hub.fetch(at(server, None), tmp_path / "w.pth")
    text = (tmp_path / "w.pth.sha256").read_text()
    assert text.startswith(SHA256)
    assert "unverified" in text and "unverified" in capsys.readouterr().err


def test_dropped_connections_are_resumed_where_they_broke(server, tmp_path):
    server.drops = 3
    hub.fetch(at(server), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1500000-", "bytes=2250000-", "bytes=2625000-"]


def test_a_silent_server_is_given_up_and_asked_for_the_rest(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.3)
    server.drops, server.silent = 1, threading.Event()
    started = time.monotonic()
    hub.fetch(at(server), tmp_path / "w.pth")
    assert time.monotonic() - started < 10
    server.silent.set()
    assert (tmp_path / "w.pth").read_bytes() == CONTENT
    assert [r for r in server.requests if r] != []


def test_progress_is_told(server, tmp_path, capsys):
    hub.fetch(at(server), tmp_path / "w.pth")
    assert "fetching w.pth (MiB)" in capsys.readouterr().err


def test_a_server_without_ranges_is_asked_for_the_whole_again(server, tmp_path):
    server.drops, server.ranges = 1, False
    hub.fetch(at(server), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_half_file_is_resumed_by_a_later_call(server, tmp_path):
    server.drops = hub.ATTEMPTS
    with pytest.raises(ConnectionError, match="broke off"):
        hub.fetch(at(server), tmp_path / "w.pth")
    assert not (tmp_path / "w.pth").exists()
    hub.fetch(at(server), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT
    assert server.requests[-1] not in (None, "bytes=0-")


@pytest.mark.parametrize("sha256", [SHA256[:8], None])
def test_a_file_that_changed_since_is_fetched_anew(server, tmp_path, sha256):
    server.drops, server.content, server.etag = hub.ATTEMPTS, CONTENT[::-1], '"old"'
    with pytest.raises(ConnectionError):
        hub.fetch(at(server, sha256), tmp_path / "w.pth")
    server.content, server.etag = CONTENT, '"one"'
    hub.fetch(at(server, sha256), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_whole_part_file_left_behind_does_not_stop_it(server, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    (tmp_path / "w.pth.etag").write_text('"one"')
    hub.fetch(at(server), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_wrong_hash_is_an_error_and_leaves_nothing(server, tmp_path):
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(InputError, match=f"published {SHA256[:8]}"):
        hub.fetch(at(server), tmp_path / "w.pth")
    assert not (tmp_path / "w.pth").exists()
    assert not (tmp_path / "w.pth.part").exists()


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (503, hub.ATTEMPTS)])
def test_locate_says_how_to_mend_it(server, tmp_path, monkeypatch, status, tries):
    server.status = status
    monkeypatch.delenv("DTVIT_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "published", lambda name: at(server))
    with pytest.raises(InputError, match="init_from=scratch") as error:
        hub.locate("torchvision/vit_l_16")
    assert "\n" not in str(error.value)
    assert len(server.requests) == tries


def test_locate_uses_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.delenv("DTVIT_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "published", lambda name: at(server))
    assert hub.locate("any") == hub.locate("any") == tmp_path / "dtvit" / "w.pth"
    assert len(server.requests) == 1


def test_a_folder_of_weights_is_used_and_nothing_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("DTVIT_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"vit_l_16-852ce7e3.pth is not in the folder"):
        hub.locate("torchvision/vit_l_16")
    (tmp_path / "vit_l_16-852ce7e3.pth").write_bytes(b"not the file")
    with pytest.raises(InputError, match="published 852ce7e3"):
        hub.locate("torchvision/vit_l_16")
    (tmp_path / "timm--some.name.safetensors").write_bytes(b"any")
    assert hub.locate("timm/some.name").name == "timm--some.name.safetensors"


def test_names_stand_for_addresses():
    def url(name):
        return hub.published(name).url

    assert (
        url("torchvision/vit_l_16") == "https://download.pytorch.org/models/vit_l_16-852ce7e3.pth"
    )
    assert url("timm/a.b") == "https://huggingface.co/timm/a.b/resolve/main/model.safetensors"
    assert url("hf/a/b") == "https://huggingface.co/a/b/resolve/main/model.safetensors"
    assert url("google/augreg/x.npz") == "https://storage.googleapis.com/vit_models/augreg/x.npz"
    assert hub.published("google/../x.txt") is None
    assert hub.published("runs/model") is None


def test_unknown_names_and_files(tmp_path):
    with pytest.raises(InputError, match="vit_l_16"):
        hub.locate("torchvision/vit_x_16")
    with pytest.raises(InputError, match="no such file"):
        hub.locate(str(tmp_path / "absent.pth"))
    path = tmp_path / "here.pth"
    path.write_bytes(b"x")
    assert hub.locate(str(path)) == path


def test_what_can_be_known_is_checked_without_a_download(tmp_path, monkeypatch):
    monkeypatch.delenv("DTVIT_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    monkeypatch.setattr(hub, "fetch", None)  # not callable
    for name in hub.TORCHVISION:
        if name not in ("densenet121", "vgg16"):
            hub.check(f"torchvision/{name}")
    hub.check("timm/some.name")
    for name in ("torchvision/densenet121", "torchvision/vgg16"):
        for step in (hub.check, hub.locate):
            with pytest.raises(InputError, match=rf"{name}: .* pip install 'dtvit-jax\[torch\]'"):
                step(name)
    with pytest.raises(InputError, match="torchvision has"):
        hub.check("torchvision/vit_x_16")
    with pytest.raises(InputError, match="no such file"):
        hub.check(str(tmp_path / "absent.pth"))
    legacy = tmp_path / "vgg16-397923af.pth"
    legacy.write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match=r"PyTorch before 1\.6"):
        hub.check(str(legacy))
    safetensors = tmp_path / "w.safetensors"
    safetensors.write_bytes((128).to_bytes(8, "little") + b"{")  # begins with the same byte
    hub.check(str(safetensors))
    hub.check(str(tmp_path))  # a run's folder, for all that is known here
    monkeypatch.setenv("DTVIT_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"PyTorch before 1\.6"):
        hub.check("torchvision/vgg16")
    with pytest.raises(InputError, match="is not in the folder"):
        hub.check("torchvision/resnet18")
