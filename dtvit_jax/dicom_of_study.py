"""An answered study's DICOM objects, made from the headers of its files."""

from collections.abc import Sequence
from pathlib import Path

import pydicom

from data_builder.dicom import quiet
from data_builder.errors import InputError
from dtvit_jax.answers import ModelIdentity, StudyAnswer
from dtvit_jax.dicom_origin import read_origin
from dtvit_jax.dicom_out import write_objects
from dtvit_jax.secondary_capture import Overlay


def write_dicom(
    folder: Path,
    answer: StudyAnswer,
    sources: Sequence[Path],
    model: ModelIdentity,
    overlays: Sequence[Overlay],
) -> tuple[list[Path], str]:
    """Writes the objects under `folder`, which alone carries identity (`dicom_out`).

    Returns them, and why there are none where the sources can't be referred to. Raises InputError
    where the folder can't be written.
    """
    with quiet():
        headers = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in sources]
    try:
        read_origin(headers)
    except InputError as error:
        return [], str(error)
    return write_objects(folder, answer, headers, model, overlays), ""
