"""Reads attributes of a DICOM data set by keyword, for one frame of several too."""

import math
from typing import Any

from pydicom.dataset import Dataset

from data_builder.dicom.refusal import Reason, Refusal


class Tags:
    """Reads attributes of a frame: of its functional groups, the shared ones, then of the file.

    `frame` counts from 1; 0 reads the file alone.
    """

    def __init__(self, dataset: Dataset, frame: int = 0) -> None:
        self._datasets = [dataset]
        if frame:
            own = items_of(dataset, "PerFrameFunctionalGroupsSequence")[frame - 1 : frame]
            groups = [*own, *items_of(dataset, "SharedFunctionalGroupsSequence")[:1]]
            inner = [
                item
                for group in groups
                for element in group
                if element.VR == "SQ"
                for item in element.value[:1]
            ]
            self._datasets = [*inner, dataset]

    def value(self, keyword: str) -> Any:
        """The attribute's value; None where it is absent or empty or does not parse."""
        for dataset in self._datasets:
            try:
                value = dataset.get(keyword)
            except Exception:  # pydicom raises many kinds for a value that breaks its VR
                continue
            if value is not None and value != "":
                return value
        return None

    def text(self, keyword: str) -> str:
        """The value as text without spaces around it; several values joined by a backslash."""
        value = self.value(keyword)
        if value is None:
            return ""
        values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
        return "\\".join(map(str, values)).strip(" \0")

    def whole(self, keyword: str) -> int | None:
        """The value as an integer; None where it is not one."""
        value = self.value(keyword)
        return int(value) if isinstance(value, int) else None

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """The value as `count` finite numbers; None where it is absent or empty.

        Raises Refusal for any other value.
        """
        if not any(keyword in dataset for dataset in self._datasets):
            return None
        value = self.value(keyword)
        if value is None:
            self._refuse_unreadable(keyword)
            return None
        try:
            numbers = [float(number) for number in (value if count > 1 else [value])]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise Refusal(Reason.IMPOSSIBLE_HEADER, f"{keyword} is not {count} finite numbers")
        return tuple(numbers)

    def number(self, keyword: str, default: float = math.nan) -> float:
        """The value as one finite number, or the default. Raises Refusal as `numbers`."""
        numbers = self.numbers(keyword, 1)
        return default if numbers is None else numbers[0]

    def _refuse_unreadable(self, keyword: str) -> None:
        for dataset in self._datasets:
            element = dataset.get_item(keyword)
            if element is not None and element.value not in (None, b"", ""):
                raise Refusal(Reason.IMPOSSIBLE_HEADER, f"{keyword} can't be read as numbers")


def items_of(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent."""
    sequence = dataset.get(keyword)
    return list(sequence) if sequence is not None else []
