"""ResNet-18 on phantoms, from random weights, with phantom.py's slices, windows and schedule.

    python -m dtvit_jax.main --config configs/phantom_resnet18.py --workdir runs/phantom_resnet18

A CNN for Grad-CAM maps (docs/prediction_heat_maps.md); 11 minutes on 2 CPU cores. Phantom results
say nothing about patients.
"""

import ml_collections

from configs import _cnn, phantom


def get_config() -> ml_collections.ConfigDict:
    """Returns phantom.py's recipe with this encoder and half of the epochs."""
    config = phantom.get_config()
    image_size = config.model.image_size
    config.model = _cnn.recipe("resnet18").model
    config.model.image_size = image_size
    config.num_epochs = 6
    return config
