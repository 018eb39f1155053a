"""A small cleaned folder and its store."""

import pytest

from data_builder.review.folder import Folder
from data_builder.review.store import Store
from tests.helpers.review_folder import write_folder


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(write_folder(tmp_path / "cleaned"))


@pytest.fixture
def store(folder) -> Store:
    return Store(folder.own / "decisions.sqlite")
