"""Makes the pictures of the page: contact sheets of studies, and slices in HU from their scans."""

import contextlib
import hashlib
import sqlite3
import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_builder.dicom.read import CtSlice, read_slices
from data_builder.dicom.refusal import Refusal
from data_builder.errors import InputError
from data_builder.files import is_folder, walk, write_whole
from data_builder.pseudonyms import Pseudonyms
from data_builder.review.folder import Folder
from data_builder.review.suggestions import Features, StackSlice, features, suggest

THUMBNAIL = 128  # pixels a side
COLUMNS = 16  # thumbnails in a row of a sheet
_VERSION = 1  # of features and sheets; a new number makes them again


class Sheet(NamedTuple):
    """A study's contact sheet on disk; slice key -> suggested reason to drop ('' for none)."""

    path: Path
    suggestions: dict[str, str]


class Sheets:
    """Contact sheets and features of a folder's studies, kept in `review/cache/`."""

    def __init__(self, folder: Folder) -> None:
        """Makes the cache folder. Raises OSError where it can't be written."""
        self._folder, self._cache = folder, folder.own / "cache"
        self._cache.mkdir(parents=True, exist_ok=True)
        self._locks = [threading.Lock() for _ in range(16)]
        with contextlib.closing(self._database()) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS features (key TEXT PRIMARY KEY, digest TEXT, "
                "version INTEGER, head REAL, brain REAL, copy BLOB) WITHOUT ROWID"
            )

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(self._cache / "features.sqlite", timeout=60)

    def of(self, study: str) -> Sheet:
        """Returns the study's sheet, made now unless it exists; safe for many threads.

        Its name follows from its slices, in their order, and their pixels.
        """
        keys = self._folder.studies[study]
        shown = repr([(key, self._folder.rows[key]["digest"]) for key in keys])
        path = self._cache / f"{study}-{hashlib.sha256(shown.encode()).hexdigest()[:16]}.jpg"
        with self._locks[hash(study) % len(self._locks)]:
            stored = self._stored(keys)
            if len(stored) < len(keys) or not path.is_file():
                for earlier in self._cache.glob(f"{study}[-.]*jpg"):
                    earlier.unlink()
                stored = self._make(keys, path)
        rows = [self._folder.rows[key] for key in keys]
        stack = [StackSlice(row["digest"], _position(row), stored[row["key"]]) for row in rows]
        return Sheet(path, dict(zip(keys, suggest(stack), strict=True)))

    def _stored(self, keys: list[str]) -> dict[str, Features]:
        """Stored features of those slices whose pixels have not changed since."""
        stored = {}
        with contextlib.closing(self._database()) as database:
            for key in keys:
                row = database.execute(
                    "SELECT head, brain, copy FROM features WHERE key = ? AND digest = ? AND "
                    "version = ?",
                    (key, self._folder.rows[key]["digest"], _VERSION),
                ).fetchone()
                if row:
                    stored[key] = Features(*row)
        return stored

    def _make(self, keys: list[str], path: Path) -> dict[str, Features]:
        """Reads every image of a study once; writes the sheet, then the features."""
        lines = -(-len(keys) // COLUMNS)
        sheet = np.zeros((lines * THUMBNAIL, COLUMNS * THUMBNAIL), np.uint8)
        measured = {}
        for index, key in enumerate(keys):
            gray = _gray(self._folder.image(key))
            measured[key] = features(gray)
            top, left = (THUMBNAIL * cell for cell in divmod(index, COLUMNS))
            sheet[top : top + THUMBNAIL, left : left + THUMBNAIL] = _fitted(gray)
        _, data = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
        write_whole(path, data.tobytes())
        with contextlib.closing(self._database()) as database, database:
            database.executemany(
                "INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (key, self._folder.rows[key]["digest"], _VERSION, *one)
                    for key, one in measured.items()
                ],
            )
        return measured


def _position(row: dict[str, str]) -> float | None:
    return float(row["position_mm"]) if row["position_mm"] else None


def _gray(path: Path | None) -> np.ndarray:
    """Reads an image in gray; one black pixel where it is missing or damaged."""
    gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path else None
    return np.zeros((1, 1), np.uint8) if gray is None else gray


def _fitted(gray: np.ndarray) -> np.ndarray:
    """Fits a slice into a square of THUMBNAIL pixels, keeping its proportions."""
    rows, columns = gray.shape
    scale = THUMBNAIL / max(rows, columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    top, left = (THUMBNAIL - small.shape[0]) // 2, (THUMBNAIL - small.shape[1]) // 2
    square = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


class Scans:
    """The DICOM files of a cleaned folder, identified by the pseudonyms of their paths."""

    def __init__(self, folder: Folder, source: Path, pseudonyms: Pseudonyms) -> None:
        """Lists the files. Raises InputError where `source` has none that the manifest names."""
        if not is_folder(source):
            raise InputError("--dicom is not a folder: give the SRC of clean")
        self._folder, self._source = folder, source
        wanted = {row["file"] for row in folder.rows.values()}
        names = ((pseudonyms.file(str(path)), path) for path in walk(source))
        self.paths = {name: path for name, path in names if name in wanted}
        self.missing = len(wanted) - len(self.paths)
        if not self.paths:
            raise InputError(
                "--dicom holds no file that the manifest names: give the SRC and the --key that "
                "clean was given"
            )
        self._reading = threading.Lock()  # pydicom's warnings are caught process-wide
        # Few, as a file of many frames may take hundreds of megabytes; the browser keeps slices.
        self._slices = lru_cache(maxsize=2)(self._read)

    def _read(self, path: Path) -> list[CtSlice]:
        return read_slices(path)

    def hounsfield(self, key: str) -> np.ndarray | None:
        """Reads a slice in HU, little-endian int16 [rows, columns]; None where it is unreadable."""
        row = self._folder.rows[key]
        path = self.paths.get(row["file"])
        if path is None:
            return None
        try:
            with self._reading:
                slices = self._slices(self._source / path)
        except Refusal:
            return None
        frame = int(row["frame"] or 0)
        for image in slices:
            if image.header.frame == frame:
                hu = np.nan_to_num(image.hu, nan=-1000.0)
                return np.clip(np.rint(hu), -32768, 32767).astype("<i2")
        return None
