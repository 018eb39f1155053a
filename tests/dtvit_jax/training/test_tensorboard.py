import io

import numpy as np
from PIL import Image

from dtvit_jax.training.tensorboard import TensorBoard
from tests.helpers.tensorboard_events import shown


def test_a_resumed_run_shows_no_step_twice(tmp_path):
    for first, last in ((0, 7), (4, 9)):  # killed after 7 steps, saved after 4
        with TensorBoard(tmp_path, first) as board:
            for step in range(first + 1, last + 1):
                board.scalars(step, {"step/loss": step / 2})
    values = {key: value.simple_value for key, value in shown(tmp_path).items()}
    assert values == {("step/loss", step): step / 2 for step in range(1, 10)}


def test_images_are_on_one_sheet_in_their_own_range(tmp_path):
    images = np.stack([np.full((8, 8, 1), value, np.float32) for value in (-2, 0, 2)])
    with TensorBoard(tmp_path, 0) as board:
        board.images("augmented", images)
        board.text("config", "one\ntwo")
    found = shown(tmp_path)
    sheet = np.asarray(Image.open(io.BytesIO(found["augmented", 0].image.encoded_image_string)))
    assert sheet.shape == (16, 16, 3)
    assert [sheet[r, c, 0] for r, c in ((0, 0), (0, 8), (8, 0), (8, 8))] == [0, 127, 255, 0]
    assert found["config/text_summary", 0].tensor.string_val[0] == b"    one\n    two\n"
