import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from data_builder.records import CLASSES
from dtvit_jax.evaluation.summary import evaluate_predictions
from dtvit_jax.reports import figures
from dtvit_jax.reports.limitations import PHANTOM, RESEARCH, caveats
from dtvit_jax.reports.report import write_report
from dtvit_jax.reports.worst_errors import hemorrhage_errors, location_errors
from tests.helpers.html_page import Page
from tests.helpers.predictions import make, replaced

COUNTS = {
    split: {
        "slices": dict(zip(CLASSES, (101, 52, 33, 14), strict=True)),
        "subjects": dict(zip(CLASSES, (11, 7, 5, 3), strict=True)),
    }
    for split in ("train", "validation", "test")
}
RUN = {
    "command": "python -m dtvit_jax.main --config configs/phantom.py",
    "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    "git_commit": "0123abc",
    "device": "cpu",
    "started": "2026-01-02T03:04:05Z",
    "train_seconds": 3725.4,
    "parameters": 1234567,
    "seed": 7,
    "model": "vit_small",
    "dataset": {
        "name": "phantoms",
        "source_kind": "phantom",
        "split": "subject",
        "fold": 0,
        "folds": 5,
        "size": 96,
        "seed": 3,
        "digest": "feedbeef",
        "phantom": True,
        "counts": COUNTS,
        "leak": {"test_slices": 200, "with_sibling_in_training": 0},
        "confounds": ["every normal is of another year"],
    },
}
HISTORY = [
    {"step": e, "epoch": e, "split": split, "loss": 1 / (e + 1), "accuracy_hemorrhage": 0.9}
    for e in range(3)
    for split in ("train", "validation")
]


def picture(key):
    return np.full((64, 48), int(key[-2:]) + 100, np.uint8)


def report(folder, predictions=None, run=RUN, history=HISTORY, images=picture):
    predictions = make(skill=1.0) if predictions is None else predictions
    metrics = evaluate_predictions(predictions, resamples=200)
    path = write_report(folder, predictions, metrics, run, history, images)
    html = path.read_text(encoding="utf-8")
    return metrics, html, Page(html)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return report(tmp_path_factory.mktemp("report"))


def test_the_page_loads_and_executes_nothing(made):
    _, html, page = made
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.links and all(link.startswith(("data:image/png", "#")) for link in page.links)
    assert "@import" not in html and not re.findall(r"url\((?!#)", html)
    outside = set(re.findall(r"https?://[^\s\"'<>]+", html))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in html


def test_every_link_inside_has_one_target(made):
    _, _, page = made
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_the_counts_of_classes_link_to_their_rows(made):
    metrics, html, _ = made
    for level in ("subject", "slice"):
        for name, count in metrics["n"][f"{level}s_by_class"].items():
            target = {"normal": f"{level}-normal"}.get(name, f"{level}-in-{name}")
            assert f'<a href="#{target}">{count}</a>' in html


def test_the_page_shows_the_numbers_of_metrics_json(made):
    metrics, _, page = made
    for level in ("subject", "slice"):
        for task in ("hemorrhage", "location"):
            for name, entry in metrics[level][task].items():
                if entry["value"] is not None and name != "recall":
                    assert f"{entry['value']:.3f}" in page.text, (level, task, name)
                if entry["low"] is not None:
                    assert f"{entry['low']:.3f}\u2013{entry['high']:.3f}" in page.text
                if "count" in entry:
                    assert f"{entry['count']}/{entry['of']}" in page.text
            for row in metrics["confusion"][level][task]:
                for count in row:
                    assert f" {count} " in page.text


def test_the_page_describes_the_model_its_data_and_its_training(made):
    _, _, page = made
    for text in (
        "vit_small on phantoms",
        "1,234,567 parameters",
        "trained on 200 slices of 26 subjects in 1 h 2 min 5 s on cpu",
        "evaluated on 200 slices of 20 subjects, none of whom was in training",
        RUN["command"],
        "0123abc",
        "feedbeef",
        "jax 0.10.2",
        PHANTOM,
        RESEARCH,
        "positive class is ICH",
    ):
        assert text in page.text, text


def test_wrong_slices_are_shown_as_images_most_confident_first(made):
    _, html, _ = made
    groups = hemorrhage_errors(make(skill=1.0))
    worst = groups[0].errors[0]
    assert html.index("data:image/png") < html.index(f'class="key">{worst.key}')
    first = re.search(r'<img src="data:image/png;base64,([^"]+)" alt="slice ([^"]+)"', html)
    assert first[2] == worst.key
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(first[1]))))
    np.testing.assert_array_equal(pixels, picture(worst.key))


def test_all_errors_are_listed_in_order_of_confidence_within_and_across_subjects():
    p = make(skill=0.5)
    groups = hemorrhage_errors(p, threshold=0.4)
    wrong = set(p.key[(p.p_hemorrhage >= 0.4) != (p.hemorrhage == 1)])
    assert {e.key for g in groups for e in g.errors} == wrong and wrong
    highest = [g.errors[0].p for g in groups]
    assert highest == sorted(highest, reverse=True)
    for group in groups:
        p_values = [e.p for e in group.errors]
        assert p_values == sorted(p_values, reverse=True) and group.slices == 10
    errors = [e for g in location_errors(p) for e in g.errors]
    ich = p.location >= 0
    assert len(errors) == (p.p_location[ich].argmax(1) != p.location[ich]).sum() > 0
    assert all(e.truth != e.predicted and 1 / 3 < e.p <= 1 for e in errors)


EVIL = "<script>alert(1)</script>\"'&"


def test_input_is_escaped(tmp_path):
    p = make(subjects=4, slices=7, skill=0.0)
    p = replaced(
        p,
        key=np.array([f"{EVIL}{i:02d}" for i in range(len(p))]),
        subject=np.array([EVIL + s for s in p.subject]),
        split=np.where(np.arange(len(p)) < 5, EVIL, "test"),
    )
    dataset = RUN["dataset"] | {"name": EVIL, "confounds": [EVIL], "split": EVIL}
    run = RUN | {"dataset": dataset, "command": EVIL, "model": EVIL, "versions": {EVIL: EVIL}}
    _, html, page = report(tmp_path, p, run)
    assert "<script" not in html and "script" not in page.tags
    assert EVIL in page.text


@pytest.mark.parametrize("run", [{}, {"model": "m"}, {"dataset": {"name": "d", "split": "slice"}}])
def test_missing_fields_are_not_stated(tmp_path, run):
    _, _, page = report(tmp_path, run=run, history=[], images=None)
    assert "not stated" in page.text and "no image" in page.text
    assert "Training time" in page.text and "None" not in page.text


@pytest.mark.parametrize("hemorrhage", [0, 1, -1])
def test_one_class_or_no_truth_still_gives_a_report(tmp_path, hemorrhage):
    p = make()
    p = p.select(p.hemorrhage == max(hemorrhage, 0))
    if hemorrhage == -1:
        p = replaced(p, hemorrhage=np.full(len(p), -1))
    _, _, page = report(tmp_path, p, images=lambda key: None)
    reason = {0: "no subject of class ICH", 1: "no subject of class normal"}
    assert reason.get(hemorrhage, "no subject with a known truth") in page.text


def test_a_system_without_a_location_task_still_gets_a_report(tmp_path):
    p = make()
    _, _, page = report(tmp_path, replaced(p, p_location=np.full((len(p), 3), np.nan)))
    assert "no subject with a known truth and a prediction for this task" in page.text


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        report(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert {path.suffix for path in files} == {".html", ".png", ".svg"}
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_curves_accept_records_with_gaps():
    history = [
        {"step": 1, "split": "train", "loss": 0.5},
        {"step": 2, "split": "train", "loss": float("nan")},
        {"step": 2, "split": "validation", "loss": 0.25, "accuracy_location": None},
        {"step": 3, "split": "train", "loss": 0.125},
    ]
    loss = figures.training_curves(history).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert lines["training"] == [[1, 0.5], [3, 0.125]]
    assert lines["validation"] == [[2, 0.25]]


def test_confusion_shows_counts_and_row_percentages():
    figure = figures.confusion(np.array([[3, 1], [0, 0]]), ("normal", "ICH"), "t", "slices")
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["3", "75%", "1", "25%", "0", "0%", "0", "0%"]


METRICS = {
    "n": {"slices_by_class": {"normal": 60, "deep": 20, "lobar": 10, "subtentorial": 10}},
    "warnings": ["A warning."],
}


def test_caveats_begin_with_the_leak_and_its_size():
    leak = {"test_slices": 200, "with_sibling_in_training": 150}
    sentences = caveats(METRICS, {"split": "slice", "leak": leak})
    assert sentences[0] == RESEARCH
    assert "150 of 200 test slices (75%)" in sentences[1]
    assert "A warning." in sentences[2:]
    assert any("40% ICH" in text for text in sentences)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"phantom": True}, "nothing about patients"),
        ({"source_kind": "published"}, "show no bleeding"),
        ({"confounds": ["the year"]}, "A confound: the year"),
        ({"split": "slice"}, "slices of one subject may be in both training and test"),
        ({"subjects": {"doubts": ["all are one"]}}, "The subjects are in doubt: all are one."),
        (
            {"subjects": {"read_from": "headers: 9", "unknown": ["whether a", "whether b"]}},
            "read from headers: 9. It is not known whether a; nor whether b.",
        ),
    ],
)
def test_caveats_follow_from_the_data_set(dataset, words):
    assert not any(words in text for text in caveats(METRICS, {"split": "subject"}))
    assert any(words in text for text in caveats(METRICS, dataset))
