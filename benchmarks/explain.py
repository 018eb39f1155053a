"""Do heat maps point at the bleed? On phantoms, which know where theirs is.

    python benchmarks/explain.py --workdir RUN [--subjects 60] [--seed 100] [--pictures DIR]

New phantom subjects (of another seed than the run's) are scanned, cleaned and explained, by every
method that the model has, with its own weights and with random ones (the sanity check of Adebayo
et al. 2018, arXiv 1810.03292). A slice's share is how much of its map's mass, over the whole
image, lies on the bleed; chance is the bleed's part of the head's area. Prints Markdown; 95%
intervals over subjects. Phantom results say nothing about patients.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from data_builder.cleaning.clean import clean_slice, head_mask
from data_builder.phantom import Tissue, make_study, plan
from data_builder.progress import track
from data_builder.records import LOCATIONS
from data_builder.shards.images import resize
from dtvit_jax.data.crop import Crop
from dtvit_jax.evaluation import bootstrap
from dtvit_jax.models.variables import split_model
from dtvit_jax.prediction.attribution import HEADS, METHODS
from dtvit_jax.prediction.heat_maps import heat_maps, methods_of, overlay, to_slice
from dtvit_jax.runs.trained_run import TrainedRun
from dtvit_jax.training.network import make_crop, make_model

BATCH = 32
RESAMPLES = 4000


class Slices(NamedTuple):
    """ICH slices of phantoms, a row each."""

    cleaned: np.ndarray  # uint8 [n, 512, 512]
    stored: np.ndarray  # uint8 [n, size, size]
    bleed: np.ndarray  # bool [n, 512, 512]
    head: np.ndarray  # bool [n, 512, 512]
    subject: np.ndarray  # index
    location: np.ndarray  # of each subject, index


def make_slices(subjects: int, seed: int, size: int) -> Slices:
    """Every slice with a bleed of the first study of each ICH subject among `subjects`."""
    rows, locations = [], []
    visits = [v for v in plan(subjects, seed) if v.location and not v.visit]
    for number, visit in enumerate(track(visits, len(visits), "phantom studies")):
        study = make_study(seed, visit.subject, visit.location)
        locations.append(LOCATIONS.index(visit.location or ""))
        for i in np.flatnonzero(study.hemorrhage):
            hu, spacing = study.hu[i].astype(np.float32), study.spacing[1:]
            cleaned = clean_slice(hu, "robust", spacing)
            stored = np.asarray(resize(Image.fromarray(cleaned), size))
            bleed = study.classes[i] == Tissue.BLEED
            rows.append((cleaned, stored, bleed, head_mask(hu, "robust", spacing), number))
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return Slices(*columns, np.array(locations))


def maps_of(network, params, state, slices: Slices, head: str, method: str) -> np.ndarray:
    """float32 [n, image_size, image_size]: the answer explained is ICH, or the true location."""
    n = len(slices.stored)
    classes = np.ones(n) if head == "hemorrhage" else slices.location[slices.subject]
    found = []
    for start in range(0, n, BATCH):
        part = np.arange(start, start + BATCH) % n  # the last batch is filled: one compilation
        heat = heat_maps(
            network,
            params,
            state,
            slices.stored[part],
            head=head,
            classes=classes[part].astype(np.int32),
            method=method,
        )
        found.append(np.asarray(heat))
    return np.concatenate(found)[:n]


def shares(slices: Slices, maps: np.ndarray, crop: Crop) -> np.ndarray:
    """Of each slice, the part of its map's mass that lies on the bleed."""
    found = np.zeros(len(maps))
    for i, (heat, bleed) in enumerate(zip(maps, slices.bleed, strict=True)):
        full = to_slice(heat, slices.stored[i], crop, bleed.shape)
        found[i] = full[bleed].sum() / max(full.sum(), 1e-12)
    return found


def intervals(slices: Slices, values: np.ndarray, hit: np.ndarray) -> tuple[str, str]:
    """The part of slices that hit, and the median of values, each with its interval in words."""
    order = np.argsort(values)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(axis=1)
        running = weights[:, order].cumsum(axis=1)
        middle = (running >= 0.5 * total[:, None]).argmax(axis=1)
        return {"hit": weights @ hit / total, "median": values[order][middle]}

    found = bootstrap.bootstrap(statistic, slices.subject, slices.location, RESAMPLES)
    return tuple(
        f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"
        if np.isfinite(one.low)
        else f"{one.value:.2f} (no slice differs)"
        for one in (found["hit"], found["median"])
    )


def alike(slices: Slices, one: np.ndarray, other: np.ndarray, step: int) -> float:
    """Median over slices of Spearman's correlation of two maps, at cells of `step` in the head."""
    found = []
    inside = np.stack([np.asarray(Image.fromarray(h).resize(one.shape[1:])) for h in slices.head])
    for a, b, head in zip(one, other, inside, strict=True):
        at = (slice(step // 2, None, step),) * 2
        seen = head[at]
        found.append(spearmanr(a[at][seen], b[at][seen]).statistic)
    return float(np.nanmedian(found))


def picture(slices: Slices, maps: dict[str, np.ndarray], crop: Crop, path: Path) -> None:
    """One slice of each location: the CT, the bleed, and the map of each method over the CT."""
    rows = []
    for place in range(len(LOCATIONS)):
        mine = np.flatnonzero(slices.location[slices.subject] == place)
        at = mine[np.argsort(slices.bleed[mine].sum((1, 2)))[len(mine) // 2]]  # of middling size
        gray = slices.cleaned[at]
        tiles = [overlay(gray, np.zeros(gray.shape)), overlay(gray, slices.bleed[at] * 1.0)]
        backs = [to_slice(m[at], slices.stored[at], crop, gray.shape) for m in maps.values()]
        tiles += [overlay(gray, back) for back in backs]
        rows.append(np.concatenate([tile[32:-32, 32:-32] for tile in tiles], axis=1))
    whole = Image.fromarray(np.concatenate(rows))
    whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.LANCZOS).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="a phantom-trained run")
    parser.add_argument("--subjects", type=int, default=60, help="phantoms; 6 of 10 have ICH")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--pictures", type=Path, help="folder for a picture")
    args = parser.parse_args()
    run = TrainedRun(args.workdir)
    config = run.config
    if int(config.data.seed) == args.seed:
        parser.error("--seed is the run's own: its subjects are no new ones")
    crop = make_crop(config)
    network, params, state = run.model()
    config.seed = config.seed + 1
    _, random, random_state = split_model(make_model(config))
    slices = make_slices(args.subjects, args.seed, int(config.data.size))
    chance = slices.bleed.sum((1, 2)) / slices.head.sum((1, 2))
    print(
        f"{config.model.name}: {len(chance)} ICH slices of {len(slices.location)} subjects; "
        f"chance (median) {np.median(chance):.4f}\n"
    )
    print("| method | head | weights | slices above chance | median share / chance | rank corr. |")
    print("|---|---|---|---|---|---|")
    shown = {}
    name = config.model.name
    step = int(name.split("vit_")[1].lstrip("abcdefghijklmnopqrstuvwxyz")) if "vit" in name else 16
    for method in methods_of(params):
        for head in HEADS if method != "rollout" else ("any",):
            what = head if head in HEADS else HEADS[0]
            own = maps_of(network, params, state, slices, what, method)
            other = maps_of(network, random, random_state, slices, what, method)
            shown[f"{method} {head}"] = own
            for weights, maps in (("trained", own), ("random", other)):
                share = shares(slices, maps, crop)
                hit, median = intervals(slices, share / chance, share > chance)
                likeness = "" if maps is own else f"{alike(slices, own, other, step):.2f}"
                print(
                    f"| {METHODS[method]} | {head} | {weights} | {hit} | {median} | {likeness} |",
                    flush=True,
                )
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        picture(slices, shown, crop, args.pictures / f"heat_{name}.png")


if __name__ == "__main__":
    main()
