"""ResNet-34 with the two heads; not in the paper, which has ResNet-18.

    python -m dtvit_jax.main --config configs/resnet34.py --config.data.source=SRC

Not yet trained on real slices; no result is claimed.
"""

import ml_collections

from configs import _cnn


def get_config() -> ml_collections.ConfigDict:
    """Returns vit_l.py's recipe with this encoder."""
    return _cnn.recipe("resnet34")
