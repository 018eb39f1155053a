"""Combines the decisions of all readers: final outcomes, disagreements, agreement, progress."""

import itertools
from dataclasses import asdict
from typing import Any, NamedTuple, TypedDict

import numpy as np

from data_builder.records import LOCATIONS
from data_builder.review.agreement import Kappa, cohen, fleiss
from data_builder.review.folder import Folder
from data_builder.review.readings import FINISHED, Final, Reading, State, conclude, read, runs
from data_builder.review.store import Store

TASKS = {
    "keep": {"dropped": 0, **dict.fromkeys(("kept", "normal", "ich", *LOCATIONS), 1)},
    "hemorrhage": {"normal": 0, **dict.fromkeys(("ich", *LOCATIONS), 1)},
    "location": {name: number for number, name in enumerate(LOCATIONS)},
}
"""Outcome -> class, for each question on which agreement is measured; others do not count."""


class Dispute(NamedTuple):
    """Neighbouring slices of a study with the same readings, that differ or are unsure."""

    study: str
    keys: list[str]
    readings: list[tuple[str, str, bool]]  # reader, outcome, unsure


class StudyProgress(NamedTuple):
    """How many slices of a study a reader has finished, and is unsure of."""

    done: int
    unsure: int


class ReaderRow(TypedDict):
    """A reader in the agreement report: slices read, and times ('' for never) of what was shown.

    `unblinded`: the other readers' decisions; `probabilities`: the model's; `ordered_by_model`:
    its order of studies.
    """

    name: str
    slices: int
    unblinded: str
    probabilities: str
    ordered_by_model: str


class TaskAgreement(TypedDict):
    """Cohen's kappa of each pair of readers (`readers` and the fields of Kappa), Fleiss' of all."""

    cohen: list[dict[str, Any]]
    fleiss: dict[str, Any] | None


class AgreementReport(TypedDict):
    """The agreement by task of TASKS, ready for JSON."""

    readers: list[ReaderRow]
    tasks: dict[str, TaskAgreement]


def readings(folder: Folder, state: State) -> dict[str, Reading]:
    """One reader's reading of every slice."""
    return {
        key: read(state, key, study, folder.dropped(key))
        for study, keys in folder.studies.items()
        for key in keys
    }


class Progress:
    """Each reader's progress by study; only studies with new decisions are read again."""

    def __init__(self, folder: Folder, store: Store) -> None:
        """Counts nothing yet."""
        self._folder, self._store = folder, store
        self._counted: dict[str, tuple[int, dict[str, StudyProgress]]] = {}

    def of(self, reader: str) -> dict[str, StudyProgress]:
        """Study -> the reader's progress in it, up to the last decision in the store."""
        since, counted = self._counted.get(reader, (0, {}))
        latest, targets = self._store.changed(reader, since)
        whole = None if counted else self._store.state(reader)
        changed = {self._folder.study_of(target) for target in targets}
        progress = dict(counted)
        for study, keys in self._folder.studies.items():
            if counted and study not in changed:
                continue
            state = whole
            if state is None:
                state = self._store.state(reader, targets=[study, *keys])
            slices = [read(state, key, study, self._folder.dropped(key)) for key in keys]
            progress[study] = StudyProgress(
                done=sum(reading.outcome in FINISHED for reading in slices),
                unsure=sum(reading.unsure for reading in slices),
            )
        self._counted[reader] = (latest, progress)
        return progress


def finals(folder: Folder, store: Store) -> tuple[dict[str, Final], dict[str, dict[str, Reading]]]:
    """Slice key -> final outcome; reader -> slice key -> reading."""
    by_reader = {name: readings(folder, store.state(name)) for name in store.readers()}
    settled = readings(folder, store.state("", settles=True))
    final = {
        key: conclude([slices[key] for slices in by_reader.values()], settled[key])
        for key in folder.rows
    }
    return final, by_reader


def disputes(folder: Folder, store: Store) -> list[Dispute]:
    """Lists what is left to settle, by study: disagreements, and slices that a reader is unsure of.

    Neighbouring slices with the same readings are one dispute.
    """
    final, by_reader = finals(folder, store)
    listed = []
    for study, keys in folder.studies.items():
        marks = {
            key: tuple(
                (name, slices[key].outcome, slices[key].unsure)
                for name, slices in by_reader.items()
                if slices[key].own
            )
            for key in keys
            if final[key].status == "open"
        }
        listed += [Dispute(study, run, list(mark)) for run, mark in runs(keys, marks)]
    return listed


def agreement(folder: Folder, store: Store) -> AgreementReport:
    """Computes the kappas of each pair of readers and of all, by task.

    Of each reader the decisions before unblinding count.
    """
    names = store.readers()
    unblinded, probabilities, ordered = map(store.events, ("unblinded", "probabilities", "order"))
    blinded = {
        name: readings(
            folder, store.state(name, until=unblinded[name].id if name in unblinded else None)
        )
        for name in names
    }
    return {
        "readers": [
            {
                "name": name,
                "slices": sum(reading.own for reading in blinded[name].values()),
                "unblinded": unblinded[name].at if name in unblinded else "",
                "probabilities": probabilities[name].at if name in probabilities else "",
                "ordered_by_model": ordered[name].at if name in ordered else "",
            }
            for name in names
        ],
        "tasks": {
            task: _task_agreement(
                folder, {name: _classed(blinded[name], classes) for name in names}, classes
            )
            for task, classes in TASKS.items()
        },
    }


def _task_agreement(
    folder: Folder, classed: dict[str, dict[str, int]], classes: dict[str, int]
) -> TaskAgreement:
    """`classed` is reader -> slice key -> class."""
    names, class_count = list(classed), len(set(classes.values()))

    def subjects(keys: list[str]) -> list[str]:
        return [folder.rows[key]["subject"] for key in keys]

    pairs = []
    for one, other in itertools.combinations(names, 2):
        shared = [key for key in classed[one] if key in classed[other]]
        kappa: Kappa = cohen(
            [classed[one][key] for key in shared],
            [classed[other][key] for key in shared],
            subjects(shared),
            class_count,
        )
        pairs.append({"readers": [one, other], **asdict(kappa)})
    if len(names) < 3:
        return {"cohen": pairs, "fleiss": None}
    shared = [key for key in folder.rows if all(key in classed[name] for name in names)]
    ratings = np.array([[classed[name][key] for name in names] for key in shared], int)
    kappa = fleiss(ratings.reshape(-1, len(names)), subjects(shared), class_count)
    return {"cohen": pairs, "fleiss": asdict(kappa)}


def _classed(slices: dict[str, Reading], classes: dict[str, int]) -> dict[str, int]:
    return {
        key: classes[reading.outcome]
        for key, reading in slices.items()
        if reading.own and reading.outcome in classes
    }
