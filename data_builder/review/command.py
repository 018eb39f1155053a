"""Runs the command `review`: imports labels, exports, or serves the page until Ctrl-C."""

import secrets
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import uvicorn

from data_builder.cleaning.unmatched import NAME as UNMATCHED
from data_builder.cleaning.unmatched import unmatched_table
from data_builder.errors import InputError
from data_builder.files import size_of, write_whole
from data_builder.progress import track
from data_builder.pseudonyms import Pseudonyms, check_key_place, load_key
from data_builder.review.api import ReviewApi
from data_builder.review.export import export
from data_builder.review.folder import Folder
from data_builder.review.labels_in import label_changes
from data_builder.review.pictures import Scans, Sheets
from data_builder.review.predictions import read_predictions
from data_builder.review.server import LOOPBACK, Server
from data_builder.review.store import Store, reader_name

DATABASE = "decisions.sqlite"
_IDLE_SECONDS = 0.5  # after the last request; then thumbnails are made, while nobody waits


def open_review(
    path: Path, dicom: Path | None, predictions: Path | None, key: str | None
) -> ReviewApi:
    """Opens a folder with its store, scans and predictions. Raises InputError."""
    check_key_place(key, {"DIR": path, "--dicom": dicom})
    folder = Folder(path)
    scans = Scans(folder, dicom, Pseudonyms(load_key(key))) if dicom else None
    if scans and scans.missing:
        print(
            f"warning: --dicom lacks {scans.missing} of the files that were cleaned; their "
            "slices are shown as cleaned",
            file=sys.stderr,
        )
    probabilities = read_predictions(predictions, folder) if predictions else None
    store = Store(folder.own / DATABASE)
    return ReviewApi(folder, store, Sheets(folder), scans, probabilities)


class Imported(NamedTuple):
    """The outcome of `take_labels`: a line to print, and how many rows match no slice."""

    summary: str
    unmatched: int


def take_labels(review: ReviewApi, path: Path, reader: str, key: str | None) -> Imported:
    """Stores a labels.csv as one action of `reader`.

    Writes `DIR/review/unmatched_labels.csv`. Raises InputError, also where no row matches a slice.
    """
    if size_of(path) < 0:
        raise InputError("--labels names no file: give a labels.csv")
    paths = review.scans.paths if review.scans else {}
    changes, unmatched = label_changes(path, review.folder, Pseudonyms(load_key(key)), paths)
    write_whole(review.folder.own / UNMATCHED, unmatched_table(unmatched))
    if not changes:
        raise InputError(
            "the labels are of no slice of this folder: give the --key that clean was given, and "
            f"--dicom where studies are named by folder; review/{UNMATCHED} has each row with its "
            "likely cause"
        )
    saved = review.store.append(reader_name(reader), uuid.uuid4().hex, changes)
    summary = f"{len(saved)} decisions stored, {len(changes) - len(saved)} were stored before"
    if unmatched:
        summary += (
            f"; {len(unmatched)} row(s) match no slice, the first is {unmatched[0].where}: "
            f"review/{UNMATCHED} has each with its likely cause"
        )
    return Imported(summary, len(unmatched))


def write_export(review: ReviewApi, out: Path) -> str:
    """Exports the review into the folder `out`; returns a summary. Raises InputError."""
    counts = export(review.folder, review.store, out)
    classes = ", ".join(f"{count} {name}" for name, count in counts["classes"].items())
    summary = f"{counts['labelled']} of {counts['slices']} slices labelled ({classes})"
    summary += f", {counts['dropped']} dropped"
    for count, meaning in (
        (counts["open"], "without a label, as readers disagree or one is unsure"),
        (counts["without_place"], "without a label, as the location of the ICH is missing"),
        (counts["unread"], "unread and unchanged"),
    ):
        summary += f"; {count} {meaning}" if count else ""
    return summary


def serve(review: ReviewApi, host: str, port: int) -> None:
    """Serves the page until Ctrl-C; where `host` is not loopback its URL has a token.

    Raises InputError where the address is taken or not of this machine.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise InputError(
            f"{host} port {port} can't be listened on ({error.strerror}): give another --port"
        ) from error
    local = host in LOOPBACK
    token = "" if local else secrets.token_urlsafe(24)
    names = LOOPBACK if local else (host, socket.gethostname(), socket.getfqdn())
    server = Server(review, names, token)
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    address = f"http://{shown}:{listening.getsockname()[1]}/"
    print(f"review page: {address}{f'?token={token}' if token else ''}", flush=True)
    if not local:
        print("warning: the connection over the network is not encrypted", file=sys.stderr)
    config = uvicorn.Config(
        server.app, log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    stop = threading.Event()
    # Not a daemon thread: Python would abort where it exits while such a thread is in OpenCV.
    preparing = threading.Thread(target=_prepare, args=(review, server, stop))
    try:
        preparing.start()
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        stop.set()


def _prepare(review: ReviewApi, server: Server, stop: threading.Event) -> None:
    """Counts readers' progress, then makes all thumbnails while the page is idle."""
    review.warm()
    studies = list(review.folder.studies)
    for study in track(studies, len(studies), "thumbnails"):
        while time.monotonic() - server.last_request < _IDLE_SECONDS and not stop.is_set():
            stop.wait(_IDLE_SECONDS / 5)
        if stop.is_set():
            return
        try:
            review.sheets.of(study)
        except OSError as error:
            print(f"warning: thumbnails can't be stored ({error.strerror})", file=sys.stderr)
            return
