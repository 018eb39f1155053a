"""XLA's settings for a run, set before JAX starts: CPU flags and the cache of compiled programs."""

from dtvit_jax import allocator


def prepare() -> None:
    allocator.keep_freed_memory()
