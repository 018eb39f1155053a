"""Contact sheets of a folder that was cleaned again."""

import cv2
import numpy as np

from data_builder.review.folder import Folder
from data_builder.review.pictures import Sheets
from tests.helpers.review_folder import write_folder


def sheet_of(path):
    return cv2.imread(str(Sheets(Folder(path)).of("stu-0000").path), cv2.IMREAD_GRAYSCALE)


def test_a_sheet_shows_the_slices_that_the_manifest_has_now(tmp_path):
    folder = write_folder(tmp_path / "cleaned", studies=1, slices=4)
    whole = sheet_of(folder)
    np.testing.assert_array_equal(sheet_of(folder), whole)
    lines = (folder / "manifest.csv").read_text().splitlines(keepends=True)
    (folder / "manifest.csv").write_text("".join([lines[0], *lines[2:]]))  # a slice is gone
    fewer = sheet_of(folder)
    (folder / "manifest.csv").write_text("".join([lines[0], *reversed(lines[1:])]))
    turned = sheet_of(folder)
    for index in range(3):
        here, before = (slice(128 * at, 128 * (at + 1)) for at in (index, index + 1))
        assert np.abs(fewer[:, here].astype(int) - whole[:, before]).mean() < 1
        mirrored = slice(128 * (3 - index), 128 * (4 - index))
        assert np.abs(turned[:, here].astype(int) - whole[:, mirrored]).mean() < 1
    assert not fewer[:, 3 * 128 : 4 * 128].any()
    assert len(list(folder.rglob("*.jpg"))) == 1
