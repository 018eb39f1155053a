import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from data_builder.errors import InputError
from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.loader import training_batches
from dtvit_jax.models import resnet
from dtvit_jax.runs.evaluated_weights import digest
from dtvit_jax.runs.trained_run import TrainedRun
from dtvit_jax.train import train
from dtvit_jax.training import record
from dtvit_jax.training.setup import make_augmentation
from dtvit_jax.training.validation import check_best
from tests.helpers import ROOT, tiny
from tests.helpers.tensorboard_events import shown

TINY = str(ROOT / "tests/helpers/tiny.py")


def run_main(*arguments, **options):
    command = [sys.executable, "-m", "dtvit_jax.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def saved(workdir, step):
    path = workdir / "checkpoints" / str(step) / "state"
    return jax.tree.leaves(ocp.StandardCheckpointer().restore(path.absolute()))


@pytest.fixture(scope="session")
def trained(shards, tmp_path_factory):
    """A finished run: (workdir, config)."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    config = tiny.get_config(shards.folder)
    assert train(config, workdir, "a command") == 0
    return workdir, config


def last_step(workdir):
    return max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_a_run_learns_and_records_itself(trained):
    workdir, _ = trained
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    validation = [row for row in history if row["split"] == "validation"]
    assert [round(row["epoch"]) for row in validation] == [5, 10]
    # Not validation's, of 12 slices: over 20 seeds it ended at 0.24 to 1.03 of what it began with.
    first, last = [row["loss"] for row in history if row["split"] == "train"]
    assert last < 0.8 * first
    for row in history:
        halves = 0.5 * row["loss_hemorrhage"] + 0.5 * row["loss_location"]
        assert row["loss"] == pytest.approx(halves)  # Eq. 5
    run = json.loads((workdir / "run.json").read_text())
    assert run["dataset"]["split"] == "subject" and run["train_seconds"] > 0
    assert run["parameters"] > 1000 and run["command"] == "a command"
    data = json.loads((workdir / "config.json").read_text())["data"]
    assert not {"source", "key", "dir"} & data.keys()


def test_a_stopped_run_goes_on_to_the_same_bytes(trained, shards, tmp_path, monkeypatch, caplog):
    """Stopped by a signal in the middle of each epoch; the untouched run is the reference."""
    workdir, config = trained
    other = tmp_path / "stopped"
    from dtvit_jax.training import trainer as module

    original = module.training_batches

    def stopping(*arguments, **options):
        batches = original(*arguments, **options)

        class Stopping:
            served = 0

            def __next__(self):
                Stopping.served += 1
                if Stopping.served == 5:
                    os.kill(os.getpid(), signal.SIGTERM)
                return next(batches)

            def __getattr__(self, name):
                return getattr(batches, name)

        return Stopping()

    monkeypatch.setattr(module, "training_batches", stopping)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        assert [train(config, other, "a command") for _ in range(2)] == [143, 143]
        monkeypatch.setattr(module, "training_batches", original)
        assert train(config, other, "a command") == 0
    compiled = [r.getMessage() for r in caplog.records if "Compiling jit(" in r.getMessage()]
    # once in each of the three; only the third comes to a validation
    times = {
        name: sum(f"jit({name})" in m for m in compiled)
        for name in ("train_step", "validation_step")
    }
    assert times == {"train_step": 3, "validation_step": 1}
    step = last_step(workdir)
    for one, two in zip(saved(workdir, step), saved(other, step), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
    assert (workdir / "history.jsonl").read_text() == (other / "history.jsonl").read_text()
    whole, resumed = (
        {k: v.SerializeToString() for k, v in shown(run / "tensorboard").items()}
        for run in (workdir, other)
    )
    assert whole == resumed


def test_tensorboard_shows_each_step_and_what_the_run_is(trained):
    workdir, config = trained
    found = shown(workdir / "tensorboard")
    steps = last_step(workdir)
    for name in ("step/loss", "step/gradient_norm"):
        assert [s for tag, s in found if tag == name] == list(range(1, steps + 1))
    validated = {s for tag, s in found if tag == "validation/auroc_hemorrhage"}
    rows = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    assert validated == {row["step"] for row in rows if row["split"] == "validation"}
    assert found["augmented", 0].image.width == 3 * config.model.image_size  # 8 of 9 places
    text = found["parameters/text_summary", 0].tensor.string_val[0].decode()
    total = re.search(r"Total: ([\d,]+)", text)[1].replace(",", "")
    assert int(total) == json.loads((workdir / "run.json").read_text())["parameters"]
    text = found["config/text_summary", 0].tensor.string_val[0].decode()
    assert json.loads(text) == json.loads((workdir / "config.json").read_text())


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(trained, shards, tmp_path):
    """Once before its first save is done, and once in a later save."""
    workdir, _ = trained
    other = tmp_path / "killed"
    command = [sys.executable, "-m", "dtvit_jax.main", f"--config={TINY}", f"--workdir={other}"]
    command += [f"--config.data.dir={shards.folder}"]

    def saving(after):  # Orbax writes into a folder of that name, and renames it
        return any(
            int(path.name.split(".")[0]) >= after
            for path in (other / "checkpoints").glob("*.orbax-checkpoint-tmp*")
        )

    for after in (0, 1):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not saving(after) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert run_main(*command[3:]).returncode == 0
    step = last_step(workdir)
    for one, two in zip(saved(workdir, step), saved(other, step), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


def test_a_finished_run_is_not_trained_again(trained, capsys):
    workdir, config = trained
    before = (workdir / "history.jsonl").stat().st_mtime_ns
    assert train(config, workdir, "a command") == 0
    assert (workdir / "history.jsonl").stat().st_mtime_ns == before
    assert "evaluate with" in capsys.readouterr().out


def test_damaged_files_of_a_run_are_one_line_and_can_be_mended(trained, tmp_path):
    config = trained[1]
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    texts = {name: (workdir / name).read_text() for name in ("run.json", "history.jsonl")}
    (workdir / "run.json").write_text("{")
    for command in (lambda: train(config, workdir, "again"), lambda: TrainedRun(workdir)):
        with pytest.raises(InputError, match=r"run\.json of --workdir is missing or damaged"):
            command()
    (workdir / "run.json").unlink()
    (workdir / "history.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"history\.jsonl of --workdir is damaged"):
        record.read_history(workdir)
    assert train(config, workdir, "again") == 0
    assert (workdir / "history.jsonl").read_text() == texts["history.jsonl"]
    made, before = json.loads((workdir / "run.json").read_text()), json.loads(texts["run.json"])
    assert made["command"] == "again" and made["dataset"] == before["dataset"]


def test_a_run_on_another_data_set_is_refused(trained, published, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    source = shutil.copytree(published, tmp_path / "source")
    next((source / "no").iterdir()).unlink()
    config = trained[1].copy_and_resolve_references()
    config.data.dir, config.data.source = str(tmp_path / "data"), str(source)
    config.num_epochs = 12  # or it would have fewer steps than are done
    with pytest.raises(InputError, match="--workdir holds a run on another data set"):
        train(config, workdir, "")


def test_another_config_in_the_same_workdir_is_refused(trained):
    workdir, config = trained
    other = config.copy_and_resolve_references()
    other.learning_rate = 0.5
    with pytest.raises(InputError, match="learning_rate"):
        train(other, workdir, "")


def test_a_run_with_more_steps_than_the_config_asks_for_is_refused(trained):
    workdir, config = trained
    shorter = config.copy_and_resolve_references()
    shorter.num_epochs = 2
    with pytest.raises(InputError, match="has done 45 steps and the config asks for 9: give more"):
        train(shorter, workdir, "")


def test_the_best_checkpoint_is_the_one_with_the_best_validation_figure(trained):
    workdir, _ = trained
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    validation = [row for row in history if row["split"] == "validation"]
    best = min(validation, key=lambda row: row["loss"])
    run = TrainedRun(workdir)
    assert run.step == best["step"]
    predictions = run.predict("validation")
    right = (predictions.p_hemorrhage > 0.5) == predictions.hemorrhage
    assert right.mean() == pytest.approx(best["accuracy_hemorrhage"])
    chosen = predictions.p_hemorrhage[predictions.hemorrhage == 1]
    missed = 1 - predictions.p_hemorrhage[predictions.hemorrhage == 0]
    by_hand = -np.log(np.concatenate([chosen, missed])).mean()
    assert by_hand == pytest.approx(best["loss_hemorrhage"], rel=1e-4)


@pytest.fixture(scope="module")
def optioned(shards, tmp_path_factory):
    """A run with what the paper's recipe has off; at a rate of 0 nothing gets better."""
    workdir = tmp_path_factory.mktemp("runs") / "optioned"
    config = tiny.get_config(shards.folder)
    config.learning_rate, config.early_stopping, config.eval_every_epochs = 0.0, 2, 0.5
    config.best, config.keep, config.profile, config.log_every_steps = (
        "auroc_hemorrhage",
        1,
        True,
        3,
    )
    config.frozen_blocks, config.layer_decay, config.ema_decay = 1, 0.8, 0.5
    config.model.scan = True
    assert train(config, workdir, "") == 0
    return workdir, config


def test_early_stopping_counts_validations_since_the_best(optioned, capsys):
    workdir, config = optioned
    rows = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    validated = [row["step"] for row in rows if row["split"] == "validation"]
    assert validated == [2, 4, 7]  # 4.5 steps an epoch
    assert TrainedRun(workdir).step == last_step(workdir) == 7  # of equals the last is kept
    assert train(config, workdir, "") == 0  # it is done: no step is added
    assert "no better auroc_hemorrhage in 2 validations" in capsys.readouterr().out
    assert last_step(workdir) == 7


def test_a_trace_of_steps_is_written_for_xprof(optioned):
    workdir, _ = optioned
    (trace,) = (workdir / "profile" / "plugins" / "profile").glob("*/*.xplane.pb")
    content = trace.read_bytes()  # a protocol buffer: its first field is a plane
    assert content[0] == 0x0A and len(content) > 10_000
    assert b"/host:CPU" in content and b"train_step" in content


def test_frozen_parameters_have_no_moments(optioned):
    workdir, _ = optioned
    path = (workdir / "checkpoints" / "7" / "state").absolute()
    state = ocp.StandardCheckpointer().restore(path)
    names = {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state["moments"])}
    assert any("blocks']['1']" in name for name in names)
    assert not any("blocks']['0']" in name or "embedding" in name for name in names)
    assert state["ema"]["params"]["encoder"]["blocks"].keys() == {"1"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_steps": 5}, "exactly one"),
        ({"num_epochs": 0}, "exactly one"),
        ({"batch_size": 0}, "1 or more"),
        ({"accumulation": 3}, "not a multiple"),
        ({"batch_size": 4096}, "more than all"),
        ({"model.image_size": 64}, "above the shards'"),
        ({"model.name": "vit_giant"}, "no such model"),
        ({"best": "auc"}, r"config\.best.* auroc_hemorrhage, .* macro_recall_location"),
        ({"best": "precision_hemorrhage"}, r"config\.best"),  # undefined where none is called ICH
        ({"label_smoothing": 1.0}, r"config\.label_smoothing"),
        ({"ema_decay": 1.0}, r"config\.ema_decay"),
        ({"layer_decay": 0.0}, r"config\.layer_decay"),
        ({"frozen_blocks": 3}, r"config\.frozen_blocks=3: it is 0 to 2"),
        ({"frozen_blocks": -2}, r"config\.frozen_blocks"),
        ({"early_stopping": -1}, r"config\.early_stopping"),
        ({"keep": 0}, r"config\.keep"),
        ({"log_every_steps": 0}, r"config\.log_every_steps"),
        ({"model.channels": 3, "windows": ((0, 255),)}, r"config\.windows has 1 parts"),
        ({"windows": ((0, 255), (9, 9), (0, 255))}, "low to high"),
        ({"windows": (0, 128, 255)}, r"config\.windows: 0 must be two gray values"),
        ({"windows": ((0, "a"),) * 3}, r"config\.windows: \(0, 'a'\) must be two gray values"),
        ({"mean": ("a", "b", "c")}, r"config\.mean=.*give numbers"),
        ({"std": (0.0, 0.5, 0.5)}, r"config\.std=.*above 0"),
        ({"learning_rate": float("nan")}, r"config\.learning_rate=nan: give a finite number"),
        ({"augment.rotation": float("inf")}, r"config\.augment\.rotation=inf"),
        ({"model.channels": 0}, r"config\.model\.channels=0: give 1 or more"),
        ({"model.image_size": 0}, r"config\.model\.image_size=0: give 1 or more"),
        ({"schedule": "step"}, r"config\.schedule"),
        ({"dtype": "int8"}, r"config\.dtype"),
        ({"seed": -1}, r"config\.seed"),
        ({"augment.zoom": 1.5}, r"config\.augment\.zoom"),
        ({"data.balance": "copies"}, r"config\.data\.balance"),
        ({"data.dir": "nowhere"}, "no shards in"),
        ({"data.source": "nowhere"}, "not a folder"),
        ({"mesh.data": 3}, "devices"),
        ({"init_from": "nowhere.pth"}, "nowhere.pth"),
        ({"init_from": "."}, "no checkpoints"),
        ({"init_from": "scratch", "init_heads": True}, r"config\.init_from"),
    ],
)
def test_a_bad_value_is_one_line_and_leaves_no_workdir(shards, tmp_path, change, words):
    config = tiny.get_config(shards.folder)
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=words) as error:
        train(config, tmp_path / "run", "")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_weights_that_can_not_be_had_are_reported_before_the_data_are_opened(tmp_path, monkeypatch):
    config = tiny.get_config(tmp_path / "none")  # shards to be built
    monkeypatch.setattr("dtvit_jax.train.open_data", None)  # not callable
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    monkeypatch.setenv("DTVIT_WEIGHTS", str(tmp_path))
    for name, words in (
        ("torchvision/vit_l_16", "is not in the folder DTVIT_WEIGHTS"),
        ("torchvision/vit_x_16", "torchvision has"),
        ("nowhere.pth", "no such file"),
    ):
        config.init_from = name
        with pytest.raises(InputError, match=words):
            train(config, tmp_path / "run", "")
    monkeypatch.delenv("DTVIT_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config.init_from = "torchvision/vgg16"
    with pytest.raises(InputError, match=r"dtvit-jax\[torch\]"):
        train(config, tmp_path / "run", "")


def test_a_figure_that_the_validation_side_can_not_give_is_refused_before_training():
    normal, lobar = 0, 2
    check_best(np.array([normal, lobar]), "auroc_hemorrhage")
    check_best(np.array([lobar]), "loss_location")
    for strata, best in (
        ([lobar], "auroc_hemorrhage"),
        ([normal], "brier_location"),
        ([normal, lobar], "macro_recall_location"),
    ):
        with pytest.raises(InputError, match=f"config.best='{best}' can't be computed"):
            check_best(np.array(strata), best)


def test_a_run_begins_with_the_weights_of_another(trained, shards, tmp_path):
    """With the heads, at a rate of 0, its validation loss is that of the other run's best step."""
    workdir, config = trained
    rows = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    best = min(row["loss"] for row in rows if row["split"] == "validation")
    new = config.copy_and_resolve_references()
    new.init_from, new.init_heads = str(workdir), True
    new.num_epochs, new.num_steps, new.learning_rate = 0, 1, 0.0
    assert train(new, tmp_path / "run", "") == 0
    last = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["split"]) == (1, "validation")
    assert last["loss"] == pytest.approx(best, rel=1e-5)
    start = json.loads((tmp_path / "run" / "config.json").read_text())["init_from"]
    assert start == f"weights:{digest(TrainedRun(workdir).weights())}"


def test_weights_that_do_not_fit_leave_no_workdir(trained, shards, tmp_path):
    config = tiny.get_config(shards.folder)
    config.init_from = str(trained[0])
    config.model.name = "vit_nano16"
    with pytest.raises(InputError, match="file of another model"):
        train(config, tmp_path / "run", "")
    config.model = {"name": "resnet18", "image_size": 32, "channels": 1, "location_classes": 3}
    with pytest.raises(InputError, match="weights of a ViT, and resnet18"):
        train(config, tmp_path / "run", "")
    assert not (tmp_path / "run").exists()


def test_a_step_above_the_memory_stops_before_it_compiles(shards, tmp_path, monkeypatch):
    from dtvit_jax.training import memory

    config = tiny.get_config(shards.folder)
    monkeypatch.setattr(memory, "available", lambda: memory.RUNTIME_BYTES + 1000)
    with pytest.raises(InputError, match="smaller model"):
        train(config, tmp_path / "run", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.no_such_field=1"], "no_such_field"),
        (["--config=nowhere.py"], "--config names a file that does not exist"),
        (["--config.batch_size=many"], "batch_size"),
        (["--config.data.dir=nowhere"], "no shards in"),
    ],
)
def test_the_command_line_gives_status_2_and_no_traceback(tmp_path, arguments, words):
    done = run_main(f"--config={TINY}", f"--workdir={tmp_path / 'run'}", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_a_full_disk_ends_a_run_with_a_line_and_keeps_what_was_saved(shards, small_disk):
    disk = small_disk(3400)
    words = [f"--config={TINY}", f"--config.data.dir={shards.folder}", "--config.keep=9"]
    words.append("--config.eval_every_epochs=2")
    done = run_main(*words, f"--workdir={disk / 'run'}")
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "what was saved before is whole; make room and give the same command" in last
    assert "Traceback" not in done.stderr
    assert saved(disk / "run", last_step(disk / "run"))


def test_a_run_that_turns_into_nan_keeps_the_last_good_checkpoint(shards, tmp_path, monkeypatch):
    config = tiny.get_config(shards.folder)
    config.num_epochs, config.num_steps, config.clip_norm = 0, 20, 0.0
    config.eval_every_epochs = 6 * config.batch_size / len(shards.source("train"))
    config.data.balance = "none"
    monkeypatch.setattr(
        "dtvit_jax.training.optimizer.learning_rate",
        lambda config, steps: lambda step: jnp.where(step < 8, config.learning_rate, 1e30),
    )
    with pytest.raises(InputError, match=r"step 10: the last good checkpoint stays.*step_10.npz"):
        train(config, tmp_path / "run", "")
    assert last_step(tmp_path / "run") == 6
    assert all(np.isfinite(leaf).all() for leaf in saved(tmp_path / "run", 6))


def test_a_run_that_turns_into_nan_writes_the_batch_that_did_it(shards, tmp_path):
    config = tiny.get_config(shards.folder)
    config.learning_rate, config.clip_norm, config.schedule = 1e30, 0.0, "constant"
    said = r"training \w+ is (nan|inf) at step 2: nothing was saved yet, .*step_2.npz"
    with pytest.raises(InputError, match=said):
        train(config, tmp_path / "run", "")
    kept = np.load(tmp_path / "run" / "not_finite_step_2.npz")
    batches = training_batches(
        TrainingExamples(
            shards.source("train"), config.data.balance, make_augmentation(config), config.seed
        ),
        config.batch_size,
    )
    _, second = next(batches), next(batches)
    for name in ("image", "hemorrhage", "location", "augmentation"):
        assert np.array_equal(kept[name], second[name])
    known = [shards.source("train").describe(int(i))["key"] for i in second["index"]]
    assert kept["key"].tolist() == known and kept["step"] == 2


def test_a_cnn_with_batch_statistics_trains_and_predicts(shards, tmp_path, monkeypatch):
    """With one block a stage instead of two, which halves the compilation."""
    monkeypatch.setitem(resnet.DEPTHS, 18, (resnet.BasicBlock, (1, 1, 1, 1)))
    config = tiny.get_config(shards.folder)
    config.model = {"name": "resnet18", "image_size": 32, "channels": 1, "location_classes": 3}
    config.num_epochs, config.num_steps = 0, 3
    config.accumulation, config.ema_decay, config.label_smoothing = 2, 0.9, 0.1
    assert train(config, tmp_path / "run", "") == 0
    predictions = TrainedRun(tmp_path / "run").predict("test")
    assert np.isfinite(predictions.p_hemorrhage).all() and len(predictions) == 12


def test_an_unwritable_workdir(shards, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        train(tiny.get_config(shards.folder), tmp_path / "file" / "run", "")
