"""Limitations of an evaluation: sentences that follow from its data set and its sample."""

from collections.abc import Mapping
from typing import Any

from dtvit_jax.evaluation.schema import Metrics

RESEARCH = (
    "For research only. This is not a medical device, and it has not been tested for use on "
    "patients."
)
PHANTOM = (
    "The images are synthetic phantoms. Results on phantoms say nothing about patients: they show "
    "that the program runs from end to end, and no more."
)

TRAINED_ON_PHANTOMS = (
    "The model was trained on synthetic phantoms. It has no answer for a real head: it shows that "
    "the program runs from end to end, and no more."
)


def caveats(metrics: Metrics, dataset: Mapping[str, Any]) -> list[str]:
    """Sentences for a reader, the most serious first. dataset: of run.json; may be {}."""
    sentences = [RESEARCH]
    if dataset.get("phantom"):
        sentences.append(PHANTOM)
    sentences += _leak(dataset)
    sentences += _subjects(dataset)
    sentences += metrics["warnings"]
    if dataset.get("source_kind") == "published":
        sentences.append(
            "The label of a slice is that of its subject: some slices labelled ICH show no "
            "bleeding, and a false negative on one of them need not be an error."
        )
    sentences += _confounds(metrics, dataset)
    sentences.append(
        "An interval describes how the value would vary with other subjects of the same kind. It "
        "does not describe how it would vary with another training run, scanner or hospital."
    )
    by_class = metrics["n"]["slices_by_class"]
    ich = sum(count for name, count in by_class.items() if name not in ("normal", "unknown"))
    known = ich + by_class["normal"]
    if known:
        sentences.append(
            f"Accuracy, precision and calibration hold for this mix of slices ({ich / known:.0%} "
            "ICH) and change with the mix; sensitivity, specificity and AUROC change less."
        )
    return sentences


def _confounds(metrics: Metrics, dataset: Mapping[str, Any]) -> list[str]:
    """Confounds of the subgroups, then those of the data set that the subgroups do not cover."""
    measured = {
        name: group["confound"]
        for name, group in metrics.get("subgroups", {}).items()
        if group["confound"]
    }
    others = [
        text
        for text in dataset.get("confounds", [])
        if not any(f"'{name}'" in text for name in measured)
    ]
    return [f"A confound: {text}" for text in (*measured.values(), *others)]


def _subjects(dataset: Mapping[str, Any]) -> list[str]:
    """What the subjects rest on; nothing for a data set of an earlier version."""
    subjects = dataset.get("subjects") or {}
    sentences = []
    if subjects.get("doubts"):
        sentences.append(
            f"The subjects are in doubt: {'; '.join(subjects['doubts'])}. Results by "
            "subject and their intervals need not be results by person."
        )
    if subjects.get("unknown"):
        sentences.append(
            f"Subjects were read from {subjects['read_from']}. It is not known "
            f"{'; nor '.join(subjects['unknown'])}."
        )
    return sentences


def _leak(dataset: Mapping[str, Any]) -> list[str]:
    leak = dataset.get("leak") or {}
    total, shared = leak.get("test_slices", 0), leak.get("with_sibling_in_training", 0)
    if shared:
        return [
            f"Training and test share subjects: {shared} of {total} test slices "
            f"({shared / total:.0%}) have a sibling of the same subject in training. The metrics "
            "measure how well known subjects are recognised, not how a new subject would be "
            "classified; the intervals do not correct for that. A split by subject estimates it."
        ]
    if dataset.get("split") == "slice":
        return [
            "The split is by slice: slices of one subject may be in both training and test, so the "
            "metrics can be better than they would be on new subjects."
        ]
    return []
