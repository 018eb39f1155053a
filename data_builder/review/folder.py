"""The folder under review: what `clean` left in it, read once and never changed."""

import json
from pathlib import Path

from data_builder.errors import InputError
from data_builder.shards.sources import manifest_rows


class Folder:
    """Rows of manifest.csv by slice key, and each study's keys in the manifest's order.

    `own` is the folder `review/` inside it, for decisions and thumbnails; `cleaning` is
    cleaning.json, with how slices were made.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError where `path` is no folder that `clean` made."""
        self.path, self.own = path, path / "review"
        if not (path / "manifest.csv").is_file():
            raise InputError(
                f"{path.name!r} holds no manifest.csv: give a folder that clean made "
                "(python -m data_builder clean SRC --out DIR)"
            )
        try:
            self.cleaning: dict = json.loads((path / "cleaning.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path.name}/cleaning.json is missing or damaged: run clean again into a new "
                "folder"
            ) from error
        self.rows: dict[str, dict[str, str]] = {}
        self.studies: dict[str, list[str]] = {}
        self._read()
        self._root = path.resolve()

    def _read(self) -> None:
        for line, row in manifest_rows(self.path):
            if row["key"] in self.rows:
                raise InputError(
                    f"manifest.csv line {line}: its key was there before: run clean again"
                )
            self.rows[row["key"]] = row
            self.studies.setdefault(row["study"], []).append(row["key"])
        if not self.rows:
            raise InputError("manifest.csv holds no slice: run clean again")

    def subject(self, study: str) -> str:
        """The pseudonym of the person that a study is of."""
        return self.rows[self.studies[study][0]]["subject"]

    def dropped(self, key: str) -> bool:
        """Whether the slice was left out before anyone read it: no head, or labels.csv says so."""
        return self.rows[key]["keep"] == "0"

    def image(self, key: str) -> Path | None:
        """Where the slice's image lies; None where that is not inside the folder."""
        path = (self._root / self.rows[key]["image"]).resolve()
        return path if path.is_relative_to(self._root) and path.is_file() else None
