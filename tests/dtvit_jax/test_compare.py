import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from data_builder.errors import InputError
from dtvit_jax import compare as command
from dtvit_jax.decision.predictions import write_csv
from dtvit_jax.evaluation.comparison import compare
from dtvit_jax.evaluation.paired_tests import delong, holm, mcnemar
from tests.helpers.html_page import Page
from tests.helpers.predictions import make, replaced

# Table 1 of DeLong, DeLong and Clarke-Pearson, Biometrics 44:837-845 (1988), as printed in the
# SAS/STAT User's Guide, PROC LOGISTIC: albumin, total protein, K-G score, outcome.
OVARIAN = np.fromstring(
    """
    3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0
    1.6 5.6 5 1 3.8 5.7 5 1 3.7 6.7 6 1 3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1
    4.3 7.0 4 1 3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0 4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1
    3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1 4.3 6.5 4 1
    3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0 1.7 4.0 7 0 3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1
    3.5 6.2 5 1 2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1 3.3 5.7 6 1 3.7 6.9 5 1
    3.6 6.6 5 1
    """,
    sep=" ",
).reshape(43, 4)


def test_delong_reproduces_the_table_of_its_paper():
    """SAS's output: areas, standard errors, and a chi-square of 2.5340 for K-G and the others."""
    got = delong(OVARIAN[:, 3] == 1, np.stack([OVARIAN[:, 0], 10 - OVARIAN[:, 2], OVARIAN[:, 1]]))
    np.testing.assert_allclose(got.areas, [0.7366, 0.7258, 0.6478], atol=5e-5)
    np.testing.assert_allclose(
        np.sqrt(np.diag(got.covariance)), [0.0927, 0.1028, 0.1000], atol=5e-5
    )
    contrast = np.array([[1, -1, 0], [0, -1, 1]])
    apart = contrast @ got.areas
    spread = contrast @ got.covariance @ contrast.T
    assert apart @ np.linalg.solve(spread, apart) == pytest.approx(2.5340, abs=5e-5)
    assert got.difference(0, 1)["value"] == pytest.approx(0.0108, abs=5e-5)
    assert got.difference(0, 1)["se"] == pytest.approx(0.0953, abs=5e-5)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**31))
def test_delong_is_its_definition_by_all_pairs(m, n, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(6, size=(2, m + n)).astype(float)  # many ties
    truth = np.arange(m + n) < m
    wins = [
        (s[truth][:, None] > s[~truth]) + 0.5 * (s[truth][:, None] == s[~truth]) for s in scores
    ]
    areas = np.array([w.mean() for w in wins])
    v10, v01 = (np.stack([w.mean(axis=axis) for w in wins]) for axis in (1, 0))
    wanted = sum(
        (v - areas[:, None]) @ (v - areas[:, None]).T / (v.shape[1] - 1) / v.shape[1]
        for v in (v10, v01)
    )
    got = delong(truth, scores)
    np.testing.assert_allclose(got.areas, areas, atol=1e-12)
    np.testing.assert_allclose(got.covariance, wanted, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_mcnemar_is_statsmodels(only_a, only_b, both):
    a = np.repeat([True, False, True], [only_a, only_b, both])
    b = np.repeat([False, True, True], [only_a, only_b, both])
    got = mcnemar(a, b)
    assert (got["only_a"], got["only_b"]) == (only_a, only_b)
    if only_a + only_b:
        wanted = reference_mcnemar([[both, only_a], [only_b, 0]], exact=True).pvalue
        assert got["p"] == pytest.approx(wanted, abs=1e-9)
    else:
        assert got["p"] == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p):
    wanted = multipletests(p, method="holm")[1]
    np.testing.assert_allclose(holm(p), wanted, atol=1e-9)


def test_delong_needs_two_of_each_class():
    with pytest.raises(ValueError, match="two rows of each class"):
        delong(np.array([True, False, False]), np.zeros((2, 3)))


def test_delong_keeps_its_level_for_equal_models():
    rng = np.random.default_rng(0)
    truth = np.arange(60) < 30
    significant = 0
    for _ in range(400):
        shared = truth + rng.normal(size=60)
        scores = np.stack([shared + rng.normal(size=60) for _ in range(2)])
        significant += delong(truth, scores).difference(0, 1)["p"] < 0.05
    assert significant <= scipy.stats.binom.ppf(0.999, 400, 0.05)


FAST = {"resamples": 150}
GOOD, SAME, BAD = make(60), make(60), make(60, skill=0.3)


def test_all_pairs_are_compared_and_adjusted_over_all_pairs():
    noisy = replaced(GOOD, p_hemorrhage=np.clip(GOOD.p_hemorrhage * 0.9 + 0.05, 0, 1))
    result = compare({"good": GOOD, "noisy": noisy, "bad": BAD}, **FAST)
    assert [(p["a"], p["b"]) for p in result["pairs"]] == [
        ("good", "noisy"),
        ("good", "bad"),
        ("noisy", "bad"),
    ]
    for entries in (
        [p["tests"]["delong"] for p in result["pairs"]],
        [p["tests"]["mcnemar"]["location"] for p in result["pairs"]],
        [p["slice"]["hemorrhage"]["auroc"] for p in result["pairs"]],
    ):
        wanted = multipletests([e["p"] for e in entries], method="holm")[1]
        np.testing.assert_allclose([e["p_holm"] for e in entries], wanted, atol=1e-9)
    for pair in result["pairs"]:
        area = pair["tests"]["delong"]
        assert area["value"] == pytest.approx(pair["subject"]["hemorrhage"]["auroc"]["value"])


def test_sentences_claim_no_more_than_the_test():
    text = " ".join(compare({"one": GOOD, "two": BAD}, **FAST)["pairs"][0]["sentences"])
    assert "one's subject-level AUROC for ICH is above two's" in text
    assert "not other training runs" in text
    close = replaced(GOOD, p_hemorrhage=GOOD.p_hemorrhage**1.0001)
    text = " ".join(compare({"one": GOOD, "two": close}, **FAST)["pairs"][0]["sentences"])
    assert "is above" not in text and "same order" in text
    few = make(10, skill=1.0), make(10, skill=0.8, seed=1)
    few = (few[0], replaced(few[0], p_hemorrhage=few[1].p_hemorrhage))
    text = " ".join(compare({"one": few[0], "two": few[1]}, **FAST)["pairs"][0]["sentences"])
    assert "do not show that the two differ" in text and "not the same as showing" in text


def test_runs_on_other_slices_or_alone_are_refused():
    with pytest.raises(InputError, match="same slices"):
        compare({"a": GOOD, "b": make(20)}, **FAST)
    with pytest.raises(InputError, match="two runs"):
        compare({"a": GOOD}, **FAST)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    def few(*args, **options):
        return compare(*args, **options, **FAST)

    monkeypatch.setattr(command, "compare", few)
    for name, p in (("vit", GOOD), ("cnn", BAD)):  # a run's layout
        (tmp_path / name / "test").mkdir(parents=True)
        write_csv(tmp_path / name / "test" / "predictions.csv", p)
    metrics = {"aggregation": {"method": "noisy_or", "k": 2}}
    (tmp_path / "cnn" / "test" / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def test_the_command_writes_page_numbers_and_figures(folder, capsys):
    out = folder / "out"
    status = command.main([str(folder / "vit"), f"other={folder / 'cnn'}", "--out", str(out)])
    output = capsys.readouterr().out
    assert status == 0 and "vit and other:" in output and "comparison:" in output
    result = json.loads((out / "comparison.json").read_text())
    assert result["runs"]["other"]["aggregation"].startswith("noisy-or")
    page = Page((out / "comparison.html").read_text())
    assert not {"script", "link", "iframe"} & set(page.tags)
    for sentence in result["pairs"][0]["sentences"]:
        assert sentence in page.text
    difference = result["pairs"][0]["subject"]["hemorrhage"]["auroc"]
    assert f"{difference['value']:+.3f}" in page.text
    assert {p.name for p in (out / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("runs", "differences") for kind in ("png", "svg")
    }


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["vit"], "two runs or more"),
        (["vit", "nowhere"], "no predictions.csv"),
        (["vit", "vit"], "two runs are named vit"),
        (["vit", "x=vit/test/predictions.csv", "--threshold", "2"], "between 0 and 1"),
    ],
)
def test_invalid_arguments_are_one_line_and_status_2(folder, monkeypatch, capsys, runs, message):
    monkeypatch.chdir(folder)
    assert command.main([*runs, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (folder / "out").exists()
