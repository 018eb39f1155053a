"""All readers' decisions of a folder put together: final words, disagreements, agreement."""

import itertools
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from data_builder.records import LOCATIONS
from data_builder.review.agreement import cohen, fleiss
from data_builder.review.folder import Folder
from data_builder.review.readings import FINISHED, Final, Reading, State, conclude, read, runs
from data_builder.review.store import Store

TASKS = {
    "keep": {"dropped": 0, **dict.fromkeys(("kept", "normal", "ich", *LOCATIONS), 1)},
    "hemorrhage": {"normal": 0, **dict.fromkeys(("ich", *LOCATIONS), 1)},
    "location": {name: number for number, name in enumerate(LOCATIONS)},
}
"""Outcome -> class, for each question that readers may agree on; others do not count."""


class Dispute(NamedTuple):
    """Neighbouring slices of a study on which the readers said the same different things."""

    study: str
    keys: list[str]
    said: list[tuple[str, str, bool]]  # reader, outcome, unsure


def readings(folder: Folder, state: State) -> dict[str, Reading]:
    """One reader's word on every slice."""
    return {
        key: read(state, key, study, folder.dropped(key))
        for study, keys in folder.studies.items()
        for key in keys
    }


class Progress:
    """How far each reader is, kept in step with the store: only what changed is read anew."""

    def __init__(self, folder: Folder, store: Store) -> None:
        self._folder, self._store = folder, store
        self._known: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {}

    def of(self, reader: str) -> dict[str, tuple[int, int]]:
        """Study -> how many of its slices the reader is done with, and is unsure of."""
        since, found = self._known.get(reader, (0, {}))
        latest, changed = self._store.changed(reader, since)
        studies, state = list(self._folder.studies), None
        if found:
            rows = self._folder.rows
            named = {rows[each]["study"] if each in rows else each for each in changed}
            studies = [study for study in named if study in self._folder.studies]
        else:
            state = self._store.state(reader)
        found = dict(found)
        for study in studies:
            keys = self._folder.studies[study]
            told = state
            if told is None:
                told = self._store.state(reader, targets=[study, *keys])
            words = [read(told, key, study, self._folder.dropped(key)) for key in keys]
            done = sum(word.outcome in FINISHED for word in words)
            found[study] = (done, sum(word.unsure for word in words))
        self._known[reader] = (latest, found)
        return found


def finals(folder: Folder, store: Store) -> tuple[dict[str, Final], dict[str, dict[str, Reading]]]:
    """The final word on every slice, and each reader's reading of it."""
    by_reader = {name: readings(folder, store.state(name)) for name in store.readers()}
    settled = readings(folder, store.state("", settles=True))
    final = {
        key: conclude([words[key] for words in by_reader.values()], settled[key])
        for key in folder.rows
    }
    return final, by_reader


def disputes(folder: Folder, store: Store) -> list[Dispute]:
    """What is left to settle, by study: disagreements, and what a reader is unsure of."""
    final, by_reader = finals(folder, store)
    found = []
    for study, keys in folder.studies.items():
        marks = {
            key: tuple(
                (name, words[key].outcome, words[key].unsure)
                for name, words in by_reader.items()
                if words[key].own
            )
            for key in keys
            if final[key].status == "open"
        }
        found += [Dispute(study, each, list(said)) for each, said in runs(keys, marks)]
    return found


def agreement(folder: Folder, store: Store) -> dict[str, Any]:
    """Kappas of each pair of readers and of all, by task, with what each reader had been shown.

    A reader's decisions count until they were shown the others'. Plain values, ready for JSON.
    """
    names = store.readers()
    opened = store.events("unblinded")
    shown, ordered = store.events("probabilities"), store.events("order")
    words = {
        name: readings(folder, store.state(name, until=opened[name].id if name in opened else None))
        for name in names
    }
    told: dict[str, Any] = {
        "readers": [
            {
                "name": name,
                "slices": sum(word.own for word in words[name].values()),
                "unblinded": opened[name].at if name in opened else "",
                "probabilities": shown[name].at if name in shown else "",
                "ordered_by_model": ordered[name].at if name in ordered else "",
            }
            for name in names
        ],
        "tasks": {},
    }
    for task, classes in TASKS.items():
        classed = {name: _classed(words[name], classes) for name in names}
        pairs = []
        for one, other in itertools.combinations(names, 2):
            both = [key for key in classed[one] if key in classed[other]]
            kappa = cohen(
                [classed[one][key] for key in both],
                [classed[other][key] for key in both],
                [folder.rows[key]["subject"] for key in both],
                len(set(classes.values())),
            )
            pairs.append({"readers": [one, other], **asdict(kappa)})
        told["tasks"][task] = {"cohen": pairs, "fleiss": None}
        if len(names) > 2:
            every = [key for key in folder.rows if all(key in classed[name] for name in names)]
            votes = np.array([[classed[name][key] for name in names] for key in every], int)
            kappa = fleiss(
                votes.reshape(-1, len(names)),
                [folder.rows[key]["subject"] for key in every],
                len(set(classes.values())),
            )
            told["tasks"][task]["fleiss"] = asdict(kappa)
    return told


def _classed(words: dict[str, Reading], classes: dict[str, int]) -> dict[str, int]:
    return {
        key: classes[word.outcome]
        for key, word in words.items()
        if word.own and word.outcome in classes
    }
