"""Memory of a CPU: kept between steps, and such as JAX takes without a copy.

Python's garbage collector, kept out of a start and of an end.

What a run sets up before JAX starts: memory that is kept, and compiled programs that are.
"""

import contextlib
import ctypes
import gc
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

ALIGNMENT = 64
"""Bytes of which an array's address is a multiple where XLA's CPU client uses it as it is."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h
_MADV_HUGEPAGE = 14  # Linux's mman.h
_HUGE_PAGE = 2 << 20  # of x86-64; a whole number of pages elsewhere


def keep_freed_memory() -> bool:
    """Tells glibc to keep what XLA frees instead of giving it back to the kernel at every step.

    Called before JAX starts. Without it each step maps its buffers anew: a ViT step of 2 s lost a
    third of its time to page faults. Returns whether the C library took it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except AttributeError:  # not glibc
        return False
    # -1: never trimmed; the largest positive number would still trim a heap with 2 GiB at its end.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    if not all([mallopt(name, value) for name, value in settings]):
        return False
    _ask_for_huge_pages(libc)
    return True


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """The heap's next bytes, half of the machine's memory, in huge pages where the kernel can.

    They are addresses only: memory is taken when a page is first written. Where addresses are
    limited (`ulimit -v`, or the kernel's strict overcommit) the heap stays as it is.
    """
    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    if any(resource.getrlimit(name)[0] != resource.RLIM_INFINITY for name in limits):
        return
    malloc, free, madvise = libc.malloc, libc.free, libc.madvise
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    free.argtypes = [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if start := malloc(size):
        first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        madvise(first, (start + size - first) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
        free(start)


def aligned(shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """New bytes, not set to anything, at a multiple of ALIGNMENT."""
    memory = np.empty(math.prod(shape) + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + math.prod(shape)].reshape(shape)


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No garbage is looked for inside: imports and tracing make many objects and little garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def spare_the_end() -> None:
    """For a process whose work is done: its end does not search what goes with it anyway."""
    gc.freeze()


SECONDS_WORTH_KEEPING = 0.5


def prepare() -> None:
    """Sets the process up for fast steps and a quick start; before JAX runs anything."""
    keep_freed_memory()
    keep_programs()


def keep_programs() -> None:
    """Lets a later process find what this one compiles; before JAX runs anything.

    Compiled programs are kept in `$JAX_COMPILATION_CACHE_DIR`, by default `dtvit/programs` in the
    user's cache folder (`$XDG_CACHE_HOME`, ~/.cache); JAX_ENABLE_COMPILATION_CACHE=0 keeps none.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # which JAX reads
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(base).expanduser() / "dtvit" / "programs"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS_WORTH_KEEPING)
