"""Weights of a run of ours: into a model, into a file and back; and what is refused."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from data_builder.errors import InputError
from dtvit_jax import convert, models, runtime
from dtvit_jax.models.variables import split_model
from dtvit_jax.runs.trained_run import open_weights
from dtvit_jax.training.checkpoint import has_checkpoint
from dtvit_jax.training.setup import abstract_state, initial_state, make_setup
from dtvit_jax.training.sharding import make_mesh, placed_on
from dtvit_jax.weights import files, load
from tests.helpers import tiny
from tests.helpers.reference_models import assert_equal, pictures, write_reference
from tests.helpers.run_folder import save_run

VIT = {"name": "vit_nano8", "image_size": 32, "channels": 3, "head": "mlp", "location_classes": 3}
MODELS = {
    "vit": {**VIT, "pooling": "mean", "gelu": "tanh", "norm_epsilon": 1e-5},
    "gray_vit": {**VIT, "channels": 1, "pooling": "cls", "head": "linear"},
    "squeezenet": {**VIT, "name": "squeezenet1_1"},
    "resnet": {**VIT, "name": "resnet18", "channels": 1, "location_classes": 4},
}


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory):
    """A run's folder as training leaves it, with its model's config, parameters and statistics."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    model = MODELS[request.param]
    return workdir, model, *save_run(workdir, model)


@functools.cache
def _abstract(items):
    options = dict(items)
    name = options.pop("name")
    new = nnx.eval_shape(lambda: models.create(name, key=jax.random.key(0), **options))
    return split_model(new)


def abstract_model(model):
    """Graph, parameters and statistics of a model, shapes only."""
    return _abstract(tuple(sorted(model.items())))


def read(path, model, heads=False):
    """What `load_into` makes of `path` for a new model of the config `model`."""
    _, params, stats = abstract_model(model)
    return load.load_into(open_weights(path), model, params, stats, heads)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def answers(model, params, stats, images):
    graph, _, _ = abstract_model(model)
    run = jax.jit(
        lambda params, stats, images: nnx.merge(graph, nnx.State(params), nnx.State(stats))(images)
    )
    return run(params, stats, jnp.asarray(images))


def test_a_run_is_read_whole_at_its_best_step(run):
    workdir, model, params, stats = run
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    assert_same(read(workdir, model, heads=True), (params, stats))
    encoder, its_stats = read(workdir, model)
    assert_same((encoder["encoder"], its_stats), (params["encoder"], stats))
    for name in ("hemorrhage", "location"):  # left as they were: shapes
        assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(encoder[name]))
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before


def test_all_of_a_run_goes_into_a_file_and_back(run, tmp_path, capsys):
    """The file tells its model: nothing but --out is to be given. Its name says nothing."""
    workdir, model, params, stats = run
    out = tmp_path / "model.pth"
    assert convert.main([str(workdir), "--all", "--out", str(out)]) == 0
    total = sum(x.size for x in jax.tree.leaves(params))
    assert f"{total:,} parameters" in capsys.readouterr().out
    assert_same(read(out, model, heads=True), (params, stats))
    again = tmp_path / "again.safetensors"
    assert convert.main([str(out), "--all", "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_a_written_file_is_taken_where_it_is_mapped(run, tmp_path):
    """On a CPU JAX copies no array of whole cache lines: a model's start is spared that."""
    workdir, *_ = run
    out = tmp_path / "model.safetensors"
    assert convert.main([str(workdir), "--all", "--out", str(out)]) == 0
    found = files.read(out).arrays
    for name, theirs in load_file(out).items():  # the format's own reader
        np.testing.assert_array_equal(found[name], theirs)
    aligned = [a for a in found.values() if a.nbytes % runtime.ALIGNMENT == 0]
    assert len(aligned) > 0.8 * len(found)
    for array in aligned:
        assert jax.device_put(array).unsafe_buffer_pointer() == array.ctypes.data


def test_an_encoder_goes_out_under_its_publishers_names_and_back(run, tmp_path):
    workdir, model, params, stats = run
    out = tmp_path / "encoder.safetensors"
    assert convert.main([str(workdir), "--out", str(out)]) == 0
    names = set(load_file(out))
    theirs = {"vit": "patch_embed.proj.weight", "sq": "features.3.squeeze.weight", "re": "bn1.bias"}
    assert next(v for k, v in theirs.items() if model["name"].startswith(k)) in names
    got, its_stats = read(out, model)
    assert_same((got["encoder"], its_stats), (params["encoder"], stats))
    if model["name"].startswith("vit"):
        assert load.model_options(open_weights(out), model["name"]) == {
            "gelu": model.get("gelu", "exact"),
            "norm_epsilon": model.get("norm_epsilon", 1e-6),
        }
        other = {**model, "norm_epsilon": 1e-3}
        with pytest.raises(InputError, match=r"set --config\.model\.norm_epsilon=1e-0"):
            read(out, other)
    with pytest.raises(InputError, match="no heads of this program"):
        read(out, model, heads=True)


def test_a_runs_encoder_for_gray_images_and_another_size(run):
    workdir, model, params, stats = run
    if model["channels"] == 1:
        with pytest.raises(InputError, match="is it the file of another model"):
            read(workdir, {**model, "channels": 3})  # gray does not become colour
        return
    gray = pictures(32, channels=1)
    alone = {**model, "channels": 1}
    one = answers(alone, *read(workdir, alone, heads=True), gray)
    three = answers(model, params, stats, np.repeat(gray, 3, axis=-1))
    for folded, repeated in zip(one, three, strict=True):
        assert_equal(folded, np.asarray(repeated))
    larger, _ = read(workdir, {**model, "image_size": 48})
    if model["name"].startswith("vit"):
        want = load.resample_positions(np.asarray(params["encoder"]["position_embedding"]), 37)
        np.testing.assert_array_equal(larger["encoder"]["position_embedding"], want)


def test_heads_that_do_not_fit_are_named(run):
    workdir, model, _, _ = run
    classes = 7 - model["location_classes"]
    with pytest.raises(InputError, match=r"location\.out\.bias is \(\d,\) there and \(\d,\)"):
        read(workdir, {**model, "location_classes": classes}, heads=True)
    head = "mlp" if model["head"] == "linear" else "linear"
    with pytest.raises(InputError, match=r"hemorrhage\.(hidden|out)\.\w+"):
        read(workdir, {**model, "head": head}, heads=True)
    if model.get("pooling"):
        other = {"cls": "mean", "mean": "cls"}[model["pooling"]]
        with pytest.raises(InputError, match=rf"config\.model\.pooling={model['pooling']}"):
            read(workdir, {**model, "pooling": other}, heads=True)
        read(workdir, {**model, "pooling": other})  # the encoder alone may be pooled otherwise


def test_an_encoder_that_does_not_fit_is_named(run, tmp_path):
    workdir, model, _, _ = run
    wrong = "resnet18" if model["name"].startswith("vit") else "vit_nano8"
    with pytest.raises(InputError, match=f"{wrong} is another kind of model"):
        read(workdir, {**VIT, "name": wrong})
    with pytest.raises(InputError, match=f"{wrong} is another kind of model"):
        load.model_options(open_weights(workdir), wrong)
    out = tmp_path / "all.safetensors"
    convert.main([str(workdir), "--all", "--out", str(out)])
    state = load_file(out)
    name = next(k for k in state if k.startswith("encoder") and k.endswith("bias"))
    save_file({k: v for k, v in state.items() if k != name}, out)
    with pytest.raises(InputError, match=f"has no '{name}'"):
        read(out, model)
    save_file({**state, "encoder.extra": np.zeros(2, np.float32)}, out)
    with pytest.raises(InputError, match=r"holds 'encoder\.extra'"):
        read(out, model)
    save_file({**state, "location.extra": np.zeros(2, np.float32)}, out)
    with pytest.raises(InputError, match=r"holds 'location\.extra'"):
        read(out, model, heads=True)
    read(out, model)  # a head more or less is no matter where none is taken


@pytest.mark.parametrize("run", ["vit"], indirect=True)
def test_training_begins_with_the_runs_encoder_and_heads_of_its_own(run):
    workdir, model, params, _ = run
    config = tiny.get_config()
    config.model = model
    setup = make_setup(config, steps=1)
    abstract = abstract_state(setup)
    placed = placed_on(make_mesh(config.mesh), abstract)
    loaded = load.load_into(open_weights(workdir), model, abstract.params, abstract.stats)
    got = initial_state(config, setup, placed, loaded).params
    assert_same(got["encoder"], params["encoder"])
    for name in ("hemorrhage", "location"):
        kernel = np.asarray(got[name]["out"]["kernel"])
        assert kernel.std() > 0.01  # drawn anew
        assert np.abs(kernel - params[name]["out"]["kernel"]).max() > 0.01


@pytest.mark.parametrize("run", ["squeezenet"], indirect=True)
def test_folders_that_are_no_run_and_runs_that_are_damaged(run, tmp_path, capsys):
    def refused(folder):
        capsys.readouterr()
        assert convert.main([str(folder), "--out", str(tmp_path / "out.safetensors")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and not (tmp_path / "out.safetensors").exists()
        return said

    assert "no checkpoints" in refused(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy)
    (copy / "config.json").write_text('{"model_type": "vit"}')
    assert "config.json is missing or damaged" in refused(copy)
    shutil.copy(run[0] / "config.json", copy)
    for path in (copy / "checkpoints" / "3" / "state").rglob("*"):
        if path.is_file() and path.name != "_METADATA":
            path.write_bytes(b"")
    assert "damaged checkpoint" in refused(copy)
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").mkdir()
    assert "no validated checkpoint" in refused(copy)
    assert not has_checkpoint(copy) and has_checkpoint(run[0])


def test_a_published_file_needs_the_models_name(tmp_path, capsys):
    path, _, _, _ = write_reference("timm_vit", tmp_path)
    assert convert.main([str(path), "--out", str(tmp_path / "o")]) == 2
    assert "add --model" in capsys.readouterr().err
    for model, kind in (("resnet18", "ViT"), ("vgg16", "ViT")):
        assert convert.main([str(path), "--model", model, "--out", str(tmp_path / "o")]) == 2
        said = capsys.readouterr().err
        assert f"weights of a {kind}" in said and said.count("\n") == 1
    path, _, _, _ = write_reference("squeezenet1_0", tmp_path)
    for model in ("vit_nano16", "squeezenet1_1", "alexnet", "resnet18", "no_such"):
        assert convert.main([str(path), "--model", model, "--out", str(tmp_path / "o")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_damaged_header_is_called_so(tmp_path):
    path, state, _, _ = write_reference("timm_vit", tmp_path)
    save_file(state, path, metadata={"norm_epsilon": "small"})
    with pytest.raises(InputError, match="header is damaged"):
        load.stated_options(open_weights(path))
    save_file(state, path, metadata={"name": "vit_nano16", "gelu": "exact"})
    assert json.loads(json.dumps(load.stated_options(open_weights(path))))["gelu"] == "exact"


def test_half_precision_files_are_read(tmp_path):
    path, state, about, _ = write_reference("timm_vit", tmp_path)
    import ml_dtypes

    for kind in (np.float16, ml_dtypes.bfloat16):
        save_file({k: v.astype(kind) for k, v in state.items()}, path)
        model = {"name": about["model"], "image_size": about["side"]}
        params, _ = read(path, model)
        kernel = params["encoder"]["patch_embedding"]["kernel"]
        assert kernel.dtype == np.float32
        assert_equal_half(kernel, state["patch_embed.proj.weight"], kind)


def assert_equal_half(kernel, weight, kind):
    want = weight.astype(kind).astype(np.float32).transpose(2, 3, 1, 0).reshape(kernel.shape)
    assert_equal(kernel, want)
