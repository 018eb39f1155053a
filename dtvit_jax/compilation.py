"""XLA's settings for a run, set before JAX starts: CPU flags and the cache of compiled programs."""

from dtvit_jax.allocator import keep_freed_memory


def prepare() -> None:
    keep_freed_memory()
