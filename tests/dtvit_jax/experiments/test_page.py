import json

import ml_collections

from configs.experiments import table4
from dtvit_jax.experiments import page
from dtvit_jax.experiments.grid import cells
from dtvit_jax.experiments.table import joined
from tests.helpers.experiment import TINY, grid, predicted

DRAW = page.draw  # before a fixture replaces it


def test_the_table_says_what_beats_the_baseline_what_leaks_and_that_weights_were_random(tmp_path):
    rows = ml_collections.ConfigDict({"good": table4.row(TINY), "bad": table4.row(TINY)})
    config = grid(splits=("slice", "subject"), rows=rows)
    done = {cell: predicted(config, cell, tmp_path) for cell in cells(config)}
    page.write_table(config, done, len(done), tmp_path)
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["title"].endswith("(from random weights; not a replication)")  # tiny.py's
    against = table["splits"]["subject"]["against"]
    assert against["good"]["verdict"] == "above acquisition and slice selection"
    assert against["bad"]["verdict"].startswith("not distinguishable")
    lower = {"ICH AUROC": {"value": -0.2, "low": -0.3, "high": -0.1}}
    assert page.verdict(lower).endswith("and below them")
    even = {"ICH AUROC": {"value": 0.0, "low": None, "high": None}}
    assert page.verdict(even) == "no paired interval"
    leak = table["leak"]["bad"]["slice"]["ICH AUROC"]
    assert leak["value"] > 0 and leak["low"] > 0
    area = table["splits"]["subject"]["rows"]["good"]["subject"]["ICH AUROC"]
    for name in ("table.md", "table.html"):
        text = (tmp_path / name).read_text()
        assert "not a replication" in text and "not distinguishable" in text
        assert f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})" in text


def test_matrices_and_mean_curves_are_drawn_of_each_row(tmp_path):
    config = grid(baseline=False)
    done = {cell: predicted(config, cell, tmp_path) for cell in cells(config)}
    for cell in done:
        (tmp_path / cell.folder).mkdir(parents=True)
        row = {"step": 1, "epoch": 1, "split": "train", "loss": 0.5 + cell.fold}
        (tmp_path / cell.folder / "history.jsonl").write_text(json.dumps(row) + "\n")
    drawn = DRAW(done, tmp_path)
    assert list(drawn) == [
        "curves_00_subject",
        "matrix_hemorrhage_00_subject",
        "matrix_location_00_subject",
    ]
    assert drawn["curves_00_subject"].axes[0].lines[0].get_ydata().tolist() == [1.0]
    shown = {text.get_text() for text in drawn["matrix_hemorrhage_00_subject"].axes[0].texts}
    whole = joined(list(done.values()))
    assert str(int(((whole.p_hemorrhage >= 0.5) & (whole.hemorrhage == 1)).sum())) in shown
