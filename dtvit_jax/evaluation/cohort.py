"""Counts of the sample by class, and warnings about its limits."""

import numpy as np

from data_builder.records import LOCATIONS
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation.schema import SampleCounts

FEW_SUBJECTS = 20
"""In a class of fewer subjects, one of them changes a rate by five percentage points or more."""


def counts(predictions: Predictions, subjects: Predictions, tied: list[str]) -> SampleCounts:
    """Counts slices, subjects and studies: the "n" of metrics.json. tied: as `by_subject` says."""
    return {
        "slices": len(predictions),
        "subjects": len(subjects),
        "studies": len(np.unique(predictions.study[predictions.study != ""])),
        "slices_by_class": _by_class(predictions),
        "subjects_by_class": _by_class(subjects),
        "location_ties": tied,
    }


def _by_class(table: Predictions) -> dict[str, int]:
    no_location = (table.hemorrhage == 1) & (table.location == UNKNOWN)
    others = {
        "ICH of unknown location": int(no_location.sum()),
        "unknown": int((table.hemorrhage == UNKNOWN).sum()),
    }
    return {
        "normal": int((table.hemorrhage == 0).sum()),
        **{name: int((table.location == c).sum()) for c, name in enumerate(LOCATIONS)},
        **{name: count for name, count in others.items() if count},
    }


def warnings(predictions: Predictions, n: SampleCounts) -> list[str]:
    """Sentences about the limits of the sample. n: from `counts`."""
    sentences = []
    by_class = n["subjects_by_class"]
    few = {c: by_class[c] for c in ("normal", *LOCATIONS) if 0 < by_class[c] < FEW_SUBJECTS}
    if few:
        text = ", ".join(f"{count} {name}" for name, count in few.items())
        sentences.append(
            f"Few subjects in a class ({text}): rely on the intervals, not on the values."
        )
    if n["location_ties"]:
        sentences.append(
            f"{len(n['location_ties'])} subject(s) have as many slices of one location as of "
            "another; they are left out of the subject-level location metrics."
        )
    splits = sorted({str(split) for split in predictions.split})
    if len(splits) > 1:
        sentences.append(f"The predictions mix {len(splits)} splits ({', '.join(splits)}).")
    if by_class.get("unknown"):
        sentences.append(
            f"{by_class['unknown']} subject(s) have no known truth and count for no metric."
        )
    return sentences
