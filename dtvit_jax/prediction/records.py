"""Defines what is stored of a study: its results, a row for each of its files, its state."""

import dataclasses
from pathlib import Path
from typing import Any

from dtvit_jax.decision.answer import ModelIdentity, SliceAnswer, StudyAnswer
from dtvit_jax.decision.probability_text import probability_text
from dtvit_jax.prediction.intake import InputFile
from dtvit_jax.runs.evaluated_run import Cleaning


@dataclasses.dataclass(frozen=True)
class FileRow:
    """A row of files.csv.

    Attributes:
      file, study: pseudonyms; `study` is empty where the file names none.
      use: 'used', 'refused' or, for files of data_builder, 'own words'.
      slices: how many slices of the file the model answered.
      reason, detail: of the refusal.
    """

    file: str
    study: str
    use: str
    slices: int
    reason: str
    detail: str

    @classmethod
    def from_csv(cls, row: dict[str, Any]) -> "FileRow":
        """Builds it from text. Raises ValueError, KeyError or TypeError for damaged rows."""
        return cls(**row | {"slices": int(row["slices"])})

    @classmethod
    def used(cls, source: InputFile, slices: int, detail: str) -> "FileRow":
        """The row of a file of which the model answered `slices` slices."""
        return cls(source.file, source.study, "used", slices, "", detail)

    @classmethod
    def refused(cls, source: InputFile, reason: str, detail: str) -> "FileRow":
        """The row of a file that is not used."""
        return cls(source.file, source.study, "refused", 0, reason, detail)


FILE_COLUMNS = tuple(field.name for field in dataclasses.fields(FileRow))


@dataclasses.dataclass(frozen=True)
class StudyResults:
    """A study's results.json.

    Attributes:
      key: the study's pseudonym.
      refusal: why there is no answer; empty where there is one.
      study: the answer; None where there is none.
      scale: `own_scale` of the slices that count; empty where there are none.
      notes: gaps and doubles in the series: position_mm and note.
      model: the model that answered.
      trained_on_phantoms: whether that model was.
      cleaning: how its slices were cleaned.
      calibration: what calibrates the study's probabilities, and why, by task; empty in files of
        earlier versions.
    """

    key: str
    refusal: str
    study: StudyAnswer | None
    scale: dict[str, float]
    notes: list[dict[str, str]]
    model: ModelIdentity
    trained_on_phantoms: bool
    cleaning: Cleaning
    calibration: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "StudyResults":
        """Builds it from the parsed JSON. Raises KeyError or TypeError for missing fields."""
        return cls(
            **{"scale": {}}  # which the first version did not write
            | stored
            | {
                "study": None if stored["study"] is None else _answer_of(stored["study"]),
                "model": ModelIdentity(**stored["model"]),
                "cleaning": Cleaning(**stored["cleaning"]),
            }
        )


def _answer_of(stored: dict[str, Any]) -> StudyAnswer:
    slices = [
        SliceAnswer(**one | {"p_location": tuple(one["p_location"])}) for one in stored["slices"]
    ]
    location = stored["p_location"]
    return StudyAnswer(
        **stored
        | {
            "slices": tuple(slices),
            "p_location": None if location is None else tuple(location),
            "reasons": tuple(stored["reasons"]),
            "remarks": tuple(stored.get("remarks", ())),  # which earlier versions did not write
        }
    )


@dataclasses.dataclass(frozen=True)
class AnsweredBy:
    """What an answer depends on, apart from the files; another value means to answer again.

    Attributes:
      form: version of the files written for a study.
      checkpoint_step, rule: the model's checkpoint and a digest of its decision rule.
      point: name of the operating point.
      explain: method of the heat maps.
      model: `ModelFolder.digest`; empty in states of earlier versions, which are answered again.
      dicom: whether DICOM objects are written.
    """

    form: int
    checkpoint_step: int
    rule: str
    point: str
    explain: str
    model: str = ""
    dicom: bool = False


@dataclasses.dataclass(frozen=True)
class StudyState:
    """The state of a finished study, by which a later run knows whether it is done.

    Attributes:
      of: what the answer depends on, apart from the files.
      instances: of each image its pseudonym, then `Pseudonyms.content` of each of its files, in
        order of path and each content once: of duplicates that differ the first is answered.
        Earlier versions stored the number of bytes instead, which equals no content.
      objects: file names of its DICOM objects.
    """

    of: AnsweredBy
    instances: frozenset[tuple[str, ...]]
    objects: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "of": dataclasses.asdict(self.of),
            "instances": sorted(map(list, self.instances)),
            "objects": list(self.objects),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "StudyState":
        """Builds it from the parsed JSON. Raises KeyError, TypeError or ValueError if damaged."""
        instances = frozenset((name, *found) for name, *found in stored["instances"])
        objects = tuple(map(str, stored.get("objects", ())))
        return cls(AnsweredBy(**stored["of"]), instances, objects)


@dataclasses.dataclass(frozen=True)
class FinishedStudy:
    """A study whose files are on disk.

    Attributes:
      results: its answer, or the reason why there is none.
      files: its rows of files.csv.
      objects: its DICOM objects under OUT/dicom/KEY.
      before: whether an earlier run answered it.
    """

    results: StudyResults
    files: tuple[FileRow, ...]
    objects: tuple[Path, ...] = ()
    before: bool = False

    def __str__(self) -> str:
        key, answer = self.results.key, self.results.study
        if answer is None:
            return f"{key}: no answer: {self.results.refusal}"
        words = [answer.decision, answer.location]
        if answer.p_hemorrhage is not None:
            words.append(f"p {probability_text(answer.p_hemorrhage)}")
        texts = "; ".join((*answer.reasons, *answer.remarks))
        before = ", done before" if self.before else ""
        return f"{key}: {', '.join(filter(None, words))}{texts and f' ({texts})'}{before}"
