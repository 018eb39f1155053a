"""SqueezeNet 1.0 with the two heads: which version the paper took is not stated.

    python -m dtvit_jax.main --config configs/squeezenet1_0.py --config.data.source=SRC

Not trained yet on real slices: no result is claimed.
"""

import ml_collections

from configs import _cnn


def get_config() -> ml_collections.ConfigDict:
    """vit_l.py's recipe with this encoder."""
    return _cnn.recipe("squeezenet1_0")
