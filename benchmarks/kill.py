"""Checks that a run that is killed ten times ends with the same bytes as an undisturbed one.

    python benchmarks/kill.py --out OUT [--devices 1 2] [--kills 10] [--seed 0]

For each number of CPU devices a small ViT is trained on phantoms without a break, and then
again, killed with SIGKILL at moments drawn from --seed (while it starts, between two saves, inside
a save) and started anew each time with the same command. Compared are all arrays of the last
checkpoint (parameters, moments, average) and history.jsonl.
Prints what it did and PASS or FAIL (status 1) for each number of devices.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = 240
STEPS_BETWEEN_SAVES = 10
BATCH = 8
LIMIT_SECONDS = 300  # for a moment to come; the run is slow where the machine is


def make_data(out: Path) -> tuple[Path, float]:
    """Builds shards of twenty phantoms at 36 pixels, once; returns epochs between two saves too."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from data_builder.cleaning.clean_folder import clean_folder
    from data_builder.phantom import write_studies
    from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
    from data_builder.shards.build import build
    from data_builder.shards.sources import open_source
    from data_builder.shards.splits import SplitPlan
    from dtvit_jax.data.shards import Shards

    made = out / "data" / "folder.txt"
    if not made.exists():
        scans, cleaned = out / "scans", out / "cleaned"
        write_studies(scans, 20, 1, None)
        clean_folder(scans, cleaned, key="public", jobs=2)
        source = open_source(cleaned, Pseudonyms(PUBLIC_KEY))
        folder = build(source, out / "data", SplitPlan(), size=36)
        made.write_text(str(folder.resolve()))
    folder = Path(made.read_text())
    slices = len(Shards(folder).source("train"))
    return folder, STEPS_BETWEEN_SAVES * BATCH / slices


def command(data: Path, every: float, workdir: Path) -> list[str]:
    fields = {
        "data.dir": data,
        "data.size": 36,
        "data.folds": 0,
        "model.image_size": 32,
        "batch_size": BATCH,
        "eval_batch_size": 64,
        "num_epochs": 0,
        "num_steps": STEPS,
        "data.balance": "none",
        "eval_every_epochs": every,
        "ema_decay": 0.99,
        "accumulation": 2,
        "model.head_dropout": 0.1,
    }
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    recipe = f"--config={ROOT / 'configs' / 'phantom.py'}"
    return [sys.executable, "-m", "dtvit_jax.main", recipe, f"--workdir={workdir}", *words]


def start(words: list[str], devices: int, log: Path) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    with log.open("ab") as file:
        return subprocess.Popen(words, env=environment, stdout=file, stderr=file, cwd=ROOT)


def steps_saved(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def saving(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def wait(process: subprocess.Popen, moment: Callable[[], bool]) -> bool:
    """Waits until `moment()`; returns False if the process ended before."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not moment():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    return True


def kill_once(process: subprocess.Popen, kind: str, draw: random.Random, workdir: Path) -> str:
    """Kills at a moment of `kind`; returns what it did, '' if the process had ended before."""
    before = steps_saved(workdir)
    if kind == "start":
        delay = draw.uniform(0.5, 8)
        time.sleep(delay)
        moment = f"{delay:.2f} s after its start"
    else:
        saves = draw.randint(1, 2)  # of this process, before it is killed
        newest = before[-1] if before else -1
        due = newest + 1 + (saves - 1) * STEPS_BETWEEN_SAVES
        if not wait(process, lambda: (steps_saved(workdir) or [-1])[-1] >= due):
            return ""
        if kind == "save":
            if not wait(process, lambda: saving(workdir)):
                return ""
            delay = draw.uniform(0, 0.1)
        else:
            delay = draw.uniform(0, 0.4)
        time.sleep(delay)
        moment = f"{delay:.3f} s after {'a save began' if kind == 'save' else 'a save was done'}"
    inside = saving(workdir)
    process.kill()
    if process.wait() != -9:
        return ""
    inside = inside and saving(workdir)
    saved = steps_saved(workdir)
    return f"{moment}{', inside a save' if inside else ''}; saved until step {saved[-1:] or None}"


def arrays(workdir: Path) -> dict[str, bytes]:
    """Returns the bytes of every array of the last checkpoint, by name."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    path = workdir / "checkpoints" / str(steps_saved(workdir)[-1]) / "state"
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    shapes = reader.metadata(path.resolve()).item_metadata.tree
    # Whole arrays on the host: this process has not the devices that they were saved from.
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    tree = reader.restore(path.resolve(), ocp.args.PyTreeRestore(shapes, how))
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p): np.asarray(leaf).tobytes() for p, leaf in flat}


def compare(whole: Path, killed: Path) -> list[str]:
    """Lists the differences between two runs."""
    one, other = arrays(whole), arrays(killed)
    differ = [
        name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)
    ]
    if steps_saved(whole)[-1] != STEPS or steps_saved(killed)[-1] != STEPS:
        differ.append("the last step")
    if (whole / "history.jsonl").read_text() != (killed / "history.jsonl").read_text():
        differ.append("history.jsonl")
    print(f"compared {len(one)} arrays, {sum(map(len, one.values())):,} bytes, and the history")
    return differ


def prove(out: Path, data: tuple[Path, float], devices: int, kills: int, seed: int) -> bool:
    """Makes both runs on `devices`; returns whether they end alike after `kills` kills."""
    draw = random.Random(f"{seed} {devices}")
    whole, killed = out / f"whole_{devices}", out / f"killed_{devices}"
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
    log = out / f"log_{devices}.txt"
    begun = time.monotonic()
    if start(command(*data, whole), devices, log).wait():
        sys.exit(f"the untouched run failed: see {log}")
    print(f"{devices} devices: the untouched run took {time.monotonic() - begun:.0f} s", flush=True)
    kinds = (["start", "step", "save", "step", "save"] * kills)[:kills]
    draw.shuffle(kinds)
    words = command(*data, killed)
    done = 0
    for kind in kinds:
        process = start(words, devices, log)
        outcome = kill_once(process, kind, draw, killed)
        if not outcome:
            print("  the run ended before it was killed", flush=True)
            break
        done += 1
        print(f"  kill {done}: {outcome}", flush=True)
    status = start(words, devices, log).wait()
    differ = compare(whole, killed) if status == 0 else [f"exit status {status}"]
    passed = not differ and done == kills
    print(f"{devices} devices, {done} kills: {'PASS' if passed else 'FAIL'} {differ[:5]}")
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = make_data(args.out)
    results = [prove(args.out, data, n, args.kills, args.seed) for n in args.devices]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
