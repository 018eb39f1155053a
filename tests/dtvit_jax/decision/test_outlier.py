import json

import numpy as np
import pytest
from scipy.spatial import cKDTree

from data_builder.errors import InputError
from dtvit_jax.decision import outlier
from tests.helpers.model_folder import heads


@pytest.fixture(scope="module")
def fitted():
    return outlier.fit(heads(120, 0), heads(100, 1), "digest")


def score(fitted, image):
    return float(fitted.scores(outlier.features(image)[None])[0])


def test_one_in_a_hundred_validation_slices_is_an_outlier_and_few_of_the_same_kind(fitted):
    x = np.stack([outlier.features(each["image"]) for each in heads(100, 1)])
    assert (fitted.scores(x) > 1).sum() == 1
    others = np.stack([outlier.features(each["image"]) for each in heads(100, 2)])
    assert (fitted.scores(others) > 1).mean() < 0.05


STRANGE = {
    "empty": lambda x, rng: np.zeros_like(x),
    "inverted": lambda x, rng: 255 - x,
    "noise": lambda x, rng: rng.integers(0, 256, x.shape).astype(np.uint8),
    "another window": lambda x, rng: np.minimum(x.astype(int) * 2, 255).astype(np.uint8),
    "no cleaning": lambda x, rng: np.maximum(x, 60),
    "grainy": lambda x, rng: np.where(
        x > 0, np.clip(x + rng.normal(0, 60, x.shape), 1, 255), 0
    ).astype(np.uint8),
    "a quarter of it": lambda x, rng: np.pad(x[:18, :18], ((0, 18), (0, 18))),
    "half the size": lambda x, rng: np.pad(x[::2, ::2], 9),
}


@pytest.mark.parametrize("how", STRANGE)
def test_slices_unlike_the_training_set_are_outliers(fitted, how):
    rng = np.random.default_rng(0)
    for each in heads(5, 3):
        assert score(fitted, STRANGE[how](each["image"], rng)) > 1


def test_the_score_is_the_mean_distance_to_the_five_nearest_references(fitted):
    x = np.stack([outlier.features(each["image"]) for each in heads(40, 4)])
    near, _ = cKDTree(fitted.references).query((x - fitted.mean) / fitted.spread, k=5)
    assert np.allclose(fitted.scores(x), near.mean(axis=1) / fitted.distance)


def test_the_file_is_read_as_it_was_written(fitted, tmp_path):
    outlier.write(tmp_path, fitted)
    again = outlier.read(tmp_path)
    x = np.stack([outlier.features(each["image"]) for each in heads(5, 5)])
    assert (again.scores(x) == fitted.scores(x)).all() and again.dataset == "digest"
    first = (tmp_path / outlier.FILE).read_bytes()
    outlier.write(tmp_path, outlier.fit(heads(120, 0), heads(100, 1), "digest"))
    assert (tmp_path / outlier.FILE).read_bytes() == first


def test_many_training_slices_are_subsampled(monkeypatch):
    monkeypatch.setattr(outlier, "MOST_REFERENCES", 50)
    fitted = outlier.fit(heads(120, 0), heads(30, 1), "digest")
    assert len(fitted.references) == 50


def test_a_missing_damaged_or_other_file_is_an_error_with_a_remedy(fitted, tmp_path):
    with pytest.raises(InputError, match=r"missing: run python -m dtvit_jax.evaluate"):
        outlier.read(tmp_path)
    path = tmp_path / outlier.FILE
    outlier.write(tmp_path, fitted)
    value = json.loads(path.read_text())
    for change in ({"version": 99}, {"features": ["a"]}):
        path.write_text(json.dumps(value | change))
        with pytest.raises(InputError, match="another version"):
            outlier.read(tmp_path)
    for text in ("{", "[]", json.dumps(value | {"references": [[1]]})):
        path.write_text(text)
        with pytest.raises(InputError, match="damaged"):
            outlier.read(tmp_path)
