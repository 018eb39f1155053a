"""The spool keeps what is not answered or not sent, within its limits and across restarts."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from dtvit_jax.pacs import spool as spool_module
from dtvit_jax.pacs.spool import Limits, Spool, Stored
from tests.helpers.spool import put


def stored(spool, count=1, study=None, size=1000):
    """Stores objects of one study; its UID and the outcomes."""
    study = study or generate_uid()
    outcomes = [put(spool, bytes(size), study, generate_uid()) for _ in range(count)]
    return study, outcomes


def answer(spool, study):
    spool.answered(study, spool.images(study), [])


def opened(folder, **limits):
    return Spool(folder, PUBLIC_KEY, Limits(**limits))


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
    with opened(tmp_path, study_bytes=2500) as spool:
        study, outcomes = stored(spool, 3)
        assert outcomes == [Stored.NEW, Stored.NEW, Stored.NO_ROOM]
        with pytest.raises(InputError, match="another listener"):
            Spool(tmp_path, PUBLIC_KEY, Limits())
        assert spool.complete(60.0) == []
    (tmp_path / "incoming/.draft-1-x.dcm").write_bytes(b"half")
    with opened(tmp_path, spare_bytes=2**60) as spool:
        assert list((tmp_path / "incoming").iterdir()) == []
        (folder,) = spool.complete(0.0)
        assert folder.name == Pseudonyms(PUBLIC_KEY).study(study)
        assert len(spool.images(folder)) == 2
        assert stored(spool)[1] == [Stored.NO_ROOM]  # the disk is nearly full
        assert not spool.can_receive()


def test_other_content_of_the_same_uid_takes_its_place_and_is_answered(tmp_path):
    with opened(tmp_path) as spool:
        assert put(spool, b"one", "1.2", "1.2.3") is Stored.NEW
        assert put(spool, b"another", "1.2", "1.2.4") is Stored.NEW
        (study,) = spool.complete(0.0)
        answer(spool, study)
        assert put(spool, b"one", "1.2", "1.2.3") is Stored.DUPLICATE
        assert spool.complete(0.0) == []
        assert put(spool, b"new", "1.2", "1.2.3") is Stored.REPLACED
        assert spool.complete(60.0) == []  # it waits for others again
        assert spool.complete(0.0) == [study]
        assert sorted(file.read_bytes() for file in study.iterdir()) == [b"another", b"new"]
        answer(spool, study)
        assert put(spool, b"new", "1.2", "1.2.3") is Stored.DUPLICATE
        assert spool.complete(0.0) == []
        assert put(spool, b"one", "1.2", "1.2.3") is Stored.REPLACED  # back to the first
        assert spool.complete(0.0) == [study]


def test_an_image_that_is_replaced_during_its_answer_is_answered_again(tmp_path):
    with opened(tmp_path) as spool:
        put(spool, b"old", "1.2", "1.2.3")
        (study,) = spool.complete(0.0)
        images = spool.images(study)
        put(spool, b"new", "1.2", "1.2.3")
        spool.answered(study, images, [])
        assert spool.complete(0.0) == [study]
    with opened(tmp_path) as spool:
        assert spool.complete(0.0) == [study]
        answer(spool, study)
    with opened(tmp_path) as spool:
        assert spool.complete(0.0) == []


def test_a_crash_while_an_image_is_replaced_loses_neither(tmp_path, monkeypatch):
    with opened(tmp_path) as spool:
        put(spool, b"old", "1.2", "1.2.3")
        (study,) = spool.complete(0.0)
        answer(spool, study)

        def crash(path):
            raise OSError("the power is off")

        monkeypatch.setattr(spool_module, "sync", crash)
        with pytest.raises(OSError, match="power"):
            put(spool, b"new", "1.2", "1.2.3")
    monkeypatch.undo()
    with opened(tmp_path) as spool:
        assert [file.read_bytes() for file in study.iterdir()] == [b"old"]
        assert put(spool, b"new", "1.2", "1.2.3") is Stored.REPLACED  # sent again
        assert spool.complete(0.0) == [study]


def test_a_replaced_image_counts_once_towards_the_limits(tmp_path):
    with opened(tmp_path, study_bytes=2000, study_objects=2, spool_bytes=2000) as spool:
        for uid in ("1.2.3", "1.2.4"):
            put(spool, b"a" * 1000, "1.2", uid)
        assert put(spool, b"b" * 1000, "1.2", "1.2.3") is Stored.REPLACED
        assert put(spool, b"c" * 1001, "1.2", "1.2.3") is Stored.NO_ROOM
        (study,) = spool.complete(0.0)
        assert sorted(file.read_bytes()[:1] for file in study.iterdir()) == [b"a", b"b"]


def test_a_state_without_digests_opens_as_before(tmp_path):
    with opened(tmp_path) as spool:
        study, _ = stored(spool, 2)
        (folder,) = spool.complete(0.0)
        names = sorted(spool.images(folder))
    state = tmp_path / "state" / f"{folder.name}.json"
    state.write_text(json.dumps({"images": names, "unsent": ["sr.dcm"]}))
    with opened(tmp_path) as spool:
        assert spool.complete(0.0) == []  # nothing was replaced then
        assert [path.name for path in spool.unsent()[folder.name]] == ["sr.dcm"]
        stored(spool, 1, study)
        assert spool.complete(0.0) == [folder]
    state.write_text("half a st")
    with opened(tmp_path) as spool:
        assert spool.complete(0.0) == [folder]


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abc"), st.sampled_from([b"1", b"2"])),
            st.sampled_from(["answer", "restart"]),
        ),
        max_size=20,
    )
)
def test_a_study_waits_while_an_image_of_it_is_not_answered(steps, tmp_path_factory):
    folder, sent, answered = tmp_path_factory.mktemp("spool"), {}, {}
    spool = opened(folder)
    for step in steps:
        if step == "restart":
            spool.__exit__()
            spool = opened(folder)
        elif step == "answer":
            for study in spool.complete(0.0):
                answer(spool, study)
            answered = dict(sent)
        else:
            name, content = step
            put(spool, content, "1.2", name)
            sent[name] = content
            if answered.get(name) != content:
                answered.pop(name, None)  # even if the first content comes again
        assert bool(spool.complete(0.0)) == (answered != sent)
    spool.__exit__()
