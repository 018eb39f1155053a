"""A small experiment whose cells are predicted instead of trained."""

import ml_collections
import numpy as np

from configs.experiments import table4
from dtvit_jax.experiments.grid import BASELINE
from tests.helpers import ROOT
from tests.helpers.predictions import make

TINY = str(ROOT / "tests/helpers/tiny.py")
WHOLE = make(subjects=40, slices=5, skill=1.0)
FOLD = np.array([int(s[-3:]) // 10 % 2 for s in WHOLE.subject])
HALVES = {fold: WHOLE.select(fold == FOLD) for fold in (0, 1)}


def grid(**changes):
    """Returns a grid of two folds by subject, one row and the baseline."""
    config = table4.get_config()
    config.title = "A small table"
    config.folds = 2
    config.splits = ("subject",)
    config.rows = ml_collections.ConfigDict({"good": table4.row(TINY)})
    config.update(changes)
    return config


def predicted(config, cell, out):
    """Stands in for training: skill by row and split."""
    skill = {"good": 2.0, "bad": 0.2, BASELINE: 0.4}[cell.row] + (cell.split == "slice")
    p = make(subjects=40, slices=5, skill=skill, seed=3)
    return p.select(cell.fold == FOLD)
