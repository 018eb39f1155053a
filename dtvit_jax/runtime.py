"""Sets a process up: libraries stay quiet, freed memory and compiled programs are kept.

Commands call `prepare` before JAX runs anything. JAX is imported inside functions, because worker
processes load this module too and do not need it.
"""

import contextlib
import ctypes
import gc
import logging
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

ALIGNMENT = 64
"""Bytes of which an array's address is a multiple where XLA's CPU client uses it without a copy."""

SECONDS_WORTH_KEEPING = 0.5
"""Compile time from which a program is kept for later processes."""

MEMORY_FRACTION = 0.92
"""Fraction of a GPU's memory that JAX takes for arrays; driver and libraries need the rest."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h
_MADV_HUGEPAGE = 14  # Linux's mman.h
_HUGE_PAGE = 2 << 20  # of x86-64; a whole number of pages elsewhere

_QUIET = {
    # Orbax logs every step that it takes; its threads log errors that the next wait raises again.
    "absl": logging.CRITICAL,
    "asyncio": logging.CRITICAL,
    "concurrent.futures": logging.CRITICAL,
    # Privacy: pynetdicom logs the objects that it receives and sends, highdicom the sources' UIDs.
    "pynetdicom": logging.CRITICAL + 1,
    "highdicom": logging.WARNING,
}
"""The level from which each library's logger reports."""


def prepare() -> None:
    """Prepares the process for a quick start and fast steps; call it before JAX runs."""
    quiet_libraries()
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(MEMORY_FRACTION))
    keep_freed_memory()
    keep_programs()


def quiet_libraries() -> None:
    """Sets the loggers of libraries so that they report no progress and nothing of a patient."""
    import absl.logging  # noqa: F401 - makes its logger with a class of its own, at import

    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)


def keep_programs() -> None:
    """Keeps compiled programs on disk for later processes; call it before JAX runs.

    The folder is `$JAX_COMPILATION_CACHE_DIR`, by default `dtvit/programs` in the user's cache
    folder (`$XDG_CACHE_HOME`, ~/.cache). JAX_ENABLE_COMPILATION_CACHE=0 keeps none.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # JAX reads it itself
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(base).expanduser() / "dtvit" / "programs"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS_WORTH_KEEPING)


def keep_freed_memory() -> bool:
    """Makes glibc keep what XLA frees instead of returning it to the kernel at every step.

    Call it before JAX starts. Without it each step maps its buffers anew: a ViT step of 2 s lost a
    third of its time to page faults. Returns whether the C library accepted the settings.
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
    """Asks the kernel for huge pages for the heap's next bytes, half of the machine's memory.

    Only addresses are reserved: memory is taken when a page is first written. Where addresses are
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
    """Allocates bytes, uninitialized, at a multiple of ALIGNMENT."""
    memory = np.empty(math.prod(shape) + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + math.prod(shape)].reshape(shape)


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pauses Python's garbage collector: imports and tracing make many objects, little garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def skip_last_collection() -> None:
    """Exempts all objects from collection at the end of a process whose work is done."""
    gc.freeze()
