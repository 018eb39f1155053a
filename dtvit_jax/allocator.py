"""Memory of a CPU: kept between steps, and such as JAX takes without a copy."""

import ctypes
import math
import os
import resource
import sys

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
