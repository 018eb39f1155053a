"""SqueezeNet 1.0 with the two heads; the paper does not state the version.

    python -m dtvit_jax.main --config configs/squeezenet1_0.py --config.data.source=SRC

Not yet trained on real slices; no result is claimed.
"""

import ml_collections

from configs import _cnn


def get_config() -> ml_collections.ConfigDict:
    """Returns vit_l.py's recipe with this encoder."""
    return _cnn.recipe("squeezenet1_0")
