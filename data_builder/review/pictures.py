"""What the page shows of a slice: its image, its HU, and each study's contact sheet, made once."""

import sqlite3
import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_builder.cleaning.clean_folder import walk
from data_builder.dicom.read import CtSlice, read_slices
from data_builder.dicom.refusal import Refusal
from data_builder.errors import InputError
from data_builder.pseudonyms import Pseudonyms
from data_builder.review.folder import Folder
from data_builder.review.suggestions import Features, Looked, features, suggest

THUMBNAIL = 128  # pixels a side
COLUMNS = 16  # thumbnails in a row of a sheet
_VERSION = 1  # raised when features or sheets change


class Sheet(NamedTuple):
    """A study's contact sheet on disk, and a suggested reason to drop ('' for none) by slice."""

    path: Path
    suggestions: dict[str, str]


class Sheets:
    """Contact sheets and features of a folder's studies, kept in `review/cache/`."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._cache = folder, folder.own / "cache"
        self._cache.mkdir(parents=True, exist_ok=True)
        self._locks = [threading.Lock() for _ in range(16)]
        with self._database() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS features (key TEXT PRIMARY KEY, digest TEXT, "
                "version INTEGER, head REAL, brain REAL, copy BLOB) WITHOUT ROWID"
            )

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(self._cache / "features.sqlite", timeout=60)

    def of(self, study: str) -> Sheet:
        """The study's sheet, made now unless it is there; several threads may ask at once."""
        keys = self._folder.studies[study]
        path = self._cache / f"{study}.jpg"
        with self._locks[hash(study) % len(self._locks)]:
            known = self._known(keys)
            if len(known) < len(keys) or not path.is_file():
                known = self._make(keys, path)
        rows = [self._folder.rows[key] for key in keys]
        stack = [Looked(row["digest"], _position(row), known[row["key"]]) for row in rows]
        return Sheet(path, dict(zip(keys, suggest(stack), strict=True)))

    def _known(self, keys: list[str]) -> dict[str, Features]:
        """Features that are stored of these slices as they are now."""
        found = {}
        database = self._database()
        try:
            for key in keys:
                row = database.execute(
                    "SELECT head, brain, copy FROM features WHERE key = ? AND digest = ? AND "
                    "version = ?",
                    (key, self._folder.rows[key]["digest"], _VERSION),
                ).fetchone()
                if row:
                    found[key] = Features(*row)
        finally:
            database.close()
        return found

    def _make(self, keys: list[str], path: Path) -> dict[str, Features]:
        """Reads every image of a study once; writes its sheet, then its features."""
        lines = -(-len(keys) // COLUMNS)
        sheet = np.zeros((lines * THUMBNAIL, COLUMNS * THUMBNAIL), np.uint8)
        found = {}
        for index, key in enumerate(keys):
            gray = _gray(self._folder.image(key))
            found[key] = features(gray)
            top, left = (THUMBNAIL * part for part in divmod(index, COLUMNS))
            sheet[top : top + THUMBNAIL, left : left + THUMBNAIL] = _fitted(gray)
        fine, data = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
        draft = path.with_name(f".{path.name}.{threading.get_ident()}")
        draft.write_bytes(data.tobytes() if fine else b"")
        draft.replace(path)
        database = self._database()
        with database:
            database.executemany(
                "INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (key, self._folder.rows[key]["digest"], _VERSION, *one)
                    for key, one in found.items()
                ],
            )
        database.close()
        return found


def _position(row: dict[str, str]) -> float | None:
    return float(row["position_mm"]) if row["position_mm"] else None


def _gray(path: Path | None) -> np.ndarray:
    """The image's pixels; one black pixel where it is missing or damaged."""
    gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path else None
    return np.zeros((1, 1), np.uint8) if gray is None else gray


def _fitted(gray: np.ndarray) -> np.ndarray:
    """The slice within a square of THUMBNAIL pixels, its shape kept."""
    rows, columns = gray.shape
    scale = THUMBNAIL / max(rows, columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    top, left = (THUMBNAIL - small.shape[0]) // 2, (THUMBNAIL - small.shape[1]) // 2
    square = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


class Scans:
    """The DICOM behind a cleaned folder, found by the pseudonyms of its files' paths."""

    def __init__(self, folder: Folder, source: Path, pseudonyms: Pseudonyms) -> None:
        """Raises InputError where `source` holds none of the files that the manifest names."""
        if not source.is_dir():
            raise InputError(f"--dicom {source.name!r} is not a folder: give the SRC of clean")
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
        # A file of many frames may hold hundreds of megabytes; the browser keeps what it was sent.
        self._slices = lru_cache(maxsize=2)(self._read)

    def _read(self, path: Path) -> list[CtSlice]:
        return read_slices(path)

    def hounsfield(self, key: str) -> np.ndarray | None:
        """The slice's HU as little-endian int16 [rows, columns]; None where it can't be read."""
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
