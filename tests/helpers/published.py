from pathlib import Path

import numpy as np
from PIL import Image

LOCATIONS = ("Deep", "Lobar", "Subtentorial")


def write_published(folder: Path, subjects: int = 4, slices: int = 3) -> Path:
    """A folder in the published layout: a disc (the head), with a bright spot where ICH is."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    head = (x - 48) ** 2 + (y - 48) ** 2 < 40**2
    spots = {"Deep": (48, 48), "Lobar": (20, 40), "Subtentorial": (80, 48)}
    for name in ("no", *LOCATIONS):
        place = folder / ("no" if name == "no" else f"yes/{name}")
        place.mkdir(parents=True)
        for subject in range(subjects if name != "no" else 2 * subjects):
            brain = np.kron(rng.integers(60, 150, (12, 12)), np.ones((8, 8), int))  # its own
            for i in range(slices):
                image = head * (brain + rng.integers(0, 30, head.shape))
                if name != "no":
                    row, column = spots[name]
                    image[(x - column) ** 2 + (y - row) ** 2 < 64] = 250
                stem = f"{100 * subject + i:04d}-1Roe Jane{subject}d"
                if name != "no":
                    admission = f"{LOCATIONS.index(name)}{subject:04d}"
                    stem = f"{100 * subject + i:04d}-2020_filtered-1Doe John-{admission}"
                Image.fromarray(image.astype(np.uint8)).save(place / f"{stem}.png")
    return folder
