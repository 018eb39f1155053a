"""Paints one slab of a synthetic head, each structure over the one before.

Phantom results say nothing about patients.
"""

import numpy as np
from jaxtyping import Float32

from data_builder.phantom.anatomy import (
    base,
    brainstem,
    ellipsoid,
    enclose,
    infratentorial,
    petrous,
    petrous_line,
    rod,
    tentorium,
    vault,
    ventricles,
)
from data_builder.phantom.bleeds import Bleed, blob, push, room
from data_builder.phantom.canvas import (
    EDGE_MM,
    Canvas,
    Field,
    both,
    box_around,
    coverage_of,
    enlarge,
    union,
)
from data_builder.phantom.head import DIFFICULTY, Head, Points, Tissue


class Slab:
    """The position of one slice in the head, and the surfaces that many structures refer to.

    Attributes:
      at: head coordinates of the coarse grid at both Gauss points, each [2, rows, columns].
      inner: the same points before the bleed displaced them; brain is defined there.
      side: `inner`, folded.
      dome, base, bowl, under, folds: `vault`, `base`, `cavity` and `infratentorial` there, and
        the folding of the cortex at the slab's middle [rows, columns].
    """

    def __init__(self, at: Points, head: Head, bleed: Bleed | None) -> None:
        self.at = at
        self.inner = push(at, bleed) if bleed else at
        self.side = self.inner.folded()
        self.dome = vault(at)
        self.base = base(at)
        self.bowl = enclose(at, self.dome, self.base)
        self.under = infratentorial(self.inner)
        self.folds = head.folds(middle(self.inner))
        self._low, self._high = float(at.z.min()) - 4, float(at.z.max()) + 4

    def near(self, low: float, high: float) -> bool:
        """Whether the slab comes within 4 mm of heights `low` to `high`."""
        return self._high > low and self._low < high


def middle(p: Points) -> Points:
    """The points halfway between the two Gauss points."""
    return Points(*(0.5 * (a[0] + a[1]) for a in p))


def paint_soft_tissue(canvas: Canvas, slab: Slab, head: Head) -> None:
    """Paints the head's outline with face and ears: muscle under skin and fat."""
    p, q = slab.at, slab.at.folded()
    temple = 8 * np.exp(-(((p.y + 40) / 20) ** 2) - ((p.z + 14) / 24) ** 2)
    skin = slab.dome - (head.skull_mm + head.scalp_mm + temple)
    if slab.near(-120.0, 15.0):
        face = ellipsoid(p, (0.0, -44.0, -64.0), (66.0, 58.0, 75.0))
        nose = rod(p, (0.0, -89.0, -26.0), (0.0, -96.0, -60.0), (7.0, 13.0))
        neck = ellipsoid(p, (0.0, 38.0, -85.0), (66.0, 62.0, 62.0))
        skin = union(skin, face, nose, neck)
    canvas.paint(skin, Tissue.SCALP, 40.0)
    canvas.paint(both(skin + 2.0, -2.0 - head.scalp_mm * 0.55 - skin), Tissue.FAT, -85.0)
    if slab.near(-120.0, -28.0):  # fat between the muscles of face and neck
        between = both(4 * (0.9 - slab.folds) + 0 * p.x, skin + 6.0, p.z + 26)
        canvas.paint(between, Tissue.FAT, -75.0)
    if slab.near(-62.0, -4.0):
        # A leaf that leaves the head at the ear canal and leans back, its rim rolled.
        lean = (q.x - 76) * 0.66 - (q.y - 12) * 0.75
        leaf = both(np.abs(lean) - 2.2, ellipsoid(q, (82.0, 18.0, -32.0), (16.0, 20.0, 26.0)))
        rim = both(
            np.abs(ellipsoid(q, (83.0, 20.0, -32.0), (12.0, 13.0, 23.0))) - 1.5, np.abs(lean) - 4.5
        )
        canvas.paint(union(leaf, rim), Tissue.SCALP, 25.0)


def paint_bone(canvas: Canvas, slab: Slab, head: Head) -> None:
    """Paints the face, the skull with its marrow, and the base with its air cells."""
    p, q = slab.at, slab.at.folded()
    texture = head.cells(middle(p))
    dense = head.bone_hu + 60 * texture
    if slab.near(-90.0, -14.0):
        _paint_face(canvas, p, q, dense)
    thick = head.skull_mm * (1 + 0.25 * np.tanh((np.abs(p.y) - 50) / 20))
    table = both(slab.dome - thick, slab.base - 5.5 - p.z)
    marrow = np.exp(-(((slab.dome[0] - 0.5 * thick[0]) / 1.4) ** 2))
    canvas.paint(table, Tissue.SKULL, dense - 0.42 * head.bone_hu * marrow)
    if slab.near(-95.0, -10.0):
        skull_base = union(
            petrous(p),
            ellipsoid(p, (0.0, -20.0, -36.0), (17.0, 20.0, 14.0)),
            rod(p, (0.0, -9.0, -26.0), (0.0, 6.0, -64.0), (6.0, 6.0)),
            ellipsoid(q, (56.0, 30.0, -46.0), (13.0, 16.0, 22.0)),
        )
        canvas.paint(skull_base, Tissue.SKULL, dense * 1.25)
        comb = 2.4 * texture
        air = union(
            both(ellipsoid(q, (56.0, 31.0, -42.0), (11.0, 13.0, 18.0)), 0.2 - comb + 0 * p.x),
            both(ellipsoid(p, (0.0, -58.0, -36.0), (12.0, 30.0, 16.0)), -1.0 - comb + 0 * p.x),
            both(ellipsoid(p, (0.0, -20.0, -37.0), (12.0, 14.0, 9.0)), 0.8 - np.abs(p.x)),
            ellipsoid(q, (27.0, -62.0, -62.0), (14.5, 17.0, 15.0)),
            ellipsoid(p, (0.0, -30.0, -66.0), (9.0, 11.0, 15.0)),
            rod(q, (56.0, 14.0, -38.0), (72.0, 14.0, -37.0), (3.0, 3.2)),
        )
        canvas.paint(air, Tissue.AIR_CELL, -960.0)
    if slab.near(-25.0, 16.0):
        wide = 18 * head.frontal_sinus
        frontal = ellipsoid(p, (0.0, -85.0, -14.0), (wide, 3.5, wide))
        canvas.paint(both(frontal, 0.9 - np.abs(p.x - 3)), Tissue.AIR_CELL, -960.0)


def _paint_face(
    canvas: Canvas, p: Points, q: Points, dense: Float32[np.ndarray, "rows columns"]
) -> None:
    """Paints cheek bones and jaw, the nasal block, and orbits with their eyes."""
    bones = union(
        rod(q, (50.0, -66.0, -46.0), (66.0, -30.0, -46.0), (5.0, 2.5)),
        rod(q, (52.0, -4.0, -50.0), (50.0, -8.0, -90.0), (6.0, 5.0)),
        ellipsoid(q, (27.0, -62.0, -62.0), (16.5, 19.0, 17.0)),
        both(ellipsoid(q, (31.0, -62.0, -32.0), (20.5, 33.0, 18.0)), -82 - p.y),
        ellipsoid(p, (0.0, -56.0, -36.0), (15.0, 36.0, 20.0)),
    )
    canvas.paint(bones, Tissue.SKULL, dense * 0.75)
    orbit = union(
        ellipsoid(q, (30.0, -62.0, -34.0), (18.0, 32.0, 15.0)),
        ellipsoid(q, (31.0, -86.0, -33.0), (14.0, 12.0, 13.0)),
    )
    canvas.paint(orbit, Tissue.FAT, -80.0)
    canvas.paint(ellipsoid(q, (31.0, -82.0, -33.0), (12.5, 12.5, 12.5)), Tissue.SCALP, 14.0)
    canvas.paint(ellipsoid(q, (31.0, -91.5, -33.0), (5.0, 2.2, 5.0)), Tissue.SCALP, 75.0)
    nerve = rod(q, (30.0, -70.0, -33.0), (13.0, -34.0, -30.0), (2.2, 2.2))
    muscles = union(
        rod(q, (44.0, -80.0, -33.0), (22.0, -40.0, -32.0), (2.4, 2.4)),
        rod(q, (19.0, -80.0, -33.0), (17.0, -40.0, -32.0), (2.0, 2.0)),
    )
    canvas.paint(union(nerve, muscles), Tissue.SCALP, 40.0)


def paint_brain(canvas: Canvas, slab: Slab, head: Head) -> None:
    """Paints everything inside the skull but the bleed."""
    p, q, bowl = slab.inner, slab.side, slab.bowl
    white, size, gap = head.white_hu, head.ventricle, head.gap_mm
    canvas.paint(bowl, Tissue.CSF, 7.0)
    surface = bowl + gap
    _paint_cortex(canvas, slab, head, surface)
    if slab.near(-30.0, 35.0):
        nuclei = union(
            ellipsoid(q, (10.5, 11.0, 7.0), (8.5, 14.0, 9.5)),
            ellipsoid(q, (25.0, 0.0, 3.0), (6.0, 16.0, 10.0)),
            ellipsoid(q, (18.5, 1.0, 2.0), (4.0, 8.0, 6.0)),
            rod(q, (12.0, -26.0, 10.0), (17.0, -5.0, 20.0), (5.0, 3.0)),
        )
        canvas.paint(nuclei, Tissue.GREY, head.grey_hu)
        sylvian = union(
            ellipsoid(q, (40.0 + size, 0.0, 4.0), (1.4 + head.sulcus_mm, 18.0, 13.0)),
            ellipsoid(q, (53.0, -17.0, 0.0), (15.0, 1.6 + head.sulcus_mm, 9.0)),
            ellipsoid(q, (54.0, 12.0, 13.0), (15.0, 8.0, 1.2 + head.sulcus_mm)),
        )
        canvas.paint(both(sylvian + 1.3 * slab.folds, bowl), Tissue.CSF, 9.0)
    if slab.near(-95.0, 12.0):
        cisterns = union(
            ellipsoid(p, (0.0, -9.0, -17.0), (9 + 1.2 * gap, 7 + 0.8 * gap, 6.5)),
            ellipsoid(p, (0.0, 14.0, -9.0), (16.0 + 0.6 * gap, 13.0 + 0.6 * gap, 13.0)),
            ellipsoid(p, (0.0, 31.0, -1.0), (10.0, 4 + gap, 7.0)),
            ellipsoid(p, (0.0, 5.0, -30.0), (19.0, 12.0, 15.0)),
            ellipsoid(p, (0.0, 58.0, -60.0), (10 + 3 * gap, 10.0, 10.0)),
            rod(p, (0.0, 26.0, -56.0), (0.0, 29.0, -95.0), (14.0, 13.0)),
        )
        canvas.paint(both(cisterns + 0.9 * slab.folds, bowl), Tissue.CSF, 8.0)
        canvas.paint(both(brainstem(p), bowl + 0.5), Tissue.WHITE, white + 3)
        core = ellipsoid(q, (20.0, 44.0, -35.0), (14.0, 13.0, 8.0))
        canvas.paint(both(core, slab.under + 3), Tissue.WHITE, white + 1)
    if slab.near(-50.0, 40.0):
        canvas.paint(both(ventricles(p, size), surface + 2), Tissue.CSF, 5.0)
    _paint_dura(canvas, slab)
    _paint_calcifications(canvas, p, q, head)


def _paint_cortex(canvas: Canvas, slab: Slab, head: Head, surface: Field) -> None:
    """Paints brain with its sulci: zero lines of a smooth random field, 16 mm deep."""
    box = box_around(np.any(surface < 2, axis=0))
    if box is None:
        return
    canvas.paint(surface, Tissue.GREY, head.grey_hu)
    mid = Points(*(a[box] for a in middle(slab.inner)))
    depth = enlarge(-0.5 * (surface[0] + surface[1])[box])
    below = 0.5 * (slab.under[0] + slab.under[1])[box]
    above_callosum = np.sqrt((mid.y / 58) ** 2 + ((mid.z - 4) / 27) ** 2)
    cleft = enlarge((1 - above_callosum) * 30)  # the midline cleft is open where negative
    axis = np.abs(enlarge(mid.x)) + np.maximum(cleft, 0)
    fold = np.abs(enlarge(slab.folds[box])) * 3.0
    fold += np.maximum(depth - 9, 0) * 0.5
    width = head.sulcus_mm * np.clip(1.3 - depth / 14, 0, 1.3)
    supra = np.clip(enlarge(below) * 0.5 + 0.5, 0, 1)
    cortex = np.minimum(np.minimum(depth, fold), axis - 0.5 * head.gap_mm) - 3.6
    canvas.lay(box, np.minimum(0.5 + cortex / 1.6, supra), Tissue.WHITE, head.white_hu)
    brain = np.clip(depth + 0.5, 0, 1) * supra
    sulcus = 0.5 + (width - fold) / EDGE_MM
    gap = 0.5 + (0.6 + 0.45 * head.gap_mm - axis) / EDGE_MM
    canvas.lay(box, np.minimum(np.maximum(sulcus, gap), brain), Tissue.CSF, 9.0)
    if (below < 0).any():
        folia = enlarge(head.folia(mid))
        inside = np.clip(depth - 3, 0, 1) * (1 - supra)
        canvas.lay(box, inside * np.clip(0.4 + 0.8 * folia, 0, 1), Tissue.WHITE, head.white_hu + 4)
    falx = np.minimum(0.5 + (0.7 - np.abs(enlarge(mid.x))) / EDGE_MM, 0.5 - (cleft + 2) / 3)
    canvas.lay(box, np.minimum(falx, supra * np.clip(depth + 3, 0, 1)), Tissue.DURA, 54.0)


def _paint_dura(canvas: Canvas, slab: Slab) -> None:
    """Paints the tentorium, and the sagittal sinus where the falx meets the skull: 50 to 60 HU."""
    p, bowl = slab.inner, slab.bowl
    if slab.near(-40.0, 10.0):
        notch = 26 - np.sqrt((p.x * 1.5) ** 2 + (p.y - 8) ** 2)
        sheet = both(np.abs(tentorium(p)) - 0.8, 6 - petrous_line(p), notch)
        canvas.paint(both(sheet, bowl + 0.3), Tissue.DURA, 54.0)
    sinus = both(np.sqrt(p.x**2 + (slab.dome + 1) ** 2) - 4.0, -30 - p.y, -8 - p.z, bowl)
    canvas.paint(sinus, Tissue.DURA, 56.0)


def _paint_calcifications(canvas: Canvas, p: Points, q: Points, head: Head) -> None:
    """Paints calcified pineal, choroid plexus, falx and ganglia: bright, and no bleed."""
    parts = {
        "pineal": [ellipsoid(p, (0.0, 27.0, 5.0), (2.6, 3.2, 3.4))],
        "choroid": [ellipsoid(q, (25.0, 35.0, 12.0), (2.6, 4.5, 4.0))],
        "ganglia": [ellipsoid(q, (18.0, 1.0, 2.0), (2.6, 5.0, 3.2))],
        "falx": [ellipsoid(p, (0.0, y, z), (1.9, a, b)) for y, z, a, b in head.falx_patches],
    }
    for name, fields in parts.items():
        if name in head.calcified:
            canvas.paint(union(*fields), Tissue.CALCIFICATION, head.calcification_hu)


def paint_bleed(canvas: Canvas, slab: Slab, head: Head, bleed: Bleed) -> None:
    """Paints the dark rim of oedema, then the bleed, over all else.

    A slice that would show fewer than `DIFFICULTY.bleed_pixels` pixels of blood gets no blood.
    """
    reach = 2.2 * max(bleed.radii) + bleed.oedema_mm + 4
    if not slab.near(bleed.centre[2] - reach, bleed.centre[2] + reach):
        return
    limit = room(slab.at, slab.bowl, head, bleed.location)
    body = blob(slab.at, bleed)
    if bleed.oedema_mm:
        rim = both(body - bleed.oedema_mm, limit + 3)
        canvas.paint(rim, Tissue.OEDEMA, head.white_hu - 8)
    field = both(body, limit)
    visible = enlarge(coverage_of(field)) >= DIFFICULTY.bleed_coverage
    if np.count_nonzero(visible) < DIFFICULTY.bleed_pixels:
        return
    mottle = bleed.hu + 2.0 * bleed.fine(middle(slab.at))
    low, high = DIFFICULTY.bleed_hu
    canvas.paint(field, Tissue.BLEED, np.clip(mottle, low, high), DIFFICULTY.bleed_coverage)
