"""Studies and a folder of phantoms that the tests of this folder share."""

import pytest

from data_builder.phantom import make_study, write_studies
from tests.helpers.phantoms import SEED, SUBJECTS


@pytest.fixture(scope="session")
def studies():
    """One study a class, keyed by location; subject numbers have no meaning here."""
    return {
        location: make_study(SEED, subject, location)
        for subject, location in enumerate((None, "deep", "lobar", "subtentorial"), start=1)
    }


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder of a few subjects, made in two processes."""
    out = tmp_path_factory.mktemp("phantom") / "out"
    write_studies(out, SUBJECTS, SEED, jobs=2)
    return out
