"""What a run sets up before JAX starts: memory that is kept, and compiled programs that are."""

import os
from pathlib import Path

import jax

from dtvit_jax.allocator import keep_freed_memory

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
