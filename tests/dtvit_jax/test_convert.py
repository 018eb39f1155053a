"""Published weights in and encoders out, against stored answers of the publishers' own code.

tests/helpers/make_references.py made the answers; models/test_parity.py compares with the code
itself.
"""

import json
import pickle
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from data_builder.errors import InputError
from dtvit_jax import convert
from dtvit_jax.runs.trained_run import open_weights
from dtvit_jax.weights import load as pretrained
from tests.helpers import torch_files
from tests.helpers.reference_models import (
    FOLDER,
    assert_equal,
    load,
    our_answers,
    pictures,
    write_reference,
)

VITS = ("torchvision_vit", "timm_vit", "hugging_face_vit", "google_vit")


@pytest.mark.parametrize("name", VITS)
def test_a_vit_answers_as_its_publisher(name, tmp_path):
    path, state, about, want = write_reference(name, tmp_path)
    encoder = load(path, about["model"], image_size=about["side"]).encoder
    got = our_answers(encoder, state, about["side"])
    assert want.keys() == {"embedding", "block", "logits"}
    for part in want:
        assert_equal(got[part], want[part])


def test_gelu_and_epsilon_are_the_publishers(tmp_path):
    options = {
        n: pretrained.stated_options(open_weights(write_reference(n, tmp_path)[0])) for n in VITS
    }
    assert options["google_vit"] == {"gelu": "tanh", "norm_epsilon": 1e-6}
    assert options["hugging_face_vit"] == {"gelu": "exact", "norm_epsilon": 1e-12}
    exact = {"gelu": "exact", "norm_epsilon": 1e-6}
    assert options["torchvision_vit"] == options["timm_vit"] == exact
    with pytest.raises(InputError, match=r"--config\.model\.gelu=tanh"):
        load(tmp_path / "google_vit.npz", "vit_nano16", image_size=48, gelu="exact")


def test_torchvisions_older_names(tmp_path):
    """The published files say mlp.linear_1 and mlp.linear_2 for mlp.0 and mlp.3."""
    path, state, _, _ = write_reference("torchvision_vit", tmp_path)
    older = {
        k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v
        for k, v in state.items()
    }
    assert older.keys() != state.keys()
    save_file(older, tmp_path / "older.safetensors")
    new = load(path, "vit_nano16", image_size=48)
    old = load(tmp_path / "older.safetensors", "vit_nano16", image_size=48)
    for a, b in zip(jax.tree.leaves(nnx.state(new)), jax.tree.leaves(nnx.state(old)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", VITS)
def test_nothing_is_missing_and_nothing_left_over(name, tmp_path):
    path, state, _, _ = write_reference(name, tmp_path)

    def rewrite(changed):
        if path.suffix == ".npz":
            np.savez(path, **changed)
        else:
            save_file(changed, path)

    block = next(k for k in state if "1" in k and k.endswith("bias"))
    rewrite({k: v for k, v in state.items() if k != block})
    with pytest.raises(InputError, match=re.escape(repr(block.removeprefix("vit.")))):
        load(path, "vit_nano16", image_size=48)
    rewrite({**state, "extra.tokens": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"'extra.tokens', for which the model has no place"):
        load(path, "vit_nano16", image_size=48)
    rewrite({k: v for k, v in state.items() if "head" not in k and "classifier" not in k})
    load(path, "vit_nano16", image_size=48)  # the classifier may be absent


def test_another_models_file_is_named(tmp_path):
    path, _, _, _ = write_reference("timm_vit", tmp_path)
    with pytest.raises(
        InputError, match=r"blocks\.0\.\S+ is \(\d+,.* there and \(\d+,.* in the model"
    ):
        load(path, "vit_micro16", image_size=48)
    with pytest.raises(InputError, match=r"patch_embedding\.kernel is \(16, 16, 3, 64\) there"):
        load(path, "vit_nano8", image_size=24)
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no known layout"):
        pretrained.stated_options(open_weights(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("grid", [3, 4, 12, 14])
def test_positions_are_resampled_as_timm_does(grid):
    with np.load(FOLDER / "timm_positions.npz") as file:
        before, want = file["before"], file[f"grid{grid}"]
    got = pretrained.resample_positions(before, grid * grid + 1)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(got[:, 0], before[:, 0])


def test_another_image_size_loads(tmp_path):
    path, state, _, _ = write_reference("timm_vit", tmp_path)
    encoder = load(path, "vit_nano16", image_size=80).encoder
    want = pretrained.resample_positions(state["pos_embed"], 26)
    np.testing.assert_array_equal(encoder.position_embedding[...], want)


def test_positions_that_are_no_square_are_refused():
    with pytest.raises(InputError, match="squares"):
        pretrained.resample_positions(np.zeros((1, 9, 4), np.float32), 5)


@pytest.mark.parametrize("name", VITS)
def test_gray_folded_into_one_channel_answers_as_three(name, tmp_path):
    path, _, about, _ = write_reference(name, tmp_path)
    gray = jnp.asarray(pictures(about["side"], channels=1))
    one = load(path, about["model"], image_size=about["side"], channels=1).encoder
    three = load(path, about["model"], image_size=about["side"]).encoder
    assert_equal(one(gray), np.asarray(three(jnp.repeat(gray, 3, axis=-1))))


@pytest.mark.parametrize("name", VITS)
def test_the_command_writes_timms_names_and_reads_them_back(name, tmp_path, capsys):
    path, _, about, _ = write_reference(name, tmp_path)
    out = tmp_path / "out.safetensors"
    arguments = [str(path), "--model", about["model"], "--image_size", str(about["side"])]
    assert convert.main([*arguments, "--out", str(out)]) == 0
    assert "vit_nano16" in capsys.readouterr().out
    names = json.loads(str(np.load(FOLDER / "timm_vit.npz")["shapes"]))
    written = {k: list(v.shape) for k, v in load_file(out).items()}
    assert written == {k: v for k, v in names.items() if not k.startswith("head.")}
    with safe_open(out, "numpy") as file:
        assert file.metadata()["format"] == "pt"
    first = out.read_bytes()
    assert convert.main([*arguments, "--out", str(out)]) == 0
    assert out.read_bytes() == first
    before = load(path, about["model"], image_size=about["side"]).encoder
    after = load(out, about["model"], image_size=about["side"]).encoder
    images = jnp.asarray(pictures(about["side"]))
    np.testing.assert_array_equal(before(images), after(images))


def test_heads_are_kept_as_they_were(tmp_path):
    path, _, about, _ = write_reference("timm_vit", tmp_path)
    loaded = load(path, "vit_nano16", image_size=about["side"])
    for head in (loaded.hemorrhage, loaded.location):
        for leaf in jax.tree.leaves(nnx.state(head)):
            np.testing.assert_array_equal(leaf, np.ones(leaf.shape))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a file of weights"),
        (b"GIF89a.............", "not a file of weights"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00{", "damaged"),
        (b"PK\x05\x06" + bytes(18), "torch|pth"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(content, says, tmp_path, capsys):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        pretrained.stated_options(open_weights(path))
    arguments = [str(path), "--model", "vit_nano16", "--out", str(tmp_path / "o")]
    assert convert.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["timm_vit", "google_vit"])
@pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_called_damaged(name, part, tmp_path):
    path, _, _, _ = write_reference(name, tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(InputError, match="damaged"):
        pretrained.stated_options(open_weights(path))


def test_a_zipped_pth_is_read_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
    _, state, about, want = write_reference("torchvision_vit", tmp_path)
    torch_files.write_state(tmp_path / "w.pth", state)
    encoder = load(tmp_path / "w.pth", about["model"], image_size=about["side"]).encoder
    got = our_answers(encoder, state, about["side"])
    for part in want:
        assert_equal(got[part], want[part])


def test_a_legacy_pth_without_torch_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert convert.main([str(path), "--model", "vit_nano16", "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert "dtvit-jax[torch]" in said and said.count("\n") == 1


def test_pickled_objects_in_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", cls=np.array([print], dtype=object))
    with pytest.raises(InputError, match=r"bad\.npz"):
        pretrained.stated_options(open_weights(tmp_path / "bad.npz"))


def test_where_nothing_can_be_written_it_says_so(tmp_path, capsys):
    path, _, _, _ = write_reference("timm_vit", tmp_path)
    arguments = [str(path), "--model", "vit_nano16", "--image_size", "48"]
    assert convert.main([*arguments, "--out", str(tmp_path / "no" / "out.safetensors")]) == 2
    assert "can't be written" in capsys.readouterr().err
    assert convert.main([str(tmp_path), "--model", "vit_nano16", "--out", "x"]) == 2
    assert "a folder" in capsys.readouterr().err
