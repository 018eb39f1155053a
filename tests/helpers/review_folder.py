"""A small cleaned folder, and a server of its review page."""

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

A, B = "sli-0000-0000", "sli-0000-0001"
"""Keys of the first two slices of the folder."""


def new_action() -> str:
    """A new identifier for an action."""
    return uuid.uuid4().hex


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_folder(path: Path, studies: int = 3, slices: int = 6, **changes: str) -> Path:
    """Writes a folder as `clean` does, with a disc in each slice; `changes` go into every row."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    rows = []
    for study in range(studies):
        images = path / "images" / f"stu-{study:04d}"
        images.mkdir(parents=True)
        for index in range(slices):
            head = (x - 24) ** 2 + (y - 24) ** 2 < (10 + index) ** 2
            image = (head * rng.integers(90, 130, head.shape)).astype(np.uint8)
            key = f"sli-{study:04d}-{index:04d}"
            cv2.imwrite(str(images / f"{key}.png"), image)
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
        """Kills the process, as `kill -9` does."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        """Sends a request as the page does; `headers` are named with _ for -, '' removes one."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        with contextlib.closing(connection):
            fields = {"host": f"{self.host}:{self.port}"}
            data = None
            if body is not None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                fields |= {"origin": self.url.rstrip("/"), "content-type": "application/json"}
            fields |= {name.replace("_", "-"): value for name, value in headers.items()}
            fields = {name: value for name, value in fields.items() if value}
            connection.request("POST" if body is not None else "GET", path, data, fields)
            response = connection.getresponse()
            return response.status, response.read()

    def json(self, path: str, body: object = None) -> dict:
        """Sends a request that must succeed; returns its answer."""
        status, data = self.ask(path, body)
        assert status == 200, (path, data)
        return json.loads(data)

    def decide(self, reader: str, *changes: tuple[str, str, str], request: str = "decide") -> dict:
        """Sends changes (target, field, value) as one action; `request` may be 'settle'."""
        rows = [dict(zip(("target", "field", "value"), row, strict=True)) for row in changes]
        return self.json(
            f"/api/{request}", {"reader": reader, "action": new_action(), "changes": rows}
        )
