"""Draws what each augmentation does to a slice.

    python -m benchmarks.augmentation_figure IMAGE IMAGE --out augmentation.png

The first image is a cleaned slice (8-bit, any size); the second is what mixup blends it with. Each
row shows four draws of one option at a visible strength; the last is the paper's recipe.
"""

import argparse
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from data_builder.errors import InputError, run_command
from data_builder.shards.images import resize
from dtvit_jax.data import augment
from dtvit_jax.data.augment import Augmentation, transform

SIZE, IMAGE_SIZE, DRAWS = 256, 224, 4
ROWS = {
    "rotation 15": {"rotation": 15.0},
    "sharpness 2": {"sharpness": 2.0, "sharpness_probability": 1.0},
    "flip_probability 0.5": {"flip_probability": 0.5},
    "zoom 0.15": {"zoom": 0.15},
    "shift 0.1": {"shift": 0.1},
    "intensity 0.3": {"intensity": 0.3},
    "noise 0.1": {"noise": 0.1},
    "mixup 0.8": {"mixup": 0.8},
    "the paper's": {"rotation": 15.0, "sharpness": 2.0, "sharpness_probability": 0.5},
}
_OFF = {
    "rotation": 0.0,
    "sharpness": 1.0,
    "sharpness_probability": 0.0,
    "flip_probability": 0.0,
    "zoom": 0.0,
    "shift": 0.0,
    "intensity": 0.0,
}


def augmented(
    images: UInt8[np.ndarray, "2 side side"], options: dict[str, float]
) -> Float[np.ndarray, "draws pixels pixels"]:
    """Draws `options` DRAWS times on the first image, mixed with the second; values 0 to 1."""
    drawn = Augmentation(**{**_OFF, **options})
    # The batch is each draw and its partner, half a batch further, as in training.
    rows = drawn.draw(0, 0, 2 * DRAWS)
    shown = transform(
        jnp.repeat(jnp.asarray(images), DRAWS, axis=0),
        jnp.asarray(rows),
        image_size=IMAGE_SIZE,
        channels=1,
        windows=((0.0, 255.0),),
        mean=(0.0,),
        std=(1.0,),
        noise=drawn.noise > 0,
    )
    if drawn.mixup:
        shown = augment.mix(shown, augment.shares(jnp.asarray(rows)))
    return np.asarray(shown[:DRAWS, ..., 0])


def draw(images: UInt8[np.ndarray, "2 side side"]) -> Figure:
    """Draws a row with the two slices as stored, then a row for each of ROWS."""
    figure = Figure(figsize=(1 + 1.5 * DRAWS, 1.5 * (len(ROWS) + 1)), dpi=80)
    cells = figure.subplots(len(ROWS) + 1, DRAWS, squeeze=False)
    unchanged = augmented(images, {})[:1], augmented(images[::-1].copy(), {})[:1]
    pictures = {"as stored": np.concatenate(unchanged)}
    pictures |= {name: augmented(images, options) for name, options in ROWS.items()}
    for (name, shown), row in zip(pictures.items(), cells, strict=True):
        for cell in row:
            cell.set_axis_off()
        for picture, cell in zip(shown, row, strict=False):
            cell.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        label = name.replace(" ", "\n")
        at = row[0].transAxes
        row[0].text(-0.08, 0.5, label, fontsize=8, transform=at, ha="right", va="center")
    figure.subplots_adjust(left=0.16, right=1, top=1, bottom=0, wspace=0.02, hspace=0.02)
    return figure


def gray(figure: Figure) -> Image.Image:
    """Renders the figure in gray, which halves the file's size."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L")


def read(path: Path) -> UInt8[np.ndarray, "side side"]:
    """Reads a slice at the shards' size. Raises InputError if it is no readable image."""
    try:
        with Image.open(path) as image:
            return np.asarray(resize(image.convert("L"), SIZE))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} is not a readable image: give a cleaned slice") from error


def main(argv: list[str] | None = None) -> int:
    """Writes the picture and returns the exit status: 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.augmentation_figure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", type=Path, nargs=2, metavar="IMAGE")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write, PNG")
    args = parser.parse_args(argv)

    def command() -> int:
        picture = gray(draw(np.stack([read(path) for path in args.images])))
        try:
            picture.save(args.out, format="PNG", optimize=True)
        except OSError as error:
            raise InputError(f"cannot write {args.out}: {error.strerror}") from error
        print(args.out)
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
