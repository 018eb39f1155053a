"""The spool keeps what is not answered or not sent, within its limits and across restarts."""

import pytest
from pydicom.uid import generate_uid

from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from dtvit_jax.pacs.spool import Limits, Spool, Stored


def stored(spool, count=1, study=None, size=1000):
    """Stores objects of one study; its UID and the outcomes."""
    study = study or generate_uid()
    outcomes = [spool.store(bytes(size), study, generate_uid()) for _ in range(count)]
    return study, outcomes


def test_only_studies_answered_and_sent_are_removed_for_room(tmp_path):
    limits = Limits(spool_bytes=4500)
    with Spool(tmp_path, PUBLIC_KEY, limits, keep_seconds=-1.0) as spool:
        for _ in range(4):
            stored(spool)
        answered, unsent, *waiting = spool.complete(0.0)
        assert stored(spool)[1] == [Stored.NO_ROOM]
        spool.answered(answered, spool.images(answered), [])
        spool.answered(unsent, spool.images(unsent), [tmp_path / "sr.dcm"])
        assert stored(spool)[1] == [Stored.NEW]
        assert stored(spool)[1] == [Stored.NO_ROOM]
        left = {path.name for path in (tmp_path / "studies").iterdir()}
        assert answered.name not in left and {unsent.name, *(w.name for w in waiting)} <= left
        spool.sent(unsent.name, [tmp_path / "sr.dcm"])
        spool.expire()  # kept for no time
        assert unsent.name not in {path.name for path in (tmp_path / "studies").iterdir()}
        assert [path.name for path in spool.complete(0.0)][:2] == [w.name for w in waiting]


def test_a_spool_has_one_listener_and_starts_where_it_was(tmp_path):
    with Spool(tmp_path, PUBLIC_KEY, Limits(study_bytes=2500)) as spool:
        study, outcomes = stored(spool, 3)
        assert outcomes == [Stored.NEW, Stored.NEW, Stored.NO_ROOM]
        with pytest.raises(InputError, match="another listener"):
            Spool(tmp_path, PUBLIC_KEY, Limits())
        assert spool.complete(60.0) == []
    (tmp_path / "incoming/.draft-1-x.dcm").write_bytes(b"half")
    with Spool(tmp_path, PUBLIC_KEY, Limits(spare_bytes=2**60)) as spool:
        assert list((tmp_path / "incoming").iterdir()) == []
        (folder,) = spool.complete(0.0)
        assert folder.name == Pseudonyms(PUBLIC_KEY).study(study)
        assert len(spool.images(folder)) == 2
        assert stored(spool)[1] == [Stored.NO_ROOM]  # the disk is nearly full
