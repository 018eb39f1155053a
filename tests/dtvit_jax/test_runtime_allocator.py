"""Memory that XLA frees stays with the process (glibc on Linux)."""

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
@pytest.mark.parametrize("size", [64 << 20, 3 << 30], ids=["64 MiB", "more than 2 GiB"])
def test_a_freed_block_is_used_again_without_new_pages(size: int) -> None:
    """64 MiB of it are written: 32 huge pages or 16,384 small ones, the first time alone."""
    words = [sys.executable, "-c", SECOND_USE.format(size=size)]
    first, second = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert int(first) >= 32
    assert int(second) < 8


@pytest.mark.parametrize("shape", [(3, 5, 7), (64,)])
def test_aligned_bytes_are_taken_as_they_are(shape):
    memory = runtime.aligned(shape)
    assert memory.shape == shape and memory.ctypes.data % runtime.ALIGNMENT == 0
    assert jax.device_put(memory).unsafe_buffer_pointer() == memory.ctypes.data
