"""Puts objects into a spool."""

from pathlib import Path
from tempfile import NamedTemporaryFile

from dtvit_jax.pacs.spool import Spool, Stored


def put(spool: Spool, data: bytes, study_uid: str, instance_uid: str) -> Stored:
    """Stores an object as the receiver does: from a draft, which it removes where it is left."""
    with NamedTemporaryFile(dir=spool.incoming, delete=False) as file:
        file.write(data)
    draft = Path(file.name)
    try:
        return spool.store(draft, study_uid, instance_uid)
    finally:
        draft.unlink(missing_ok=True)
