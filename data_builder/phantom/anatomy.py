"""Defines the anatomy of a synthetic head by implicit surfaces in millimetres.

No size was measured on a patient: they are textbook sizes rounded by eye, so that a slice looks
like a head CT at a glance. Phantom results say nothing about patients.

Head coordinates: x to the patient's left, y to the back, z to the crown (DICOM's patient axes),
origin between the lateral ventricles. A field is negative inside its structure and grows by
about 1 per millimetre, so that `field - 3` is the structure made 3 mm thicker.
"""

import numpy as np
from jaxtyping import Float32

from data_builder.phantom.head import Points


def ellipsoid(
    p: Points, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> Float32[np.ndarray, "*points"]:
    """Field of an ellipsoid with axes along x, y and z."""
    q = ((p.x - centre[0]) / radii[0]) ** 2
    q += ((p.y - centre[1]) / radii[1]) ** 2
    q += ((p.z - centre[2]) / radii[2]) ** 2
    return (np.sqrt(q) - 1) * float(np.cbrt(radii[0] * radii[1] * radii[2]))


def rod(
    p: Points,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radii: tuple[float, float],
) -> Float32[np.ndarray, "*points"]:
    """Field of a round rod whose radius goes from `radii[0]` at the start to `radii[1]`."""
    ux, uy, uz = (b - a for a, b in zip(start, end, strict=True))
    x, y, z = p.x - start[0], p.y - start[1], p.z - start[2]
    h = np.clip((x * ux + y * uy + z * uz) / (ux * ux + uy * uy + uz * uz), 0, 1)
    distance = np.sqrt((x - h * ux) ** 2 + (y - h * uy) ** 2 + (z - h * uz) ** 2)
    return distance - (radii[0] + h * (radii[1] - radii[0]))


def _step(v: Float32[np.ndarray, "*points"], width: float) -> Float32[np.ndarray, "*points"]:
    """A smooth step from 0 to 1 at v = 0."""
    return 0.5 + 0.5 * np.tanh(v / width)


def vault(p: Points) -> Float32[np.ndarray, "*points"]:
    """Field of the skull's inner table with the base left open: an egg, broad at the back."""
    temple = np.exp(-(((p.y + 42) / 22) ** 2) - ((p.z + 12) / 24) ** 2)
    rx = 66 * (1 + 0.06 * np.tanh(p.y / 40)) - 3.5 * temple
    rz = np.where(p.z > 0, np.float32(79), np.float32(125))
    # Squarer than an ellipsoid: broad forehead, flat top, steep walls.
    q = np.power(np.abs(p.x / rx), 2.25) + np.power(np.abs(p.y / 83), 2.25)
    q += np.power(np.abs(p.z / rz), 2.25)
    return (np.power(q, 1 / 2.25) - 1) * 72


def petrous_line(p: Points) -> Float32[np.ndarray, "*points"]:
    """Signed distance along y from the petrous ridges, positive in the posterior fossa."""
    return p.y - (-4 + 0.5 * np.abs(p.x))


def petrous(p: Points) -> Float32[np.ndarray, "*points"]:
    """Field of the two petrous pyramids, the densest bone of the head."""
    return rod(p.folded(), (15.0, 4.0, -33.0), (60.0, 26.0, -34.0), (5.0, 10.0))


def base(p: Points) -> Float32[np.ndarray, "*points"]:
    """Height z of the upper side of the skull base under each point: three fossae in steps."""
    ax = np.abs(p.x)
    front = -22 + 11 * np.exp(-(((ax - 30) / 17) ** 2) - ((p.y + 60) / 26) ** 2)
    bowl = -46 + 9 * ((ax - 38) / 22) ** 2 + 7 * ((p.y + 12) / 26) ** 2
    sella = _step(14 - ax, 2.5)
    middle = bowl + sella * (-22 - bowl)
    clivus = np.where(p.y < 34, np.float32(42), np.float32(56))
    back = -70 + 30 * ((p.y - 34) / clivus) ** 2 + 26 * (ax / 62) ** 2
    to_middle = _step(p.y + 27 + 0.28 * ax, 3.0)
    to_back = _step(petrous_line(p), 3.0)
    return front + to_middle * (middle - front) + to_back * (back - middle)


def enclose(
    p: Points, dome: Float32[np.ndarray, "*points"], height: Float32[np.ndarray, "*points"]
) -> Float32[np.ndarray, "*points"]:
    """Field of the inside of the skull, from its `vault` and the height of its `base`."""
    inside = np.maximum(dome, height - p.z)
    spinal = rod(p, (0.0, 24.0, -52.0), (0.0, 28.0, -95.0), (16.0, 14.0))
    return np.minimum(np.maximum(inside, -petrous(p)), spinal)


def cavity(p: Points) -> Float32[np.ndarray, "*points"]:
    """Field of the inside of the skull."""
    return enclose(p, vault(p), base(p))


def tentorium(p: Points) -> Float32[np.ndarray, "*points"]:
    """Height in mm above the tentorium, a tent with its ridge along the midline."""
    return p.z - (5 - 0.42 * np.abs(p.x) - 0.24 * np.maximum(p.y - 30, 0))


def infratentorial(p: Points) -> Float32[np.ndarray, "*points"]:
    """Field of the space under the tentorium and behind the petrous ridges."""
    return np.maximum(tentorium(p), -petrous_line(p))


def ventricles(p: Points, size: float) -> Float32[np.ndarray, "*points"]:
    """Field of both lateral ventricles with their horns, the third and the fourth."""
    q, s = p.folded(), size
    third = ellipsoid(p, (0.0, 6.0, 2.0), (1.6 + 1.6 * s, 13.0, 9.0))
    fourth = ellipsoid(p, (0.0, 31.0, -35.0), (4 + 2.5 * s, 4.5, 10.0))
    parts = [
        rod(q, (5.0, -8.0, 17.0), (12.0 + s, -34.0, 11.0), (3.2 * s + 1, 4.0 * s)),
        rod(q, (6.0, -8.0, 19.0), (16.0, 28.0, 21.0), (4.0 * s + 1, 5.0 * s)),
        rod(q, (16.0, 28.0, 21.0), (27.0, 38.0, 8.0), (5.0 * s, 5.5 * s)),
        rod(q, (27.0, 38.0, 8.0), (22.0, 60.0, 4.0), (4.5 * s, 1.5 * s)),
        rod(q, (29.0, 36.0, 4.0), (31.0, -4.0, -20.0), (2.6 * s, 1.6 * s)),
    ]
    return np.minimum.reduce([third, fourth, *parts])


def brainstem(p: Points) -> Float32[np.ndarray, "*points"]:
    """Field of midbrain, pons and medulla."""
    midbrain = ellipsoid(p, (0.0, 15.0, -8.0), (15.0, 12.0, 13.0))
    pons = ellipsoid(p, (0.0, 11.0, -29.0), (17.0, 13.0, 15.0))
    medulla = rod(p, (0.0, 19.0, -40.0), (0.0, 27.0, -90.0), (9.0, 7.0))
    return np.minimum(np.minimum(midbrain, pons), medulla)
