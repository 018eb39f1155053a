"""A small dual-task ViT for the published layout's slices on a CPU, from random weights.

    python -m dtvit_jax.main --config configs/real_small.py \
        --config.data.source=SRC --config.data.fold=0 --workdir runs/real_small_fold0
"""

import ml_collections

from configs import phantom


def get_config() -> ml_collections.ConfigDict:
    """phantom.py's recipe with the pseudonyms of the site and 5 folds by subject."""
    config = phantom.get_config()
    config.data.key = ""
    config.data.folds = 5
    return config
