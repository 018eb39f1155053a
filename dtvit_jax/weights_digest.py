"""Which weights a model has, as one hash."""

import hashlib
from typing import Any

import jax
import numpy as np


def weights_digest(weights: tuple[Any, Any]) -> str:
    """SHA-256 over every parameter's and statistic's path, type, shape and bytes, in path order."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    for path, leaf in sorted(leaves, key=lambda each: jax.tree_util.keystr(each[0])):
        value = np.ascontiguousarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}\n"
        digest.update(head.encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
