"""A synthetic data set in the layout that was published with the paper."""

from pathlib import Path

import numpy as np
from PIL import Image

LOCATIONS = ("Deep", "Lobar", "Subtentorial")


def write_published(folder: Path, subjects: int = 4, slices: int = 3) -> Path:
    """Writes a folder of discs (heads), with a bright spot in those of the ICH classes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    head = (x - 48) ** 2 + (y - 48) ** 2 < 40**2
    spots = {"Deep": (48, 48), "Lobar": (20, 40), "Subtentorial": (80, 48)}
    for name in ("no", *LOCATIONS):
        class_folder = folder / ("no" if name == "no" else f"yes/{name}")
        class_folder.mkdir(parents=True)
        for subject in range(subjects if name != "no" else 2 * subjects):
            brain = np.kron(rng.integers(60, 150, (12, 12)), np.ones((8, 8), int))  # one a subject
            for i in range(slices):
                image = head * (brain + rng.integers(0, 30, head.shape))
                if name != "no":
                    row, column = spots[name]
                    image[(x - column) ** 2 + (y - row) ** 2 < 64] = 250
                stem = f"{100 * subject + i:04d}-1Roe Jane{subject}d"
                if name != "no":
                    admission = f"{LOCATIONS.index(name)}{subject:04d}"
                    stem = f"{100 * subject + i:04d}-2020_filtered-1Doe John-{admission}"
                Image.fromarray(image.astype(np.uint8)).save(class_folder / f"{stem}.png")
    (folder / "phantom.json").write_text('{"phantom": true}')
    return folder
