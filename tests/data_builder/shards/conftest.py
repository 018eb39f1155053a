"""The slices of the published folder, which several tests of the shards use."""

import pytest

from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.shards.sources import Source, open_source


@pytest.fixture(scope="session")
def source(published) -> Source:
    return open_source(published, Pseudonyms(PUBLIC_KEY))
