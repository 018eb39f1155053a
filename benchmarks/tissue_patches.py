"""Counts patches that hold tissue, the padding of batches of them, and the cost of the search.

    python benchmarks/tissue_patches.py SRC [--patch 16] [--image_size 224]
    python benchmarks/tissue_patches.py CLEANED... --picture FILE.png

SRC is a folder of 8-bit slices (any depth; JPG or PNG), such as the published layout or what
`data_builder clean` made. Each slice is turned as the paper's recipe draws it, once. 'exact' counts
the patches of the transformed slice, as the device computes it, that have a pixel above 10;
'kept' those that the host keeps. --picture draws some slices of each folder with the patches that
are left out darkened.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import vit_l
from data_builder.shards.images import resize
from dtvit_jax.data.augment import PARAMETERS, sharpen, warp
from dtvit_jax.data.crop import centre_crop
from dtvit_jax.data.packing import SAMPLED_SLICES, choose_levels
from dtvit_jax.data.tissue import Tissue
from dtvit_jax.training.setup import make_augmentation

STORED = 256


def slices(folder: Path) -> np.ndarray:
    """All images in a folder as they are stored in shards, uint8 [n, 256, 256]."""
    from PIL import Image

    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return np.stack([np.asarray(resize(Image.open(p).convert("L"), STORED)) for p in files])


def exact(images: np.ndarray, rows: np.ndarray, tissue: Tissue) -> np.ndarray:
    """Patches of the device's own transform with a pixel above the threshold."""
    size, patch, column = tissue.image_size, tissue.patch, PARAMETERS.index

    @jax.jit
    def gray(images: jax.Array, rows: jax.Array) -> jax.Array:
        x = warp(centre_crop(images, size).astype(jnp.float32), rows)
        return sharpen(x, rows[:, column("sharpness")])

    batches, side = [], size // patch
    for start in range(0, len(images), 64):
        x = np.asarray(gray(images[start : start + 64], rows[start : start + 64]))
        most = x.reshape(-1, side, patch, side, patch).max((2, 4))
        batches.append((most > tissue.threshold).reshape(len(x), -1))
    return np.concatenate(batches)


def padding(counts: np.ndarray, batch: int, patches: int) -> str:
    """What random batches need above their patches, and how often each level is taken."""
    rng = np.random.default_rng(1)
    levels = choose_levels(rng.permutation(counts)[:SAMPLED_SLICES], batch, patches)
    taken, tokens, attention = np.zeros(len(levels), int), [], []
    for _ in range(500):
        drawn = rng.choice(counts, (1, batch))
        which = next(i for i, level in enumerate(levels) if level.fits(drawn))
        taken[which] += 1
        tokens.append((levels[which].tokens / drawn.sum(), levels[which].tokens / patches / batch))
        of_sets = [n * n for n in levels[which].lengths]
        attention.append(np.mean(of_sets) / (patches + 1) ** 2)
    more, part = np.mean(tokens, axis=0)
    return (
        f"batch {batch:3d}: {100 * (more - 1):4.1f}% padding, {part:.3f} of all tokens, "
        f"{np.mean(attention):.3f} of all token pairs; levels {[v.tokens for v in levels]}, "
        f"taken {taken.tolist()}"
    )


def picture(folders: list[Path], tissue: Tissue, path: Path, columns: int = 6) -> None:
    """Slices spread over each folder, a row a folder; patches left out are darkened and tinted."""
    figure, axes = plt.subplots(
        len(folders), columns, figsize=(2 * columns, 2.2 * len(folders)), squeeze=False
    )
    side, patch = tissue.image_size // tissue.patch, tissue.patch
    for row, folder in zip(axes, folders, strict=True):
        images = slices(folder)
        chosen = np.linspace(0, len(images) - 1, columns).astype(int)
        for axis, image in zip(row, images[chosen], strict=True):
            kept = tissue.kept(image)
            of_pixel = np.kron(kept.reshape(side, side), np.ones((patch, patch)))[..., None]
            edge = (image.shape[0] - tissue.image_size) // 2
            gray = image[edge : edge + tissue.image_size, edge : edge + tissue.image_size]
            shown = np.repeat(gray[..., None] / 255.0, 3, axis=2)
            axis.imshow(np.where(of_pixel, shown, 0.35 * shown + [0.0, 0.12, 0.3]))
            axis.set_title(f"{kept.sum()} of {tissue.patches}", fontsize=9)
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="SRC")
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--threshold", type=float, default=10.0)
    parser.add_argument("--margin", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    tissue = Tissue(args.image_size, args.patch, args.threshold, args.margin)
    if args.picture:
        picture(args.folders, tissue, args.picture)
        return
    augmentation = make_augmentation(vit_l.get_config())
    for folder in args.folders:
        images = slices(folder)
        rows = augmentation.draw(0, 0, len(images))
        kept = np.stack([tissue.kept(*pair) for pair in zip(images, rows, strict=True)])
        device = exact(images, rows, tissue)
        counts = kept.sum(1)
        print(f"{len(images)} slices, {tissue.patches} patches each")
        print(
            f"kept: mean {counts.mean():.1f}, median {np.median(counts):.0f}, "
            f"95th percentile {np.percentile(counts, 95):.0f}, most {counts.max()}"
        )
        more = 100 * (kept.sum() / device.sum() - 1)
        print(
            f"exact: mean {device.sum(1).mean():.1f}; kept {more:.2f}% more; "
            f"lost {int((device & ~kept).sum())}"
        )
        for batch in (4, 16, 32, 64):
            print(padding(counts, batch, tissue.patches))
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            for image, row in zip(images[:200], rows, strict=False):
                tissue.kept(image, row)
            taken.append((time.perf_counter() - start) / len(images[:200]))
        print(f"host: {1e3 * statistics.median(taken):.3f} ms a slice, one thread")


if __name__ == "__main__":
    main()
