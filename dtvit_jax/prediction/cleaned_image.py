"""Reads image files that are slices cleaned already: 8-bit gray, or a refusal with its reason."""

import csv
import functools
import json
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_builder.cleaning import clean
from data_builder.dicom.header import Reason, Refusal
from data_builder.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
_LARGEST_SIDE = 8192
_CHANNEL_TOLERANCE = 8  # largest difference of a gray JPEG's three channels


def is_image(path: Path) -> bool:
    """Whether a file counts as a slice that is cleaned already, by its name."""
    return path.suffix.lower() in SUFFIXES


def read_gray(path: Path) -> Image.Image:
    """Reads the 8-bit pixels of a cleaned slice. Raises Refusal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(path)
    except Image.DecompressionBombError:
        detail = "its header states more pixels than any slice has"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail) from None
    except (UnidentifiedImageError, SyntaxError, ValueError):
        raise Refusal(Reason.UNREADABLE, "it is no image that can be opened") from None
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, error.strerror or "it can't be read") from None
    with image:
        if max(image.size) > _LARGEST_SIDE:
            detail = f"{image.height} x {image.width} pixels is larger than any slice"
            raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
        if image.mode not in ("L", "1", "P", "RGB", "RGBA", "LA"):
            detail = f"its pixels are {image.mode}: give 8-bit cleaned slices, or the DICOM"
            raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
        try:
            image.load()
        except Exception:  # Pillow's decoders raise many kinds on damaged pixels
            raise Refusal(Reason.TRUNCATED, "its pixels end early or do not decode") from None
        if image.mode not in ("L", "1", "LA"):
            channels = np.asarray(image.convert("RGB")).astype(np.int16)
            if np.ptp(channels, axis=-1).max() > _CHANNEL_TOLERANCE:
                raise Refusal(Reason.COLOUR, "its channels differ: it is no gray slice")
        return image.convert("L")


def is_phantom(path: Path, digest: str) -> bool:
    """Whether a cleaned image is of a synthetic phantom: listed as one, with these pixels.

    digest: `records.pixel_digest` of its pixels, which a JPEG does not keep.
    """
    listed = phantom_digest(path)
    return bool(listed) and (listed == digest or path.suffix.lower() != ".png")


def phantom_digest(path: Path) -> str:
    """The digest that a cleaned image is listed with as a synthetic phantom's; empty for others.

    It is in the manifest.csv of a folder above it, whose cleaning.json says that all its slices are
    phantoms.
    """
    for folder in list(path.parents)[:3]:
        manifest = folder / "manifest.csv"
        if manifest.is_file():
            images = _phantom_images(folder, _stamp(manifest), _stamp(folder / "cleaning.json"))
            return images.get(path.relative_to(folder).as_posix(), "")
    return ""


def _stamp(file: Path) -> tuple[int, ...]:
    """Changes with the file; empty where there is none."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@functools.lru_cache(maxsize=8)
def _phantom_images(folder: Path, *_stamps: tuple[int, ...]) -> dict[str, str]:
    """Image -> digest of a folder that `clean` made of phantoms alone; empty for any other.

    Earlier versions did not count phantoms: the mark of the source is taken instead.
    """
    try:
        cleaning = json.loads((folder / "cleaning.json").read_text())
        if not cleaning["phantom"] or cleaning["slices"] != cleaning.get(
            "phantom_slices", cleaning["slices"]
        ):
            return {}
        with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
            return {row["image"]: row["digest"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}


def check_cleaned(paths: Iterable[Path], mode: clean.Mode, stated: bool) -> None:
    """Checks that cleaned images were cleaned in `mode`, by this program's version.

    Args:
      paths: input files; cleaning.json is read from the folders above the images among them.
      mode: of the model's training slices.
      stated: whether the training data states how it was cleaned; if not, nothing is checked.

    Raises InputError where they were cleaned otherwise.
    """
    if not stated:
        return
    images = [path for path in paths if is_image(path)]
    for folder in sorted({parent for path in images for parent in list(path.parents)[:3]}):
        try:
            settings = json.loads((folder / "cleaning.json").read_text())
            cleaned = settings["mode"], settings["version"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if cleaned != (mode, clean.VERSION):
            raise InputError(
                f"the slices were cleaned in mode {cleaned[0]}, version {cleaned[1]}; the model is "
                f"for mode {mode}, version {clean.VERSION}: clean them again, or give the DICOM"
            )
