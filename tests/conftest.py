"""Small data and one small trained run, made once and shared."""

import os
import signal
import subprocess
from pathlib import Path

from tests.helpers.published import write_published

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jaxtyping
import pytest

# Shapes and types of public functions are checked in tests, before anything imports them.
jaxtyping.install_import_hook(["dtvit_jax", "data_builder"], "beartype.beartype")


# A shell's background job ignores Ctrl-C, and so would every program that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Programs are kept in a folder of the test's own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    return write_published(tmp_path_factory.mktemp("source") / "published")


@pytest.fixture(scope="session")
def shards(published, tmp_path_factory):
    from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
    from data_builder.shards.build import build
    from data_builder.shards.sources import open_source
    from data_builder.shards.splits import SplitPlan
    from dtvit_jax.data.shards import Shards

    source = open_source(published, Pseudonyms(PUBLIC_KEY))
    return Shards(build(source, tmp_path_factory.mktemp("data"), SplitPlan(), size=36))


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """Made-up studies of 6 subjects as DICOM, cleaned without their labels, and the labels.csv."""
    from data_builder.cleaning.clean_folder import clean_folder
    from data_builder.phantom import write_studies

    place = tmp_path_factory.mktemp("phantoms")
    write_studies(place / "scans", 6, 1, None)
    labels = (place / "scans" / "labels.csv").rename(place / "labels.csv")
    clean_folder(place / "scans", place / "cleaned", key="public", jobs=2)
    return place / "scans", place / "cleaned", labels


@pytest.fixture
def small_disk(tmp_path):
    """Makes a disk of so many KiB, and gives its place."""
    place = tmp_path / "disk"

    def make(kib):
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(place)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no right to mount a small disk here")
        return place

    yield make
    subprocess.run(["umount", "-l", str(place)], capture_output=True)
