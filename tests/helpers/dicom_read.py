"""Reads small DICOM objects of tests."""

import pytest

from data_builder.dicom.read import CtSlice, read_slices
from data_builder.dicom.refusal import Refusal
from tests.helpers.dicom_files import encoded


def read_one(ds) -> CtSlice:
    """The only slice of an object."""
    (ct_slice,) = read_slices(encoded(ds))
    return ct_slice


def refusal_of(data: bytes) -> Refusal:
    """The refusal of a file that must be refused."""
    with pytest.raises(Refusal) as caught:
        read_slices(data)
    return caught.value
