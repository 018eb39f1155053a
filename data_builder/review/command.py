"""The command: takes labels in, exports, or serves the page until Ctrl-C."""

import secrets
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

import uvicorn

from data_builder.errors import InputError
from data_builder.progress import track
from data_builder.pseudonyms import Pseudonyms, load_key
from data_builder.review.api import Answers
from data_builder.review.export import export
from data_builder.review.folder import Folder
from data_builder.review.labels_in import label_changes
from data_builder.review.pictures import Scans, Sheets
from data_builder.review.predictions import read_predictions
from data_builder.review.server import LOOPBACK, Server
from data_builder.review.store import Store, reader_name

DATABASE = "decisions.sqlite"
_QUIET_SECONDS = 0.5  # thumbnails are made while nobody waits for a slice


def open_review(
    path: Path, dicom: Path | None, predictions: Path | None, key: str | None
) -> Answers:
    """A folder with its store, and what was given beside it. Raises InputError."""
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
    return Answers(folder, store, Sheets(folder), scans, probabilities)


def take_labels(answers: Answers, path: Path, reader: str, key: str | None) -> str:
    """Stores a labels.csv as one action of `reader`; returns what was done, in words."""
    if not path.is_file():
        raise InputError("--labels names no file: give a labels.csv")
    paths = answers.scans.paths if answers.scans else {}
    changes, unmatched = label_changes(path, answers.folder, Pseudonyms(load_key(key)), paths)
    if not changes:
        raise InputError(
            "the labels say nothing of this folder's slices: give --key as to clean, and "
            "--dicom where studies are named by folder"
        )
    saved = answers.store.append(reader_name(reader), uuid.uuid4().hex, changes)
    for where in unmatched[:5]:
        print(f"warning: {where} matches no slice", file=sys.stderr)
    if len(unmatched) > 5:
        print(f"warning: and {len(unmatched) - 5} more lines", file=sys.stderr)
    return f"{len(saved)} decisions taken in, {len(changes) - len(saved)} stood already"


def write_export(answers: Answers, out: Path) -> str:
    """Exports; returns what was done, in words."""
    counts = export(answers.folder, answers.store, out)
    classes = ", ".join(f"{count} {name}" for name, count in counts["classes"].items())
    text = f"{counts['labelled']} of {counts['slices']} slices labelled ({classes})"
    text += f", {counts['dropped']} dropped"
    for name, words in (
        ("open", "in disagreement or unsure, left out"),
        ("without_place", "ICH without a place, left out"),
        ("unread", "read by nobody, as they were"),
    ):
        text += f"; {counts[name]} {words}" if counts[name] else ""
    return text


def serve(answers: Answers, host: str, port: int) -> None:
    """Serves until Ctrl-C; a host that is not loopback gets a token in its URL."""
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
    server = Server(answers, names, token)
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    address = f"http://{shown}:{listening.getsockname()[1]}/"
    print(f"review page: {address}{f'?token={token}' if token else ''}", flush=True)
    if not local:
        print("warning: what is sent over the network is not encrypted", file=sys.stderr)
    threading.Thread(target=_make_sheets, args=(answers, server), daemon=True).start()
    config = uvicorn.Config(
        server.app, log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[listening])


def _make_sheets(answers: Answers, server: Server) -> None:
    """Readers' progress, then every study's thumbnails, once, while the page is not waiting."""
    answers.warm()
    studies = list(answers.folder.studies)
    for study in track(studies, len(studies), "thumbnails"):
        while time.monotonic() - server.asked < _QUIET_SECONDS:
            time.sleep(_QUIET_SECONDS / 5)
        try:
            answers.sheets.of(study)
        except OSError as error:
            print(f"warning: thumbnails can't be kept ({error.strerror})", file=sys.stderr)
            return
