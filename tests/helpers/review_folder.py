"""A small cleaned folder for the tests of the review, and a server on it."""

import contextlib
import csv
import http.client
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import cv2
import numpy as np

from data_builder.records import MANIFEST_COLUMNS, pixel_digest
from tests.helpers import ROOT


def write_folder(path: Path, studies: int = 3, slices: int = 6, **changes: str) -> Path:
    """What `clean` leaves: a disc a slice, growing; `changes` go into every row."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    rows = []
    for study in range(studies):
        place = path / "images" / f"stu-{study:04d}"
        place.mkdir(parents=True)
        for index in range(slices):
            head = (x - 24) ** 2 + (y - 24) ** 2 < (10 + index) ** 2
            image = (head * rng.integers(90, 130, head.shape)).astype(np.uint8)
            key = f"sli-{study:04d}-{index:04d}"
            cv2.imwrite(str(place / f"{key}.png"), image)
            row = dict.fromkeys(MANIFEST_COLUMNS, "") | {
                "key": key,
                "file": f"fil-{study:04d}-{index:04d}",
                "subject": f"sub-{study:04d}",
                "study": f"stu-{study:04d}",
                "series": f"ser-{study:04d}",
                "position_mm": f"{5 * index}.000",
                "image": f"images/stu-{study:04d}/{key}.png",
                "keep": "1",
                "mode": "robust",
                "digest": pixel_digest(image),
            }
            rows.append(row | changes)
    with (path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, MANIFEST_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    settings = {"mode": "robust", "window_hu": [0, 80], "phantom": True}
    (path / "cleaning.json").write_text(json.dumps(settings))
    return path


class Served:
    """The command `review` in a process of its own."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        root = str(ROOT)
        command = [sys.executable, "-m", "data_builder", "review", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=root,
            env=os.environ | {"PYTHONPATH": root},
        )
        line = self.process.stdout.readline()
        assert line.startswith("review page: "), line
        self.url = line.split()[-1]
        self.host, port_text = self.url.split("/")[2].rsplit(":", 1)
        self.port = int(port_text)

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        """One request as a browser of this page sends it; headers with _ for -, '' for none."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        with contextlib.closing(connection):
            sent = {"host": f"{self.host}:{self.port}"}
            data = None
            if body is not None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                sent |= {"origin": self.url.rstrip("/"), "content-type": "application/json"}
            sent |= {name.replace("_", "-"): value for name, value in headers.items()}
            sent = {name: value for name, value in sent.items() if value}
            connection.request("POST" if body is not None else "GET", path, data, sent)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def json(self, path: str, body: object = None) -> dict:
        """The answer to a request that must be taken."""
        status, data = self.ask(path, body)
        assert status == 200, (path, data)
        return json.loads(data)

    def say(self, reader: str, *changes: tuple[str, str, str], way: str = "decide") -> dict:
        """Decides (or settles) several changes as one action."""
        told = [dict(zip(("target", "field", "value"), each, strict=True)) for each in changes]
        return self.json(
            f"/api/{way}", {"reader": reader, "action": uuid.uuid4().hex, "changes": told}
        )
