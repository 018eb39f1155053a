import csv
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from data_builder.errors import InputError
from dtvit_jax import evaluate
from dtvit_jax.decision import outlier
from dtvit_jax.decision import rule as decision_rule
from dtvit_jax.decision.aggregation import Aggregation, by_subject
from dtvit_jax.decision.predictions import write_csv
from dtvit_jax.evaluation import fitted_rule
from dtvit_jax.reports import evaluation, report
from dtvit_jax.reports.rows import anchor
from dtvit_jax.runs import evaluated_weights
from dtvit_jax.runs.evaluated_run import open_model
from dtvit_jax.runs.export_folder import model_card
from dtvit_jax.runs.trained_run import TrainedRun
from dtvit_jax.training.checkpoint import Checkpoints
from dtvit_jax.training.setup import abstract_state, make_setup
from dtvit_jax.weights import load
from tests.helpers import tiny
from tests.helpers.html_page import Page
from tests.helpers.predictions import make, replaced


@pytest.fixture(autouse=True)
def fast(monkeypatch, request):
    """Uses few resamples, and draws figures in one test only: other tests cover both."""
    if "all_its_files" not in request.node.name:
        monkeypatch.setattr(report, "draw", lambda *args: {})
    for function in (evaluation.evaluate_predictions, evaluation.apply_rule, evaluation.subgroups):

        def few(*args, _function=function, **options):
            return _function(*args, **{"resamples": 60} | options)

        monkeypatch.setattr(evaluation, function.__name__, few)


def a_file(path, split="test", seed=0, tag="", **options):
    p = make(seed=seed, split=split, **options)
    columns = {name: np.char.add(tag, getattr(p, name)) for name in ("key", "subject")}
    p = replaced(p, **columns)
    write_csv(path, p)
    return p


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def workdir(shards, tmp_path_factory):
    from dtvit_jax.train import train

    config = tiny.get_config(shards.folder)
    config.num_epochs, config.num_steps = 0, 3
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(config, folder, "a command") == 0
    return folder


def test_a_run_gives_all_its_files_and_a_rule_fitted_on_validation(workdir, capsys):
    assert run("--workdir", workdir) == 0
    output = capsys.readouterr().out
    assert "report:" in output and "subject hemorrhage auroc" in output
    out = workdir / "test"
    for name in ("metrics.json", "predictions.csv", "report.html", "model_card.md"):
        assert (out / name).stat().st_size > 100
    pictures = {p.suffix for p in (out / "figures").iterdir()}
    assert pictures == {".png", ".svg"}
    rule = decision_rule.read(workdir)
    assert rule.aggregation == Aggregation("mean", 3) and rule.method == "temperature"
    validation = predicted(workdir, "validation")
    assert rule.raw["fitted_on"]["slices"] == len(validation)
    again = fitted_rule.fit(validation, Aggregation("mean", 3))
    assert again.points == rule.points  # of validation, and of nothing else
    usual = outlier.read(workdir)
    assert usual.dataset == rule.raw["dataset_digest"]
    source = TrainedRun(workdir).shards.source("validation")
    x = np.stack([outlier.features(source[i]["image"]) for i in range(len(source))])
    assert (usual.scores(x) > 1).mean() <= 0.01 + 1 / len(source)
    metrics = json.loads((out / "metrics.json").read_text())
    assert {p["name"] for p in metrics["operating_points"]} >= {"sensitivity_0.95"}
    # The published layout's year is in the name of ICH slices alone.
    assert "normal: not known" in metrics["subgroups"]["year"]["confound"]


def test_the_evaluated_weights_are_written_and_restored_if_removed(workdir):
    assert run("--workdir", workdir) == 0
    path, metrics = workdir / evaluated_weights.FILE, workdir / "test" / "metrics.json"
    before, written = path.read_bytes(), metrics.stat().st_mtime_ns
    best = TrainedRun(workdir)
    params, stats = best.weights()
    found = safetensors.numpy.load_file(path)
    assert found.keys() == (load.flatten(params) | load.flatten(stats)).keys()
    for name, value in load.flatten(params).items():
        np.testing.assert_array_equal(found[name], value)
    origin = evaluated_weights.origin(workdir)
    assert origin.checkpoint_step == best.step == decision_rule.read(workdir).raw["checkpoint_step"]
    path.unlink()
    assert run("--workdir", workdir) == 0
    assert path.read_bytes() == before and metrics.stat().st_mtime_ns == written


def other_weights_at_the_same_step(workdir):
    """Changes the best checkpoint, as of a run that was trained again on other hardware."""
    run = TrainedRun(workdir)
    best, abstract = run.config.best, abstract_state(make_setup(run.config, steps=1))
    checkpoints = Checkpoints(workdir, best)
    state, progress = checkpoints.restore(run.step, abstract)
    checkpoints.close()
    shutil.rmtree(workdir / "checkpoints")
    state = state._replace(params=jax.tree.map(lambda x: 1.5 * x, state.params))
    checkpoints = Checkpoints(workdir, best)
    checkpoints.save(run.step, state, progress, {best: 1.0})
    checkpoints.close()


def test_other_weights_at_the_same_step_are_evaluated_again(workdir, tmp_path):
    assert run("--workdir", workdir) == 0
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    other_weights_at_the_same_step(again)
    assert run("--workdir", again) == 0
    new = tmp_path / "new"
    shutil.copytree(
        again, new, ignore=shutil.ignore_patterns("test", "*rule.json", "*.safetensors")
    )
    assert run("--workdir", new) == 0
    for name in ("decision_rule.json", "weights.safetensors", "test/predictions.csv"):
        assert (again / name).read_bytes() == (new / name).read_bytes()
        assert (again / name).read_bytes() != (workdir / name).read_bytes()
    weights = evaluated_weights.origin(again)
    assert model_card(open_model(again)).parent.name == "test"
    shutil.rmtree(again / "test")
    shutil.copytree(workdir / "test", again / "test")
    with pytest.raises(InputError, match="no model card of its best checkpoint"):
        model_card(open_model(again))
    shutil.copy(workdir / "weights.safetensors", again / "weights.safetensors")
    with pytest.raises(InputError, match="another checkpoint"):
        open_model(again)
    assert weights.checkpoint == TrainedRun(again).checksum


def predicted(workdir, split):
    return TrainedRun(workdir).predict(split)


def test_a_second_call_does_nothing_and_another_aggregation_evaluates_again(workdir):
    assert run("--workdir", workdir) == 0
    path = workdir / "test" / "metrics.json"
    before = path.stat().st_mtime_ns
    assert run("--workdir", workdir) == 0
    assert path.stat().st_mtime_ns == before
    assert run("--workdir", workdir, "--aggregation", "noisy_or:0") == 0
    metrics = json.loads(path.read_text())
    assert metrics["aggregation"]["method"] == "noisy_or" and metrics["aggregation"]["k"] == 0
    assert decision_rule.read(workdir).aggregation == Aggregation("noisy_or", 0)
    assert run("--workdir", workdir, "--aggregation", "auto") == 0
    assert decision_rule.read(workdir).raw["aggregation"]["chosen_on_validation"]


def test_a_rule_is_not_evaluated_on_the_validation_slices_it_was_fitted_on(workdir):
    assert run("--workdir", workdir, "--split", "validation") == 0
    metrics = json.loads((workdir / "validation" / "metrics.json").read_text())
    assert metrics["decision_rule"]["fitted_here"] and "operating_points" not in metrics
    assert "fitted on these very slices" in (workdir / "validation" / "report.html").read_text()


def test_another_systems_file_needs_no_model(tmp_path):
    p = a_file(tmp_path / "theirs.csv", seed=3)
    assert run("--predictions", tmp_path / "theirs.csv") == 0
    out = tmp_path / "evaluation"
    metrics = json.loads((out / "metrics.json").read_text())
    assert "operating_points" not in metrics and metrics["n"]["slices"] == len(p)
    assert "Not fitted: no validation slices were given" in (out / "report.html").read_text()
    assert not (out / decision_rule.FILE).exists()


def test_validation_slices_are_a_second_file_or_rows_of_the_first(tmp_path):
    test = a_file(tmp_path / "test.csv", seed=3)
    validation = a_file(tmp_path / "validation.csv", "validation", seed=4, tag="v")
    both = (tmp_path / "test.csv").read_text() + "".join(
        (tmp_path / "validation.csv").read_text().splitlines(keepends=True)[1:]
    )
    (tmp_path / "both.csv").write_text(both)
    found = []
    for name, more in (("test", ["--validation", tmp_path / "validation.csv"]), ("both", [])):
        out = tmp_path / name
        assert run("--predictions", tmp_path / f"{name}.csv", *more, "--out", out) == 0
        found.append(json.loads((out / "metrics.json").read_text()))
        assert decision_rule.read(out).raw["fitted_on"]["slices"] == len(validation)
    assert found[0] == found[1] and found[0]["n"]["slices"] == len(test)
    page = Page((tmp_path / "both" / "report.html").read_text()).text
    for point in found[0]["operating_points"]:
        if point["threshold"] is not None:
            assert f"{point['threshold']:.3f}" in page
            assert f"{point['here']['sensitivity']['value']:.3f}" in page
    after = found[0]["calibration"]["slice"]["hemorrhage"]["isotonic"]["log_loss"]["value"]
    assert f"{after:.3f}" in page and "59 ICH subjects or more" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--validation", "test.csv"], "not fitted on test data"),
        (["--validation", "other_test.csv"], "not fitted on test data"),
        (["--aggregation", "auto"], "give --validation"),
        (["--aggregation", "vote:3"], "mean or noisy_or"),
        (["--aggregation", "mean:x"], "mean:3"),
        (["--facts", "test.csv"], None),
        (["--facts", "none.csv"], "cannot be read"),
    ],
)
def test_fitting_on_test_data_and_invalid_options_are_refused(
    tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    a_file(tmp_path / "test.csv", seed=3)
    a_file(tmp_path / "other_test.csv", seed=4, tag="o")
    status = run("--predictions", "test.csv", "--out", "out", *options)
    error = capsys.readouterr().err
    if message is None:
        assert status == 0
        return
    assert status == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_number_of_the_tables_links_to_its_rows(tmp_path):
    p = a_file(tmp_path / "test.csv", seed=3, skill=1.0)
    assert run("--predictions", tmp_path / "test.csv", "--out", tmp_path / "out") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    parsed = Page(page)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for level in ("subject", "slice"):
        for task, entries in metrics[level].items():
            for name in entries:
                assert anchor(level, task, name) in parsed.ids, (level, task, name)
    subjects, _ = by_subject(p)
    for level, table in (("subject", subjects), ("slice", p)):
        missed = (table.hemorrhage == 1) & (table.p_hemorrhage < 0.5)
        part = page[
            page.index(f'id="{level}-false-negative"') : page.index(f'id="{level}-true-positive"')
        ]
        assert part.count("<tr>") == missed.sum() + 1
        assert all(str(key) in part for key in table.key[missed])


def test_facts_make_subgroups_and_columns_of_the_rows(tmp_path):
    p = a_file(tmp_path / "test.csv", seed=3)
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("key", "sex"))
        rows.writerows((key, "FM"[i % 20 < 10]) for i, key in enumerate(p.key))
    arguments = ["--facts", tmp_path / "manifest.csv", "--out", tmp_path / "out"]
    assert run("--predictions", tmp_path / "test.csv", *arguments) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [g["value"] for g in metrics["subgroups"]["sex"]["groups"]] == ["F", "M"]
    assert "<th>sex</th>" in (tmp_path / "out" / "report.html").read_text()


def test_checklist_and_model_card_mark_missing_information(tmp_path):
    a_file(tmp_path / "test.csv", seed=3)
    assert run("--predictions", tmp_path / "test.csv", "--out", tmp_path / "out") == 0
    page = Page((tmp_path / "out" / "report.html").read_text()).text
    assert "items are answered by the run" in page and "Ethics approval and consent not" in page
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert "Not a medical device" in card and "not stated" in card
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    area = metrics["subject"]["hemorrhage"]["auroc"]
    assert f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})" in card
