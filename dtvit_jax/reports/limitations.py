"""What the numbers do not say: sentences that follow from the data set and the sample."""

from collections.abc import Mapping
from typing import Any

RESEARCH = (
    "For research only. This is not a medical device, and no one has tested it for use on patients."
)
PHANTOM = (
    "The images are made-up phantoms. Phantom results say nothing about patients: they show that "
    "the program runs from end to end, and no more."
)


def caveats(metrics: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[str]:
    """Sentences for a reader, the gravest first. dataset: as in run.json, any part left out."""
    found = [RESEARCH]
    if dataset.get("phantom"):
        found.append(PHANTOM)
    found += _leak(dataset)
    found += metrics.get("warnings", [])
    if dataset.get("source_kind") == "published":
        found.append(
            "The labels are a subject's label put on each slice that was kept: some slices called "
            "ICH show no bleeding, and a miss on one of them need not be an error."
        )
    groups = metrics.get("subgroups", {})
    found += [f"A confound: {g['confound']}" for g in groups.values() if g["confound"]]
    said = tuple(f"'{name}'" for name, g in groups.items() if g["confound"])
    for text in dataset.get("confounds", []):
        if not any(name in text for name in said):
            found.append(f"A confound: {text}")
    found.append(
        "An interval tells how the number would move with other subjects of the same kind. It does "
        "not tell how it would move with another training run, another scanner or another hospital."
    )
    by_class = metrics["n"]["slices_by_class"]
    ich = sum(count for name, count in by_class.items() if name not in ("normal", "unknown"))
    known = ich + by_class["normal"]
    if known:
        found.append(
            f"Accuracy, precision and calibration hold for this mix of slices ({ich / known:.0%} "
            "ICH) and change with another; sensitivity, specificity and AUROC do so less."
        )
    return found


def _leak(dataset: Mapping[str, Any]) -> list[str]:
    leak = dataset.get("leak") or {}
    total, shared = leak.get("test_slices", 0), leak.get("with_sibling_in_training", 0)
    if shared:
        return [
            f"Training and test share subjects: {shared} of {total} test slices "
            f"({shared / total:.0%}) have a sibling of the same subject in training. The numbers "
            "measure how well known subjects are recognised, not how a new one would fare; the "
            "intervals do not mend that. Split by subject for an estimate that does."
        ]
    if dataset.get("split") == "slice":
        return [
            "The split is by slice: slices of one subject may stand on both sides, which makes the "
            "numbers look better than they would be on new subjects."
        ]
    return []
