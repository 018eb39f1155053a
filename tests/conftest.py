"""Small data sets that the whole session shares, and its cache of compiled programs."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import jaxtyping
import pytest

from tests.helpers.published import write_published

# JAX reads these when it is imported, here and in every process that a test starts: what one of
# them compiles the others load, and the user's own cache of programs is left alone.
PROGRAMS = tempfile.TemporaryDirectory(prefix="programs-")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", PROGRAMS.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# Keys and the places of data sets go to a folder of the tests, and not to the user's own.
SITE = tempfile.TemporaryDirectory(prefix="site-")
os.environ["XDG_CONFIG_HOME"] = SITE.name

# Shapes and types of public functions are checked in tests, before anything imports them.
jaxtyping.install_import_hook(["dtvit_jax", "data_builder"], "beartype.beartype")

# A shell's background job ignores Ctrl-C, and so would every program that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """Synthetic studies of 6 subjects: DICOM folder, cleaned folder without labels, labels.csv."""
    from data_builder.cleaning.clean_folder import clean_folder
    from data_builder.phantom import write_studies

    folder = tmp_path_factory.mktemp("phantoms")
    write_studies(folder / "scans", 6, 1, None)
    labels = (folder / "scans" / "labels.csv").rename(folder / "labels.csv")
    clean_folder(folder / "scans", folder / "cleaned", key="public", jobs=2)
    return folder / "scans", folder / "cleaned", labels


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of the given KiB and returns its folder."""
    folder = tmp_path / "disk"

    def make(kib):
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a small disk is not permitted here")
        return folder

    yield make
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)
