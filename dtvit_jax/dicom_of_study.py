"""An answered study's DICOM objects, made from the headers of its files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import UInt8

from data_builder.dicom import quiet
from data_builder.errors import InputError
from dtvit_jax.answers import ModelIdentity, StudyAnswer
from dtvit_jax.dicom_origin import read_origin
from dtvit_jax.dicom_out import write_objects
from dtvit_jax.secondary_capture import Overlay

PHANTOM = "The model was trained on made-up phantoms: this says nothing of a patient"


def write_dicom(
    folder: Path,
    answer: StudyAnswer,
    sources: Sequence[Path],
    model: ModelIdentity,
    maps: Mapping[str, UInt8[np.ndarray, "rows columns 3"]],
    caption: str,
    phantom: bool,
) -> tuple[list[Path], str]:
    """Writes the objects under `folder`, which alone carries identity (`dicom_out`).

    maps: slice key -> the slice with its heat map, worst first; `caption` says what was drawn.
    phantom: whether the model was trained on phantoms, which the objects then say, too.
    Returns them, and why there are none where the sources can't be referred to. Raises InputError
    where the folder can't be written.
    """
    with quiet():
        headers = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in sources]
    try:
        read_origin(headers)
    except InputError as error:
        return [], str(error)
    place = {each.key: i for i, each in enumerate(answer.slices)}
    overlays = [Overlay(place[key], image, caption) for key, image in maps.items()]
    remarks = [PHANTOM] if phantom else []
    return write_objects(folder, answer, headers, model, overlays, remarks=remarks), ""
