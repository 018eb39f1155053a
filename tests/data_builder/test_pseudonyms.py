"""Pseudonyms are stable, keyed and free of their origin; key and lookup files are private."""

import base64
import hashlib
import hmac
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Lookup, Pseudonyms, load_key, lookup_path

KINDS = ("subject", "study", "series", "slice", "file")


@pytest.fixture(autouse=True)
def own_config_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pseudonym_is_hmac_sha256_of_its_kind_and_identity():
    # Independent reference: RFC 2104 written out.
    key = b"k" * 20
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + b"sub\0A 17").digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).digest()
    expected = "sub-" + base64.b32encode(outer[:10]).decode().lower()
    assert Pseudonyms(key).subject("A 17") == expected


@given(st.text(), st.text())
def test_pseudonyms_of_other_kinds_keys_and_identities_differ(one, other):
    mine, theirs = Pseudonyms(PUBLIC_KEY), Pseudonyms(b"another key, as long")
    made = [getattr(mine, kind)(one) for kind in KINDS]
    assert len({text.split("-")[1] for text in made}) == len(KINDS)
    assert made[0] != theirs.subject(one)
    assert (mine.subject(one) == mine.subject(other)) == (one == other)
    assert all(part.isalnum() and part == part.lower() for part in made[0].split("-"))


def test_a_path_that_is_not_utf8_has_a_pseudonym():
    assert Pseudonyms(PUBLIC_KEY).file("caf\udce9.dcm").startswith("fil-")


def test_the_users_key_is_made_once_with_mode_600(tmp_path):
    key = load_key(None)
    path = tmp_path / "config" / "dtvit" / "key"
    assert mode_of(path) == 0o600
    assert load_key(None) == key != PUBLIC_KEY
    assert len(key) >= 32


def test_a_named_key_is_made_at_its_path_and_the_public_key_writes_nothing(tmp_path):
    first = load_key(str(tmp_path / "site" / "a"))
    second = load_key(str(tmp_path / "site" / "b"))
    assert first != second
    assert sorted(p.name for p in (tmp_path / "site").iterdir()) == ["a", "b"]
    assert load_key("public") == PUBLIC_KEY
    assert lookup_path("public") is None
    assert not (tmp_path / "config").exists()


def test_a_short_key_and_an_unreadable_one_are_refused(tmp_path):
    short = tmp_path / "short"
    short.write_text("abc")
    with pytest.raises(InputError, match="3 bytes"):
        load_key(str(short))
    with pytest.raises(InputError, match="--key"):
        load_key(str(tmp_path))


def test_equal_bytes_have_one_name_under_one_key_and_what_cannot_be_read_has_none(tmp_path):
    one, copy, other = (tmp_path / name for name in ("one", "copy", "other"))
    one.write_bytes(b"Jane Doe")
    copy.write_bytes(b"Jane Doe")
    other.write_bytes(b"Jane Roe")
    content = Pseudonyms(PUBLIC_KEY).content
    assert content(one) == content(copy) != content(other)
    # Of the hash's text under the key: without the key nobody can test a guess at a file.
    text = hashlib.sha256(b"Jane Doe").hexdigest()
    digest = hmac.digest(PUBLIC_KEY, f"con\0{text}".encode(), "sha256")[:10]
    assert content(one) == f"con-{base64.b32encode(digest).decode().lower()}"
    assert Pseudonyms(b"k" * 20).content(one) != content(one)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert [content(tmp_path / name) for name in ("pipe", "link", "none", ".")] == [""] * 4


def test_the_lookup_leads_back_and_is_private(tmp_path):
    path = lookup_path(str(tmp_path / "key"))
    lookup = Lookup(path)
    lookup.add([("fil-a", "x/1.dcm"), ("fil-a", "y/1.dcm"), ("sub-b", "17")])
    lookup.add([("fil-a", "x/1.dcm")])
    lookup.close()
    again = Lookup(path)
    assert again.find("fil-a") == ["x/1.dcm", "y/1.dcm"]
    assert again.find("nobody") == []
    assert mode_of(path) == 0o600
    again.close()
