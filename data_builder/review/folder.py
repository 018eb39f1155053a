"""Reads the folder under review, which `clean` has made; nothing in it is changed."""

import json
from pathlib import Path
from typing import Any

from data_builder.errors import InputError
from data_builder.files import size_of
from data_builder.shards.sources import manifest_rows

Row = dict[str, str]
"""A row of manifest.csv: column of records.MANIFEST_COLUMNS -> cell."""


class Folder:
    """Rows of manifest.csv by slice key, and the keys of each study in the manifest's order.

    `own` is the folder `review/` inside it, for decisions and thumbnails; `cleaning` is
    cleaning.json, the settings of `clean`; `mode`, `window_hu` (low, high) and `phantom` are of it.
    """

    def __init__(self, path: Path) -> None:
        """Reads the tables. Raises InputError where `path` is not a folder that `clean` made."""
        self.path, self.own = path, path / "review"
        if size_of(path / "manifest.csv") < 0:
            raise InputError(
                "the folder DIR holds no manifest.csv: give a folder that clean made "
                "(python -m data_builder clean SRC --out DIR)"
            )
        try:
            self.cleaning: dict[str, Any] = json.loads((path / "cleaning.json").read_text())
            self.mode: str = self.cleaning["mode"]
            self.window_hu: list[float] = self.cleaning["window_hu"]
            self.phantom: bool = self.cleaning["phantom"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path.name}/cleaning.json is missing or damaged: run clean again into a new "
                "folder"
            ) from error
        self.rows: dict[str, Row] = {}
        self.studies: dict[str, list[str]] = {}
        self._read()
        self._root = path.resolve()

    def _read(self) -> None:
        for line, row in manifest_rows(self.path):
            if row["key"] in self.rows:
                raise InputError(
                    f"manifest.csv line {line}: the key of another line: run clean again"
                )
            self.rows[row["key"]] = row
            self.studies.setdefault(row["study"], []).append(row["key"])
        if not self.rows:
            raise InputError("manifest.csv has no slice: run clean again")

    def subject(self, study: str) -> str:
        """The pseudonym of a study's subject."""
        return self.rows[self.studies[study][0]]["subject"]

    def study_of(self, target: str) -> str:
        """The study of a slice; `target` itself where it is not a slice of this folder."""
        return self.rows[target]["study"] if target in self.rows else target

    def dropped(self, key: str) -> bool:
        """Whether the slice was dropped before the review: no head, or by labels.csv."""
        return self.rows[key]["keep"] == "0"

    def image(self, key: str) -> Path | None:
        """The path of the slice's image; None where it is missing or outside the folder."""
        path = (self._root / self.rows[key]["image"]).resolve()
        return path if path.is_relative_to(self._root) and path.is_file() else None
