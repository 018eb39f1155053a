"""VGG-16 with the two heads: the authors of arXiv 2405.06814 ran it and left it out of Table 4.

    python -m dtvit_jax.main --config configs/vgg16.py --config.data.source=SRC

Not trained yet on real slices: no result is claimed.
"""

import ml_collections

from configs import _cnn


def get_config() -> ml_collections.ConfigDict:
    """vit_l.py's recipe with this encoder."""
    return _cnn.recipe("vgg16")
