"""Predictions of a model as an order of studies."""

import pytest

from data_builder.errors import InputError
from data_builder.review.predictions import order_of, read_predictions


def test_studies_are_ordered_by_the_model(folder, tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("key,p_hemorrhage\nsli-0002-0000,0.9\nsli-0001-0000,0.45\nsli-9,0.1\n")
    predictions = read_predictions(path, folder)
    assert predictions == {"sli-0002-0000": 0.9, "sli-0001-0000": 0.45}
    assert order_of(folder, predictions, "likely") == ["stu-0002", "stu-0001", "stu-0000"]
    assert order_of(folder, predictions, "unsure") == ["stu-0001", "stu-0002", "stu-0000"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("key\nsli-0001-0000\n", "the column p_hemorrhage is missing"),
        ("key,p_hemorrhage\nsli-0001-0000,2\n", "line 2, column p_hemorrhage"),
        ("key,p_hemorrhage\nsli-0001-0000,nan\n", "line 2, column p_hemorrhage"),
        ("key,p_hemorrhage\nsli-9,0.5\n", "has no slice of this folder"),
    ],
)
def test_bad_predictions_are_named_by_line(folder, tmp_path, text, why):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=why):
        read_predictions(path, folder)
