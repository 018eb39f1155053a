"""Reads the layout published with the paper: pictures in no/ and yes/, named by subject."""

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from data_builder.errors import InputError
from data_builder.files import size_of, walk
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import LOCATIONS, Record

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_YEAR = re.compile(r"^\d+-(\d{4})[_\s-]")
_ADMISSION = re.compile(r"[-,\uff0c\s](\d{3,})\s*$")


def images_of(folder: Path, pseudonyms: Pseudonyms) -> tuple[list[PurePosixPath], int]:
    """The images in a folder of the published layout, and how many companions they have.

    Raises InputError where a file or folder can't be reached: its slices would be missing.
    """
    images, companions = [], 0
    for inner in walk(folder):
        path = folder / inner
        if _is_companion(path):
            companions += 1
        elif size_of(path) < 0:
            raise InputError(
                f"a file or folder in the source SRC ({pseudonyms.file(str(inner))}) can't be "
                "read, or is a link to a folder: mend or remove it"
            )
        elif inner.suffix.lower() in IMAGE_SUFFIXES:
            images.append(inner)
    return images, companions


def _is_companion(path: Path) -> bool:
    """Whether macOS wrote the file: it keeps what other file systems can't hold in ._NAME."""
    if not path.name.startswith("._"):
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) == _APPLE_DOUBLE
    except OSError:
        return False


def published_records(
    folder: Path, images: Iterable[PurePosixPath], pseudonyms: Pseudonyms
) -> Iterator[Record]:
    """Reads the paper's published layout: no/*, yes/Deep/*, yes/Lobar/*, yes/Subtentorial/*."""
    for inner in images:
        path = folder / inner
        parts = [part.lower() for part in inner.parts[:-1]]
        location = parts[1] if len(parts) == 2 and parts[0] == "yes" else ""
        if parts != ["no"] and location not in LOCATIONS:
            raise InputError(
                "an image is outside no/, yes/Deep/, yes/Lobar/ and yes/Subtentorial/ "
                f"(slice {pseudonyms.file(str(inner))}): move it into its class"
            )
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        except OSError as error:
            raise InputError(
                f"slice {pseudonyms.slice(str(inner))} can't be read ({error.strerror}): mend or "
                "remove the file"
            ) from error
        subject = pseudonyms.subject(published_identity(path.stem, bool(location)))
        year = _YEAR.match(path.stem) if location else None
        yield Record(
            key=pseudonyms.slice(str(inner)),
            image=str(path),
            hemorrhage=int(bool(location)),
            location=location,
            subject=subject,
            study=pseudonyms.study(subject),
            position_mm=math.nan,
            digest=digest,
            facts=(("year", year.group(1)),) if year else (),
        )


def published_identity(stem: str, hemorrhage: bool) -> str:
    """The identity of the subject in a published file name (without its suffix).

    ICH: the admission number at the end. Normal, or an ICH name without such a number: all after
    the first '-'. Letters are folded (NFKC, case, spaces), so that spellings of a name are equal.
    """
    if hemorrhage and (number := _ADMISSION.search(stem)):
        return number.group(1)
    return _folded(stem.split("-", 1)[-1])


def published_name_and_number(stem: str) -> tuple[str, str]:
    """The name (letters folded) and admission number in a published ICH file name, '' if absent."""
    number = _ADMISSION.search(stem)
    before = stem[: number.start()] if number else stem
    name = _folded(before.rsplit("-", 1)[-1]).lstrip("0123456789")
    return name, number.group(1) if number else ""


def _folded(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())
