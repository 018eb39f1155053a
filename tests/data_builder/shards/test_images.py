"""The reading and resizing of slice images."""

import numpy as np
from PIL import Image

from data_builder.shards.images import pixels, resize


def test_pixels_are_the_source_resized(source):
    record = source.records[0]
    stored = pixels(record, 48)[..., 0].astype(float)
    by_hand = np.asarray(Image.open(record.image), float).reshape(48, 2, 48, 2).mean((1, 3))
    inner = (slice(2, -2), slice(2, -2))
    # Bilinear with antialiasing weighs 4 pixels a side, so the mean of 2 is only near it.
    assert stored.shape == (48, 48)
    assert np.abs(stored[inner] - by_hand[inner]).mean() < 6


def test_a_slice_that_is_not_square_keeps_its_shape():
    tall = Image.fromarray(np.full((80, 40), 200, np.uint8))
    square = np.asarray(resize(tall, 40))
    assert square.shape == (40, 40)
    assert (square[:, 12:28] == 200).all()
    assert (square[:, :8] == 0).all() and (square[:, -8:] == 0).all()
