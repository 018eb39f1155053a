"""Makes a study's report.html: one file that works offline, the most suspicious slices first."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_builder.records import LOCATIONS
from dtvit_jax.decision.answer import SliceAnswer, StudyAnswer
from dtvit_jax.prediction.records import FileRow, StudyResults
from dtvit_jax.prediction.tables import worst_first
from dtvit_jax.reports.limitations import RESEARCH, TRAINED_ON_PHANTOMS
from dtvit_jax.reports.pages import environment

SLICES_SHOWN = 6
PICTURE_PIXELS = 512
NOT_AS_TRAINED = (
    "The model was trained on slices that were cleaned before this program read them; these were "
    "cleaned by its reproduction of the published steps."
)
HEADLINES = {
    "ich": "Hemorrhage",
    "no ich": "No hemorrhage found",
    "uncertain": "Uncertain",
    None: "No answer",
}
DECISIONS = {"ich": "hemorrhage", "no ich": "none found", "uncertain": "uncertain"}
"""A slice's decision for a reader."""

_CHART_PIXELS = (720.0, 120.0)


def study_page(
    results: StudyResults,
    files: Sequence[FileRow],
    pictures: Mapping[str, Path],
    overlays: Mapping[str, UInt8[np.ndarray, "rows columns 3"]],
) -> str:
    """Renders the page; the same input gives the same bytes.

    Args:
      results: the study's results.
      files: its rows of files.csv.
      pictures: slice key -> its cleaned image.
      overlays: slice key -> RGB picture with its heat map; empty: no maps are shown.
    """
    answer = results.study
    maps = {key: _data_uri(Image.fromarray(pixels)) for key, pixels in overlays.items()}
    worst = worst_first(answer) if answer else []
    shown = [each for each in worst[: len(maps) or SLICES_SHOWN] if each.key in pictures]
    with ThreadPoolExecutor() as threads:  # a dense PNG takes 35 ms, outside Python's lock
        uris = list(threads.map(_file_uri, [pictures[each.key] for each in shown]))
    template = environment().get_template("study.html")
    return template.render(
        results=results,
        answer=answer,
        headline=HEADLINES[answer.decision if answer else None],
        decisions=DECISIONS,
        research=RESEARCH,
        phantom=TRAINED_ON_PHANTOMS if results.trained_on_phantoms else "",
        not_as_trained="" if results.cleaning.stated else NOT_AS_TRAINED,
        locations=LOCATIONS,
        shown=[(each, uri, maps.get(each.key, "")) for each, uri in zip(shown, uris, strict=True)],
        worst=worst,
        chart=_chart(answer) if answer else None,
        files=files,
        counts={use: sum(row.use == use for row in files) for use in ("used", "refused")},
        outliers=sum(each.outlier > 1 for each in worst),
        counted=sum(each.outlier <= 1 for each in worst),
    )


@dataclasses.dataclass(frozen=True)
class _Bar:
    """A slice's bar in the chart; pixels from the upper left corner."""

    x: float
    y: float
    width: float
    height: float
    slice: SliceAnswer


@dataclasses.dataclass(frozen=True)
class _Chart:
    """A bar for each slice in order of position; pixels."""

    bars: list[_Bar]
    width: float
    height: float


def _chart(answer: StudyAnswer) -> _Chart:
    width, height = _CHART_PIXELS
    step = width / len(answer.slices)
    bars = [
        _Bar(
            x=round(i * step + 0.1 * step, 2),
            y=round(height * (1 - each.p_hemorrhage), 2),
            width=round(max(0.8 * step, 0.5), 2),
            height=round(height * each.p_hemorrhage, 2),
            slice=each,
        )
        for i, each in enumerate(answer.slices)
    ]
    return _Chart(bars, width, height)


def _file_uri(path: Path) -> str:
    with Image.open(path) as image:
        return _data_uri(image.convert("L"))


def _data_uri(image: Image.Image) -> str:
    """Encodes a picture as a data URI of at most PICTURE_PIXELS a side."""
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
