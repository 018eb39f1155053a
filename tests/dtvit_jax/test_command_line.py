"""What main, plan and experiment say of a wrong command line, and of --help."""

import shlex
import subprocess
import sys

import pytest
from absl import flags

from dtvit_jax import command_line, experiment, main
from tests.helpers import ROOT, tiny

TINY = f"--config={ROOT / 'tests/helpers/tiny.py'}"
NAME = "/home/Jane Doe"


@pytest.fixture
def parse(monkeypatch, capsys):
    """Parses a command line in flags of its own; returns the exit status, stdout and stderr."""

    def parse(*words, program=main):
        argv = ["program", *words]
        monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
        monkeypatch.setattr(sys, "argv", argv)
        program.define_flags(flags.FLAGS)
        try:
            command_line.parse(argv)
            status = 0
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return parse


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--config.lr=1e-4"],
            "--config.lr=1e-4: config has no field 'lr'; did you mean learning_rate?",
        ),
        (
            ["--config.batchsize=3"],
            "--config.batchsize=3: config has no field 'batchsize'; did you mean batch_size?",
        ),
        (["--config.num_epochs=1.0"], "--config.num_epochs=1.0: give a whole number"),
        (["--config.num_epochs", "1.0"], "--config.num_epochs: give a whole number"),
        (["--config.batch_size"], "--config.batch_size: give a whole number"),
        (["--config.learning_rate=fast"], "--config.learning_rate=fast: give a number"),
        (["--config.init_heads=maybe"], "--config.init_heads=maybe: give true or false"),
        (["--config.loss=3"], "--config.loss=3: give its fields one by one"),
        (
            ["--config.batch_size.x=3"],
            "--config.batch_size.x=3: config.batch_size is a value without fields",
        ),
        (
            [f"--config.source={NAME}"],
            "--config.source=PATH: config has no field 'source'; did you mean data.source?",
        ),
        (
            [f"--config.data.sorce={NAME}"],
            "--config.data.sorce=PATH: config.data has no field 'sorce'; did you mean data.source?",
        ),
        (
            ["--config.data.ky=Jane", "--config.num_epochs=1"],
            "--config.data.ky=PATH: config.data has no field 'ky'; did you mean data.key?",
        ),
        ([f"--wrkdir={NAME}"], "--wrkdir=PATH: no such flag; did you mean --workdir?"),
        (["--workdir"], "Missing value for flag --workdir"),
        (["--zzz=1"], "--zzz=1: no such flag; see --help"),
        (
            ["--config.data.source=Jane", "Doe"],
            "argument 3 is no flag: flags start with --, and spaces need quotes",
        ),
    ],
)
def test_an_error_names_the_flag_as_typed_and_what_is_wrong(parse, words, line):
    assert parse(TINY, *words) == (2, "", f"error: {line}\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--config is missing: give --config=FILE, such as --config=configs/vit_l.py"),
        (["--config=no/such.py"], "--config names a file that does not exist"),
        ([TINY, "--config", "no/such.py"], "--config names a file that does not exist"),
        (
            [f"--config.data.source={NAME}", TINY],
            "--config.data.source=PATH: give --config before it",
        ),
    ],
)
def test_a_config_that_is_missing_or_late(parse, words, line):
    assert parse(*words) == (2, "", f"error: {line}\n")


def test_a_missing_flag_is_named(parse):
    grid = f"--config={ROOT / 'configs/experiments/table4_small.py'}"
    assert parse(grid, program=experiment) == (2, "", "error: --out is missing: see --help\n")


def test_a_right_command_line_is_parsed(parse):
    words = ["--config.batch_size=8", "--config.num_epochs", "2", "--workdir=a"]
    assert parse(TINY, *words) == (0, "", "")
    config = flags.FLAGS.config
    assert (config.batch_size, config.num_epochs, flags.FLAGS.workdir) == (8, 2, "a")
    assert tiny.get_config().learning_rate == config.learning_rate


PRIVATE = {
    "config.data.source": NAME,
    "config.data.dir": "Jane",
    "config.data.key": "~/Jane",
    "config.init_from": f"{NAME}.pth",
    "workdir": NAME,
}


@pytest.mark.parametrize("dashes", ["-", "--"])
@pytest.mark.parametrize("joined", [True, False])
def test_the_command_that_is_written_is_the_parsed_one_without_paths(
    parse, monkeypatch, tmp_path, dashes, joined
):
    monkeypatch.chdir(tmp_path)
    given = {"config": ROOT / "configs/vit_b.py", **PRIVATE, "config.windows": "((0, 9),)"}
    words = [
        (f"{dashes}{k}={v}",) if joined else (f"{dashes}{k}", str(v)) for k, v in given.items()
    ]
    flags_alone = [f"{dashes}config.profile", f"{dashes}noconfig.init_heads"]
    status = parse(*(part for word in words for part in word), *flags_alone)
    assert status == (0, "", "")
    written = main.public_command(flags.FLAGS)
    assert "Jane" not in written and "home" not in written
    assert shlex.split(written) == [
        *("python", "-m", "dtvit_jax.main", "--config=configs/vit_b.py"),
        *(f"--{name}=PATH" for name in list(PRIVATE)[:-1]),
        *("--config.windows=((0, 9),)", "--config.profile=True", "--config.init_heads=False"),
        "--workdir=PATH",
    ]


def test_published_weights_are_named_and_a_path_of_that_name_is_not(parse, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse(TINY, "--config.init_from=hf/Jane/Doe")[0] == 0
    named = "python -m dtvit_jax.main --config=PATH --config.init_from="
    assert main.public_command(flags.FLAGS) == f"{named}hf/Jane/Doe"
    (tmp_path / "hf/Jane/Doe").mkdir(parents=True)
    assert main.public_command(flags.FLAGS) == f"{named}PATH"


@pytest.mark.parametrize(
    ("program", "names"),
    [
        ("main", ["--config", "--workdir"]),
        ("plan", ["--config", "--mesh", "--device", "--[no]compile", "--[no]json"]),
        ("experiment", ["--config", "--out"]),
    ],
)
def test_help_prints_the_flags_and_an_example_and_exits_0(program, names):
    command = [sys.executable, "-m", f"dtvit_jax.{program}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == ""
    assert f"python -m dtvit_jax.{program} --config" in done.stdout
    listed = done.stdout.partition("Flags:")[2]
    assert all(f"{name}: " in listed for name in names)
