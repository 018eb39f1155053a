"""A small dual-task ViT for slices in the published layout, on a CPU, from random weights.

    python -m dtvit_jax.main --config configs/real_small.py \
        --config.data.source=SRC --config.data.fold=0 --workdir runs/real_small_fold0

Result of 2026-11-24 on 1,184 slices of 167 subjects in the published layout, five folds by subject,
one seed (`benchmarks/real_small.py`; by subject, 95% intervals): ICH AUROC 0.952 (0.917 to 0.976),
location macro recall 0.580 (0.393 to 0.724). Neither is distinguishable from the acquisition
baseline, a gray histogram with logistic regression: 0.995 and 0.654 on the same folds.
"""

import ml_collections

from configs import phantom


def get_config() -> ml_collections.ConfigDict:
    """Returns phantom.py's recipe with the site's pseudonyms and 5 folds by subject."""
    config = phantom.get_config()
    config.data.key = ""
    config.data.folds = 5
    return config
