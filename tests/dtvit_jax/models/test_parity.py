"""Live comparison with torchvision, timm and transformers; it takes the `parity` extra.

Without them everything here is skipped, unless DTVIT_PARITY=1 says that they must be there.
"""

import importlib.util
import os
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.reference_models import assert_equal, draw, load, our_answers, pictures
from tests.helpers.run_folder import save_run

PACKAGES = ("torch", "torchvision", "timm", "transformers")
absent = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
if absent and os.environ.get("DTVIT_PARITY") != "1":
    pytest.skip(f"the parity extra is not installed: {', '.join(absent)}", allow_module_level=True)

import torch  # noqa: E402

from data_builder.errors import InputError  # noqa: E402
from dtvit_jax import convert  # noqa: E402
from dtvit_jax.data.augment import IDENTITY, PARAMETERS, transform  # noqa: E402
from dtvit_jax.runs.trained_run import open_weights  # noqa: E402
from dtvit_jax.weights import files, hub  # noqa: E402
from dtvit_jax.weights import load as pretrained  # noqa: E402
from tests.helpers import make_references as references  # noqa: E402


@pytest.mark.parametrize("name", references.REFERENCES)
def test_equal_to_the_reference_implementation(name, tmp_path):
    reference = references.REFERENCES[name]()
    path = references.save(reference.state, name, tmp_path)
    encoder = load(path, reference.model, image_size=reference.side).encoder
    got = our_answers(encoder, reference.state, reference.side)
    for part, want in reference.answers.items():
        assert_equal(got[part], want)


@pytest.mark.parametrize("name", references.REFERENCES)
def test_the_stored_answers_are_still_the_reference_implementations(name):
    reference = references.REFERENCES[name]()
    with np.load(references.FOLDER / f"{name}.npz") as stored:
        for part, want in reference.answers.items():
            assert_equal(stored[part], want[..., :8] if want.ndim == 4 else want)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_kinds_of_pth(zipped, tmp_path):
    reference = references.torchvision_vit()
    tensors = {k: torch.from_numpy(v) for k, v in reference.state.items()}
    torch.save({"model": tensors}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    got = files.read(tmp_path / "w.pth").arrays
    assert got.keys() == reference.state.keys()
    for name, array in got.items():
        np.testing.assert_array_equal(array, reference.state[name])


def test_a_zip_is_read_as_torch_reads_it(tmp_path):
    """Every type, views, shared storages, parameters, a buffer of no elements; nothing by torch."""
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state = module.state_dict()
    state |= {"parameter": torch.nn.Parameter(torch.randn(2, 2)), "none": torch.zeros(0, 3)}
    state |= {
        "base": base,
        "transposed": base.T,
        "strided": base[1::2, 2:7:3],
        "element": base[3, 3],
    }
    for kind in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"):
        state[kind] = (100 * torch.rand(3, 5)).to(getattr(torch, kind))
        state[f"{kind}_view"] = state[kind][:, 1:4].T
    state["bool"] = torch.rand(7) > 0.5
    assert hasattr(state, "_metadata")
    torch.save(state, tmp_path / "w.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        got = files.read(tmp_path / "w.pth").arrays
    want = torch.load(tmp_path / "w.pth", weights_only=True)
    assert list(got) == list(want)
    for name, tensor in want.items():
        widened = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
        assert got[name].dtype == widened.numpy().dtype and got[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(got[name], widened.numpy())


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_code_is_refused(kind, tmp_path):
    proof = tmp_path / "it_ran"
    state = {"conv_proj.weight": torch.zeros(1), "x": Hostile(proof)}
    path = tmp_path / "w.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InputError, match="could run code"):
        pretrained.stated_options(open_weights(path))
    assert not proof.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_pth_is_called_damaged(zipped, tmp_path):
    path = tmp_path / "w.pth"
    tensors = {"conv_proj.weight": torch.zeros(100, 100)}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (2, 50, 120, 300, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged") as error:
            pretrained.stated_options(open_weights(path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [([1], "a list"), ({"a": 3}, "not a tensor"), ({"state_dict": {"a": torch.ones(1)}}, "layout")],
)
def test_a_pth_of_something_else_is_named(content, says, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=says):
        pretrained.stated_options(open_weights(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", sorted(hub.TORCHVISION))
def test_file_names_are_torchvisions_own(name):
    """torchvision's Weights enums hold the addresses; the hash is part of the name."""
    model = name.removesuffix("_swag_e2e").removesuffix("_swag_linear").removesuffix("_v2")
    enum = references.import_torchvision().models.get_model_weights(model)
    member = {
        "e2e": "IMAGENET1K_SWAG_E2E_V1",
        "ear": "IMAGENET1K_SWAG_LINEAR_V1",
        "_v2": "IMAGENET1K_V2",
    }.get(name[-3:], "IMAGENET1K_V1")
    assert hub.published(f"torchvision/{name}").url == enum[member].url


@pytest.mark.parametrize("name", ["torchvision_vit", "google_vit", "hugging_face_vit"])
def test_what_goes_out_loads_into_timm(name, tmp_path):
    """No key missing, none unexpected, and timm's model computes the same."""
    reference = references.REFERENCES[name]()
    path = references.save(reference.state, name, tmp_path)
    out = tmp_path / "out.safetensors"
    arguments = [str(path), "--model", "vit_nano16", "--image_size", "48", "--out", str(out)]
    assert convert.main(arguments) == 0
    act = "gelu_tanh" if name == "google_vit" else "gelu"
    vit = references.make_timm(48, act)
    vit.reset_classifier(0)
    state = files.read(out).arrays
    vit.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    with torch.no_grad():
        want = vit.eval()(torch.from_numpy(pictures(48)).permute(0, 3, 1, 2)).numpy()
    ours = load(path, "vit_nano16", image_size=48).encoder(jnp.asarray(pictures(48)))
    assert_equal(ours, want)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_runs_encoder_loads_into_timm(pooling, tmp_path):
    """timm's 'avg' pools after the last norm, as ours, where it is told fc_norm=False."""
    model = {"name": "vit_nano16", "image_size": 48, "channels": 3, "pooling": pooling}
    save_run(tmp_path / "run", {**model, "location_classes": 3})
    out = tmp_path / "out.safetensors"
    assert convert.main([str(tmp_path / "run"), "--out", str(out)]) == 0
    timms = {"global_pool": "token"} if pooling == "cls" else {"global_pool": "avg"}
    vit = references.make_timm(48, fc_norm=False, **timms)
    vit.reset_classifier(0, timms["global_pool"])
    state = {k: torch.from_numpy(v) for k, v in files.read(out).arrays.items()}
    found = vit.load_state_dict(state, strict=True)
    assert not found.missing_keys and not found.unexpected_keys
    with torch.no_grad():
        want = vit.eval()(torch.from_numpy(pictures(48)).permute(0, 3, 1, 2)).numpy()
    ours = load(tmp_path / "run", "vit_nano16", image_size=48, pooling=pooling).encoder
    assert_equal(ours(jnp.asarray(pictures(48))), want)


def test_resnet_trains_as_torchvisions(tmp_path):
    """One training pass: features of batch statistics, and the running ones after it."""
    cnn = references.make_cnn("resnet18")
    state = references.fill(cnn)
    path = references.save(state, "resnet18", tmp_path)
    encoder = load(path, "resnet18", image_size=64).encoder
    got = encoder(jnp.asarray(pictures(64)), key=jax.random.key(0))
    cnn.fc = torch.nn.Identity()
    with torch.no_grad():
        want = cnn.train()(torch.from_numpy(pictures(64)).permute(0, 3, 1, 2)).numpy()
    # 8 values a channel in the last stage: float32 differs more than at inference
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    stats = nnx.to_pure_dict(nnx.state(encoder, nnx.BatchStat))
    bn1 = cnn.bn1
    np.testing.assert_allclose(stats["bn1"]["mean"], bn1.running_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["bn1"]["var"], bn1.running_var, rtol=1e-5)


def test_positions_are_resampled_as_timm_does():
    from timm.layers import resample_abs_pos_embed

    before = draw(["pos_embed"], [(1, 197, 64)])["pos_embed"]
    for new in (7, 16, 24):
        want = resample_abs_pos_embed(torch.from_numpy(before), [new, new]).numpy()
        np.testing.assert_allclose(
            pretrained.resample_positions(before, new * new + 1), want, atol=1e-5
        )


def heads(n, side):
    """Noisy rings on black, as a head is."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:side, :side] / side - 0.5
    radius = np.hypot(x, y * rng.uniform(0.8, 1.2, (n, 1, 1)))
    gray = 110 + 60 * np.sin(40 * x + rng.uniform(0, 6, (n, 1, 1))) + 80 * (radius > 0.38)
    gray = gray + rng.normal(0, 12, gray.shape)
    return (np.clip(gray, 0, 255) * (radius < 0.42)).astype(np.uint8)


def test_the_papers_transform_is_torchvisions():
    """Resize, crop, rotation, sharpness, normalisation: at least 99.5% of all pixels equal."""
    from PIL import Image

    from data_builder.shards.images import resize

    transforms = references.import_torchvision().transforms
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    begin = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    end = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    rng = np.random.default_rng(4)
    drawn = np.repeat(IDENTITY[None], 16, 0)
    drawn[:, PARAMETERS.index("angle")] = rng.uniform(-15, 15, len(drawn))
    drawn[::2, PARAMETERS.index("sharpness")] = 2
    stored, expected = [], []
    for picture, row in zip(heads(len(drawn), 512), drawn, strict=True):
        image = Image.fromarray(picture)
        stored.append(np.asarray(resize(image, 256)))
        image = transforms.functional.rotate(begin(image.convert("RGB")), float(row[0]))
        if row[5] != 1:
            image = transforms.functional.adjust_sharpness(image, float(row[5]))
        expected.append(end(image).permute(1, 2, 0).numpy())
    ours = jax.jit(
        lambda x, p: transform(
            x,
            p,
            image_size=224,
            channels=3,
            windows=((0.0, 255.0),) * 3,
            mean=mean,
            std=std,
        )
    )(np.stack(stored), drawn)
    equal = np.abs(np.asarray(ours) - np.stack(expected)) < 1e-5
    assert equal.all(-1).mean() >= 0.995
    assert equal.all(-1).mean((1, 2)).min() >= 0.99  # and no image is much worse


def test_the_drawn_parameters_are_torchvisions():
    """RandomRotation's uniform angles, RandomAdjustSharpness for half."""
    from dtvit_jax.data.augment import Augmentation

    transforms = references.import_torchvision().transforms
    paper = Augmentation(15.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0)
    rows = paper.draw(0, 0, 2000)
    torch.manual_seed(0)
    turn = transforms.RandomRotation(15)
    theirs = [transforms.RandomRotation.get_params(turn.degrees) for _ in range(2000)]
    at = np.linspace(0.05, 0.95, 10)
    ours = np.quantile(rows[:, PARAMETERS.index("angle")], at)
    assert np.abs(ours - np.quantile(theirs, at)).max() < 1.5
    assert abs((rows[:, PARAMETERS.index("sharpness")] == 2).mean() - 0.5) < 0.05
