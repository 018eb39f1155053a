"""SqueezeNet 1.1 with the two heads (Table 4 of arXiv 2405.06814).

    python -m dtvit_jax.main --config configs/squeezenet.py --config.data.source=SRC

The paper does not state the version.
Not yet trained on real slices; no result is claimed.
"""

import ml_collections

from configs import _cnn


def get_config() -> ml_collections.ConfigDict:
    """Returns vit_l.py's recipe with this encoder."""
    return _cnn.recipe("squeezenet1_1")
