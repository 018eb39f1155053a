"""Measures how often the review page's suggested drops are right, on phantoms of known truth.

The phantoms' own scans begin at the posterior fossa; here each begins 35 mm lower, so that there
is something below the skull base, and every study gets two slices again: one with the same pixels,
one scanned anew (other noise). The truth, by area of tissues in the unscanned head:

- below the skull base: brain and CSF cover under 20 cm2 (the foramen magnum is about 10), and the
  slice lies below the fullest one;
- above the brain: brain tissue covers under 1 cm2, above the fullest one, and some head is left;
- empty: no pixel of the head; repeated: one of the two made so.

The rules' limits were chosen on seed 0. Nothing here says anything about patients.

    python benchmarks/suggestions.py [--subjects 20] [--seed 1]
"""

import argparse

import numpy as np

from data_builder.cleaning import clean
from data_builder.phantom import Visit, plan, scan
from data_builder.phantom.bleeds import sample_bleed
from data_builder.phantom.canvas import STEP, Canvas
from data_builder.phantom.head import HEAD_CLASSES, Tissue, sample_head
from data_builder.progress import track
from data_builder.records import pixel_digest
from data_builder.review.suggestions import REASONS, StackSlice, features, suggest

LOWER = 7  # slices
TISSUE = (Tissue.GREY, Tissue.WHITE, Tissue.BLEED, Tissue.OEDEMA)
INSIDE = (*TISSUE, Tissue.CSF, Tissue.DURA)


def scanned(visit: Visit, seed: int) -> tuple[list[StackSlice], list[str], list[bool]]:
    """One study as the rules see it, the true reason of each slice, and which ones bleed."""
    head = sample_head(np.random.default_rng((seed, visit.subject, 0)))
    bleed = None
    if visit.location:
        drawn = np.random.default_rng((seed, visit.subject, 1))
        bleed = sample_bleed(drawn, head, visit.location, visit.visit)
    rng = np.random.default_rng((seed, visit.subject, 2, visit.visit))
    pose = scan._sample_pose(rng, head)
    holder, holder_hu = scan._holder(rng, pose, head)
    streaks, noise = scan._Streaks(rng), rng.uniform(4, 6)
    geometry = pose.geometry
    step = np.array((0, 0, scan.THICKNESS_MM / np.cross((1, 0, 0), geometry.column)[2]))
    lower = geometry.origins[0] + np.outer(np.arange(-LOWER, 0), step)
    origins = np.concatenate([lower, geometry.origins])
    again = rng.choice(np.arange(LOWER + 3, LOWER + 20), 2, replace=False)
    geometry = geometry._replace(origins=origins)
    pose = scan._Pose(pose.matrix, pose.centre, geometry, pose.circular)
    everywhere = (slice(0, scan.SIZE // STEP), slice(0, scan.SIZE // STEP))
    cm2 = geometry.pixel_mm**2 / 100
    stack, areas, bleeds = [], [], []
    order = sorted([*range(len(origins)), *again])
    for turn, index in enumerate(order):
        copied = turn and order[turn - 1] == index and index == again[0]
        if copied:
            stack.append(stack[-1])
        else:
            canvas = Canvas(scan.SIZE)
            canvas.lay(everywhere, holder.copy(), Tissue.HOLDER, holder_hu)
            scan._paint_head(canvas, scan._slab_points(pose, index), head, bleed, streaks)
            hu = np.rint(canvas.hu + scan._noise(rng, noise)).astype(np.float32)
            gray = clean.clean_slice(hu, "robust", (geometry.pixel_mm, geometry.pixel_mm))
            place = float(geometry.positions[index])
            stack.append(StackSlice(pixel_digest(gray), place, features(gray)))
        areas.append(
            [np.isin(canvas.classes, kinds).sum() * cm2 for kinds in (INSIDE, TISSUE, HEAD_CLASSES)]
        )
        bleeds.append(bool((canvas.classes == Tissue.BLEED).any()))
    fullest = int(np.argmax([inside for inside, _, _ in areas]))
    truth = []
    for turn, (inside, tissue, any_head) in enumerate(areas):
        reason = ""
        if not any_head:
            reason = "empty"
        elif turn and order[turn - 1] == order[turn]:
            reason = "repeated"
        elif turn < fullest and inside < 20:
            reason = "below the skull base"
        elif turn > fullest and tissue < 1:
            reason = "above the brain"
        truth.append(reason)
    return stack, truth, bleeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    visits = plan(args.subjects, args.seed)
    suggested: list[str] = []
    true: list[str] = []
    bled: list[bool] = []
    for visit in track(visits, len(visits), "studies"):
        stack, truth, bleeds = scanned(visit, args.seed)
        suggested += suggest(stack)
        true += truth
        bled += bleeds
    print(f"{len(suggested)} slices of {len(visits)} synthetic studies, seed {args.seed}\n")
    print("| suggested | slices that are so | suggested | right | precision | recall |")
    print("|---|---|---|---|---|---|")
    for reason in (*REASONS, "any of them"):
        one, other = (
            np.array([bool(word) if reason == "any of them" else word == reason for word in words])
            for words in (suggested, true)
        )
        right = int((one & other).sum())
        precision = f"{right / one.sum():.3f}" if one.any() else "none suggested"
        recall = f"{right / other.sum():.3f}" if other.any() else "there is none"
        print(f"| {reason} | {other.sum()} | {one.sum()} | {right} | {precision} | {recall} |")
    shown = [word for word, bleeds in zip(suggested, bled, strict=True) if bleeds]
    lost = sum(word not in ("", "repeated") for word in shown)
    print(f"\nOf {sum(bled)} slices that show a bleed, {lost} are suggested as showing no brain.")


if __name__ == "__main__":
    main()
