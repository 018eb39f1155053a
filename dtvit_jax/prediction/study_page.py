"""A study's report.html: one file that works offline, the slices that matter first."""

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_builder.records import LOCATIONS
from dtvit_jax.decision.answer import StudyAnswer
from dtvit_jax.prediction.tables import worst_first
from dtvit_jax.reports.limitations import RESEARCH
from dtvit_jax.reports.pages import environment

SLICES_SHOWN = 6
PICTURE_PIXELS = 512
MODEL_OF_PHANTOMS = (
    "The model was trained on made-up phantoms. What it says of a real head says nothing about "
    "that head: it shows that the program runs from end to end, and no more."
)
NOT_AS_TRAINED = (
    "The model was trained on slices that were cleaned before this program saw them; these were "
    "cleaned by its reproduction of the published steps."
)
HEADLINES = {
    "ich": "Hemorrhage",
    "no ich": "No hemorrhage found",
    "uncertain": "Uncertain",
    None: "No answer",
}
_CHART = (720.0, 120.0)


def study_page(
    told: Mapping[str, Any],
    answer: StudyAnswer | None,
    files: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Path],
    overlays: Mapping[str, np.ndarray] | None = None,
) -> str:
    """The page. told: results.json. pictures: slice key -> its cleaned image. overlays: slice key
    -> RGB picture with its heat map. The same input gives the same bytes.
    """
    maps = {key: _array(pixels) for key, pixels in (overlays or {}).items()}
    worst = worst_first(answer) if answer else []
    seen = [each for each in worst[: len(maps) or SLICES_SHOWN] if each.key in pictures]
    with ThreadPoolExecutor() as threads:  # a dense PNG takes 35 ms, outside Python's lock
        uris = list(threads.map(_file, [pictures[each.key] for each in seen]))
    shown = [(each, uri, maps.get(each.key, "")) for each, uri in zip(seen, uris, strict=True)]
    counts = {use: sum(row["use"] == use for row in files) for use in ("used", "refused")}
    template = environment().get_template("study.html")
    return template.render(
        told=told,
        answer=answer,
        headline=HEADLINES[answer.decision if answer else None],
        words=WORDS,
        research=RESEARCH,
        phantom=MODEL_OF_PHANTOMS if told["trained_on_phantoms"] else "",
        cleaned_else="" if told["cleaning"]["stated"] else NOT_AS_TRAINED,
        locations=LOCATIONS,
        shown=shown,
        worst=worst,
        chart=_chart(answer) if answer else None,
        files=files,
        counts=counts,
        outliers=sum(each.outlier > 1 for each in worst),
    )


WORDS = {"ich": "hemorrhage", "no ich": "none found", "uncertain": "uncertain"}
"""A slice's decision for a reader."""


def _chart(answer: StudyAnswer) -> dict[str, Any]:
    """A bar for each slice in order of position: left, width, top and height in pixels."""
    width, height = _CHART
    step = width / len(answer.slices)
    bars = [
        {
            "x": round(i * step + 0.1 * step, 2),
            "width": round(max(0.8 * step, 0.5), 2),
            "y": round(height * (1 - each.p_hemorrhage), 2),
            "height": round(height * each.p_hemorrhage, 2),
            "slice": each,
        }
        for i, each in enumerate(answer.slices)
    ]
    return {"bars": bars, "width": width, "height": height}


def _file(path: Path) -> str:
    with Image.open(path) as image:
        return _uri(image.convert("L"))


def _array(pixels: np.ndarray) -> str:
    return _uri(Image.fromarray(pixels))


def _uri(image: Image.Image) -> str:
    """The picture as a data URI, at most PICTURE_PIXELS a side."""
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
