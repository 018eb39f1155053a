import json

import numpy as np
import pytest
import scipy.stats

from benchmarks import paper_audit
from benchmarks.paper_audit import ICH, NORMAL, NOTEBOOK, location_errors, pooled_errors
from tests.helpers import ROOT

SHARED = ROOT.parent / "shared" / "paper"
MODELS = {model.name: model for model in NOTEBOOK}


def test_the_corrected_accuracies_are_those_counted_by_hand():
    """Of the 807: errors of each row of the notebook's matrix, moved cells and 'none' included."""
    by_hand = {  # Deep to others, Deep 'none'; Lobar to others
        "DTViT": 2 + 0 + 1,
        "DTViT, no balancing": (2 + 2) + 3 + 4,
        "VGG16": (3 + 1) + 0 + 0,
        "DenseNet121": (1 + 3) + 0 + 0,
        "AlexNet": (1 + 2) + 2 + 0,
        "ResNet18": (4 + 2) + 1 + 0,
        "SqueezeNet 1.0": (30 + 10) + 3 + 10,
    }
    assert {name: location_errors(model) for name, model in MODELS.items()} == by_hand
    rounded = {name: round(1 - errors / ICH, 4) for name, errors in by_hand.items()}
    assert rounded["DTViT"] == 0.9963 and rounded["SqueezeNet 1.0"] == 0.9343


def test_the_matrix_as_printed_gives_the_accuracy_as_printed():
    """The slips explain the printed figures to the last digit: nothing else was changed."""
    for model in NOTEBOOK:
        cells = np.array(model.task2)
        assert np.trace(cells) / cells.sum() == pytest.approx(model.printed[1], abs=1e-12)
        tp, tn, fp, fn = model.task1
        assert (tp + tn) / (tp + tn + fp + fn) == pytest.approx(model.printed[0], abs=1e-12)
        assert tp + fn == NORMAL and tn + fp == ICH


def test_the_pooled_figure_is_the_sum_of_both_tasks_errors():
    """What is left over are normal slices given a location: none, or one."""
    for model in NOTEBOOK:
        rest = pooled_errors(model) - paper_audit.hemorrhage_errors(model) - location_errors(model)
        assert rest in (0, 1), model.name
        share = 1 - pooled_errors(model) / (2 * (NORMAL + ICH))
        # One decision is 0.039 percent, and ResNet18's last printed digit is off by one.
        assert 100 * share == pytest.approx(model.pooled, abs=1e-4)


def test_table_4_mixes_two_definitions():
    ways = {m.name: paper_audit.table4_is(m) for m in NOTEBOOK if m.table4}
    assert ways.pop("ResNet18") == "mean"
    assert set(ways.values()) == {"pooled"}


def test_sensitivity_for_ich_is_the_printed_specificity():
    sensitivity, specificity = paper_audit.ich_rates(MODELS["DTViT, no balancing"])
    assert round(sensitivity, 3) == 0.995 and specificity == 1  # Table 3: 'Specificity', 'Recall'


def test_the_range_of_p_is_that_of_every_overlap():
    low, high = paper_audit.mcnemar_range(3, 7, 807)
    tried = [scipy.stats.binomtest(3 - m, 10 - 2 * m).pvalue for m in range(4)]
    assert (low, high) == pytest.approx((min(tried), max(tried)))
    assert paper_audit.mcnemar_range(0, 0, 10) == (1, 1)
    assert paper_audit.mcnemar_range(10, 10, 10) == (1, 1)


def test_integers_that_contradict_each_other_are_refused():
    import dataclasses

    with pytest.raises(ValueError, match="do not add up"):
        paper_audit.location_matrix(dataclasses.replace(NOTEBOOK[0], counted=(599, 161, 46)))


def test_the_page_has_the_programs_tables(capsys):
    paper_audit.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line]
    page = (ROOT / "docs" / "paper_audit.md").read_text().splitlines()
    assert len(rows) == 24 and [row for row in rows if row not in page] == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the paper's text is not beside the repository")
def test_the_integers_are_the_published_ones():
    found = json.loads((SHARED / "confusions.json").read_text())["models"]
    assert len(found) == len(NOTEBOOK)
    theirs = {
        (
            m["test_loss"],
            m["pooled_accuracy_percent"],
            tuple(m["task1"][k] for k in ("TP", "TN", "FP", "FN")),
            tuple(tuple(m["task2"][f"C{i}{j}"] for j in range(3)) for i in range(3)),
            tuple(m["counts"][k] for k in ("deep", "lobar", "subtentorial")),
            tuple(m["printed_accuracy"]),
        )
        for m in found
    }
    ours = {(m.loss, m.pooled, m.task1, m.task2, m.counted, m.printed) for m in NOTEBOOK}
    assert ours == theirs
    text = (SHARED / "paper.txt").read_text()
    for quoted in ("Deep 595, Lobar 163, and Subtentorial 49", "between 2018 and 2021", "in 2024"):
        assert quoted in text
    for m in NOTEBOOK:
        assert m.table4 is None or f"\t{m.loss:.4f}\t{m.table4:.4f}\t" in text
