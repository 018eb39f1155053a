"""How a process is set up: quiet libraries, kept memory and programs, a paused collector."""

import gc
import os
import platform
import subprocess
import sys

import jax
import pytest

from dtvit_jax import runtime

SECOND_USE = """
import ctypes, resource
from dtvit_jax.runtime import keep_freed_memory

assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc({size})
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), faults())
"""
CACHE_FOLDER = """
import jax
from dtvit_jax.runtime import prepare
prepare()
print(jax.config.jax_compilation_cache_dir)
"""
GPU_MEMORY = """
import os
from dtvit_jax.runtime import prepare
prepare()
print(os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"])
"""
LOGGER_LEVELS = """
import logging, absl.logging, pynetdicom, highdicom, orbax.checkpoint
names = ("absl", "asyncio", "concurrent.futures", "pynetdicom", "highdicom")
levels = lambda: [logging.getLogger(name).level for name in names]
before = levels()
import dtvit_jax.dicom.write, dtvit_jax.pacs.listener, dtvit_jax.training.checkpoint
import dtvit_jax.prediction.session
assert levels() == before
from dtvit_jax.runtime import quiet_libraries
quiet_libraries()
print(*(logging.getLogger(name).getEffectiveLevel() for name in (*names, "pynetdicom.acse")))
"""


def output_of(program, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_loggers_change_when_a_command_asks_and_never_at_an_import():
    pytest.importorskip("pynetdicom")
    assert output_of(LOGGER_LEVELS) == "50 50 50 51 30 51"


def test_worker_processes_load_neither_jax_nor_the_network():
    """They import the command's module and `intake` before their first file."""
    program = (
        "import sys, dtvit_jax.predict, dtvit_jax.prediction.intake\n"
        "print(sorted({'jax', 'pynetdicom', 'highdicom'} & set(sys.modules)))"
    )
    assert output_of(program) == "[]"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
@pytest.mark.parametrize("size", [64 << 20, 3 << 30], ids=["64 MiB", "more than 2 GiB"])
def test_a_freed_block_is_used_again_without_new_pages(size):
    """64 MiB of it are written: 32 huge pages or 16,384 small ones, the first time alone."""
    first, second = output_of(SECOND_USE.format(size=size)).split()
    assert int(first) >= 32
    assert int(second) < 8


@pytest.mark.parametrize("shape", [(3, 5, 7), (64,)])
def test_jax_uses_aligned_bytes_without_a_copy(shape):
    memory = runtime.aligned(shape)
    assert memory.shape == shape and memory.ctypes.data % runtime.ALIGNMENT == 0
    assert jax.device_put(memory).unsafe_buffer_pointer() == memory.ctypes.data


def test_programs_are_kept_in_the_users_cache_or_in_jaxs_own_folder(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    assert output_of(CACHE_FOLDER, **environment) == str(tmp_path / "dtvit" / "programs")
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "chosen")
    assert output_of(CACHE_FOLDER, **environment) == str(tmp_path / "chosen")


def test_a_run_takes_the_memory_of_a_gpu_that_plan_counts_unless_the_user_says_otherwise():
    assert float(output_of(GPU_MEMORY)) == runtime.MEMORY_FRACTION
    assert output_of(GPU_MEMORY, XLA_PYTHON_CLIENT_MEM_FRACTION=".5") == ".5"


def test_collection_is_paused_inside_the_block_also_where_that_raises():
    with pytest.raises(ValueError), runtime.collection_paused():
        with runtime.collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with runtime.collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_files_left_open_are_written_at_the_end_all_the_same(tmp_path):
    program = (
        "import sys\nfrom dtvit_jax import runtime\n"
        "file = open(sys.argv[1], 'w')\nfile.write('whole')\nruntime.skip_last_collection()\n"
    )
    path = tmp_path / "file.txt"
    output_of(program, path)
    assert path.read_text() == "whole"
