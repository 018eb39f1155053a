"""Zip files of torch.save, written by hand: what is read from them, and what is refused."""

import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from data_builder.errors import InputError
from dtvit_jax.weights import files, torch_zip
from tests.helpers.torch_files import KINDS, NO_HOOKS, Raw, Tensor, pickled, write, write_state

VALUES = np.arange(24, dtype="<f4")
BYTES = {"0": VALUES.tobytes()}


def of(shape=(24,), strides=(1,), offset=0, length=24, key="0", kind="FloatStorage"):
    return Tensor(kind, key, length, offset, shape, strides)


def read(tmp_path, content, storages=BYTES, **options):
    write(tmp_path / "w.pth", content, storages, **options)
    return files.read(tmp_path / "w.pth").arrays


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_read_as_it_was(kind, tmp_path):
    rng = np.random.default_rng(0)
    state = {
        "a.weight": rng.integers(0, 100, (3, 5, 2)).astype(kind),
        "a.bias": rng.integers(0, 2, 7).astype(kind),
        "a.count": np.array(1, kind),
        "a.none": np.zeros((0, 3), kind),
    }
    write_state(tmp_path / "w.pth", state)
    got = files.read(tmp_path / "w.pth").arrays
    assert list(got) == list(state)
    for name, array in state.items():
        assert got[name].dtype == kind
        np.testing.assert_array_equal(got[name], array)
    assert not got["a.weight"].flags.writeable and not got["a.weight"].flags.owndata  # mapped


def test_bfloat16_becomes_float32(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 6)).astype(ml_dtypes.bfloat16)
    tensor = of((4, 6), (6, 1), kind="BFloat16Storage")
    got = read(tmp_path, {"a": tensor}, {"0": values.tobytes()})["a"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values.astype(np.float32))


def test_views_of_one_storage_keep_their_strides(tmp_path):
    got = read(
        tmp_path,
        {
            "whole": of((4, 6), (6, 1)),
            "transposed": of((6, 4), (1, 6)),
            "column": of((4,), (6,), offset=2),
            "last": of((), (), offset=23),
            "part": Raw(b"ctorch._utils\n_rebuild_parameter\n" + parameter(of((2,), (3,), 7))),
        },
        folder="another name",
    )
    whole = VALUES.reshape(4, 6)
    np.testing.assert_array_equal(got["whole"], whole)
    np.testing.assert_array_equal(got["transposed"], whole.T)
    np.testing.assert_array_equal(got["column"], whole[:, 2])
    assert got["last"] == 23
    np.testing.assert_array_equal(got["part"], [7, 10])
    assert np.shares_memory(got["whole"], got["transposed"])


def parameter(tensor):
    return pickled((tensor, True, NO_HOOKS)) + b"R"


def test_a_storage_at_any_place_of_the_file_is_read(tmp_path):
    """torch.save aligns storages; other writers need not."""
    for length in range(4):
        got = read(tmp_path, {"a": of()}, {"x": bytes(length), **BYTES})
        np.testing.assert_array_equal(got["a"], VALUES)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_state_dict_in_a_checkpoint_is_found(wrapper, tmp_path):
    rest = {"epoch": 300, "best": 0.5, "ema": None, "done": True, "steps": [1, -2, 2**40]}
    got = read(tmp_path, {**rest, wrapper: {"a": of()}})
    assert list(got) == ["a"]
    whole = torch_zip.read(tmp_path / "w.pth")
    assert {name: whole[name] for name in rest} == rest


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_refused_and_not_run(protocol, tmp_path):
    proof = tmp_path / "it_ran"
    program = pickle.dumps({"a": Hostile(proof)}, protocol)
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(InputError, match="could run code") as error:
        files.read(tmp_path / "w.pth")
    assert "\n" not in str(error.value)
    pickle.loads(program)
    assert proof.is_dir()  # it would have


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (Raw(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R"), "names 'os system', which is more"),
        (Raw(b"cbuiltins\ngetattr\n"), "names 'builtins getattr'"),
        (Raw(b"ctorch\nFloatStorage.__init__\n"), "names 'torch FloatStorage.__init__'"),
        (Raw(b"ctorch\nFloatStorage\n)R"), "calls 'torch FloatStorage'"),
        (Raw(b"ctorch\nFloatStorage\n)\x81"), "instruction NEWOBJ"),
        (Raw(b"\x82\x01"), "instruction EXT1"),
        ({"a": of(offset=1)}, "exceeds its storage of 24"),
        ({"a": of((5, 6), (6, 1))}, "exceeds its storage"),
        ({"a": of((2,), (24,))}, "exceeds its storage"),
        ({"a": of((1 << 40,), (0,))}, "exceeds its storage"),  # one element, repeated
        ({"a": of((2,), (-1,), offset=3)}, "do not fit together"),
        ({"a": of((2,), (1, 1))}, "do not fit together"),
        ({"a": of(offset=-1)}, "do not fit together"),
        ({"a": of(length=25)}, "storage 0 has 96 bytes"),
        ({"a": of(kind="DoubleStorage")}, "storage 0 has 96 bytes"),
        ({"a": of(key="1")}, "damaged .*'1'"),
        ({"a": of((1,) * 70, (1,) * 70)}, "damaged"),
        ({"a": Raw(b"h\x63")}, "damaged"),  # of an empty memo
        ({"a": Raw(pickled((1, 2, 3, 4, 5)) + b"Q")}, "a int in a wrong place"),
        (Raw(b"\x8a"), "damaged"),
        (Raw(b"0"), "instruction POP"),
        (Raw(b"}}X\x01\x00\x00\x00as"), "damaged|holds"),
        (Raw(b"}}Ns"), "a dict in a wrong place"),  # a dict for a key
        ([1], "holds a list, not a dict"),
        ({"a": 3}, "'a' is a int, not a tensor"),
        ({3: of()}, "has 3 for a tensor's name"),
    ],
)
def test_what_is_no_state_dict_is_one_line(content, says, tmp_path):
    with pytest.raises(InputError, match=says) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"byteorder": b"big"}, "big-endian: load and save it"),
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),
    ],
)
def test_other_zip_files_are_refused(options, says, tmp_path):
    with pytest.raises(InputError, match=says):
        read(tmp_path, {"a": of()}, **options)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("letter.txt", "text")
    with pytest.raises(InputError, match=r"not one that torch\.save wrote"):
        files.read(tmp_path / "other.zip")


def test_any_damage_is_one_line(tmp_path):
    """Cut anywhere, or with any byte changed."""
    write(tmp_path / "w.pth", {"model": {"a.weight": of((4, 6), (6, 1))}}, BYTES)
    whole = (tmp_path / "w.pth").read_bytes()
    path = tmp_path / "damaged.pth"
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"damaged|not a file") as error:
            files.read(path)
        assert "\n" not in str(error.value)
    refused = 0
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x55
        path.write_bytes(changed)
        try:
            arrays = files.read(path).arrays
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
        else:  # a time, a version, a flag that nothing depends on
            for array in arrays.values():
                np.testing.assert_array_equal(array, VALUES.reshape(4, 6))
    assert refused > len(whole) / 3
