"""Results wait in the spool until a peer accepts them, and nothing of them is logged."""

import logging

import pytest

from data_builder.pseudonyms import PUBLIC_KEY

pytest.importorskip("pynetdicom")
from pynetdicom.sop_class import Comprehensive3DSRStorage

from dtvit_jax.pacs.sender import Peer, SendBack, read_peer
from dtvit_jax.pacs.spool import Limits, Spool
from tests.helpers.dicom_network import archive, saved, study_of
from tests.helpers.spool import put


def test_results_are_kept_until_they_are_accepted(tmp_path, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("pynetdicom").setLevel(logging.NOTSET)  # as where nobody silenced it
    result = saved(tmp_path / "results", study_of(1, SOPClassUID=Comprehensive3DSRStorage))
    path = result / "0.dcm"
    with Spool(tmp_path / "spool", PUBLIC_KEY, Limits()) as spool:
        put(spool, bytes(1000), "1.2.3", "1.2.3.4")
        (study,) = spool.complete(0.0)
        spool.answered(study, spool.images(study), [path])
        deaf = SendBack(spool, Peer("PACS", "127.0.0.1", 9), "DTVIT")
        deaf.send_due()
        assert spool.unsent() == {study.name: [path]}
        assert "next try in 5 s" in capsys.readouterr().out
    with (
        archive() as (port, received),
        Spool(tmp_path / "spool", PUBLIC_KEY, Limits()) as spool,  # started again
    ):
        SendBack(spool, Peer("PACS", "127.0.0.1", port), "DTVIT").send_due()
        assert spool.unsent() == {} and len(received) == 1
    assert not [record for record in caplog.records if record.name.startswith("pynetdicom")]


def test_a_peer_is_read_from_its_text():
    assert read_peer("PACS@[::1]:104") == Peer("PACS", "::1", 104)
