"""A reporting checklist after CLAIM 2024, answered from the run; 'not stated' otherwise.

The items follow the sections of the Checklist for Artificial Intelligence in Medical Imaging
(Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300) in shorter words. It is an
aid for writing, not a certificate.
"""

from collections.abc import Mapping
from typing import Any

from dtvit_jax.evaluation.schema import Metrics

NOT_STATED = "not stated"
Item = tuple[str, str, str]
"""Section, item and answer."""


def checklist(metrics: Metrics, record: Mapping[str, Any]) -> list[Item]:
    """Answers the items in order. record: run.json with "dataset" and "config"; may be {}."""
    dataset = record.get("dataset") or {}
    return [
        (section, item, answer or NOT_STATED)
        for section, items in (
            ("Study", _study(record)),
            ("Data", _data(metrics, dataset, record.get("config") or {})),
            ("Ground truth", _truth(dataset)),
            ("Partitions", _partitions(dataset)),
            ("Model and training", _training(record)),
            ("Evaluation", _evaluation(metrics, dataset)),
            ("Results", _results(metrics, dataset)),
            ("Other", _other(record)),
        )
        for item, answer in items
    ]


def _study(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    model = record.get("model")
    kind = f"Dual-task classifier ({model}) of head CT slices" if model else ""
    return [
        ("Identified as a study of AI, with the kind of model", kind),
        ("Aim and clinical role", ""),
        ("Prospective or retrospective", ""),
        ("Ethics approval and consent", ""),
    ]


def _data(
    metrics: Metrics, dataset: Mapping[str, Any], config: Mapping[str, Any]
) -> list[tuple[str, str]]:
    cleaning = dataset.get("cleaning")
    size = dataset.get("size")
    steps = [f"cleaning: {cleaning}" if cleaning else "", f"resized to {size} px" if size else ""]
    crop = (config.get("model") or {}).get("image_size")
    centred = config.get("crop", "centre") == "centre"
    region = f"centre crop of {crop} px" if centred else f"bounding box of the head at {crop} px"
    steps += [f"{region}, normalised" if crop else ""]
    n = metrics["n"]
    unknown = n["slices_by_class"].get("unknown", 0)
    return [
        ("Source of the data", dataset.get("name", "")),
        ("Inclusion and exclusion criteria", ""),
        ("Preparation of the images", "; ".join(step for step in steps if step)),
        ("Selection of a subset of the images", ""),
        ("De-identification", "keyed pseudonyms" if dataset.get("digest") else ""),
        ("Missing data", f"{unknown} of {n['slices']} evaluated slices have no known truth"),
        ("Scanner and protocol", _known_groups(metrics, ("scanner", "thickness_mm"))),
        ("Sex, age and other traits of the subjects", _known_groups(metrics, ("sex",))),
    ]


def _known_groups(metrics: Metrics, names: tuple[str, ...]) -> str:
    subgroups = metrics.get("subgroups") or {}
    facts = [
        f"{name}: "
        + ", ".join(f"{g['value']} ({g['n']['subjects']})" for g in subgroups[name]["groups"])
        for name in names
        if name in subgroups
    ]
    return "; ".join(facts) + (" (evaluated subjects)" if facts else "")


def _truth(dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    published = dataset.get("source_kind") == "published"
    geometry = "the geometry of the phantom" if dataset.get("phantom") else ""
    standard = "the subject's label on each of its slices" if published else geometry
    return [
        ("Definition of the reference standard", standard),
        ("Annotators and their qualification", ""),
        ("Agreement between readers", ""),
    ]


def _partitions(dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = dataset.get("counts") or {}
    sizes = ", ".join(
        f"{side} {sum(c['slices'].values())} slices of {sum(c['subjects'].values())} subjects"
        for side, c in counts.items()
    )
    leak = dataset.get("leak") or {}
    split = dataset.get("split")
    disjoint = ""
    if leak.get("with_sibling_in_training"):
        disjoint = (
            f"no: {leak['with_sibling_in_training']} of {leak['test_slices']} test slices have a "
            "sibling of the same subject in training"
        )
    elif split:
        disjoint = f"by {split}" + (", disjoint in subjects" if split == "subject" else "")
    return [
        ("Assignment to partitions", f"{sizes}; seed {dataset.get('seed')}" if sizes else ""),
        ("Level at which partitions are disjoint", disjoint),
        ("Sample size and how it was determined", ""),
    ]


def _training(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    config, versions = record.get("config") or {}, record.get("versions") or {}
    parameters = record.get("parameters")
    augment = {k: v for k, v in (config.get("augment") or {}).items() if v}
    hyperparameters = [
        f"{name} {config[name]:g}"
        for name in ("learning_rate", "weight_decay", "batch_size", "num_epochs")
        if config.get(name)
    ]
    start, best = config.get("init_from"), config.get("best")
    device, seconds = record.get("device"), record.get("train_seconds")
    time = f", {seconds:.0f} s of training" if seconds is not None else ""
    return [
        ("Model", f"{record['model']}, {parameters:,} parameters" if parameters else ""),
        ("Software", ", ".join(f"{n} {v}" for n, v in versions.items())),
        ("Initial weights", {"scratch": "random"}.get(str(start), str(start)) if start else ""),
        ("Augmentation", ", ".join(f"{k} {v:g}" for k, v in augment.items())),
        ("Hyperparameters", ", ".join(hyperparameters)),
        (
            "Selection of the final model",
            f"checkpoint of the best validation {best}" if best else "",
        ),
        ("Hardware and time", f"{device}{time}" if device else ""),
    ]


def _evaluation(metrics: Metrics, dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    interval, rule = metrics["interval"], metrics.get("decision_rule")
    fitted = f"on {rule['fitted_on']['subjects']} validation subjects" if rule else ""
    groups = ", ".join(metrics.get("subgroups") or {})
    thresholds = f"0.5, and operating points fitted {fitted}" if rule else "0.5"
    return [
        ("Metrics", f"positive class {metrics['positive']}; see the tables"),
        ("Uncertainty", f"95%: {interval['method']}, {interval['resamples']} resamples"),
        ("Unit of analysis", f"subject ({metrics['aggregation']['words']}) and slice"),
        ("Thresholds and how they were chosen", thresholds),
        ("Calibration", f"fitted {fitted}" if rule else ""),
        ("Robustness and subgroups", f"by {groups}" if groups else ""),
        ("Explanation of individual predictions", ""),
        ("Test on external data", "no: synthetic heads" if dataset.get("phantom") else ""),
    ]


def _results(metrics: Metrics, dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    n = metrics["n"]
    classes = ", ".join(f"{name} {count}" for name, count in n["subjects_by_class"].items())
    return [
        ("Evaluated subjects, by class", f"{n['subjects']} ({classes})"),
        ("Performance with uncertainty", "in this report, by subject and by slice"),
        (
            "Analysis of failures",
            "every wrong slice is listed, the most confident errors with images",
        ),
        ("Confounds", "; ".join(dataset.get("confounds") or [])),
    ]


def _other(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    commit = record.get("git_commit")
    return [
        ("Limitations", "see 'Limitations'"),
        ("Code", f"dtvit-jax, commit {commit}" if commit else ""),
        ("Registration and protocol", ""),
        ("Funding and conflicts of interest", ""),
    ]
