"""The chain of ./launch.sh on phantoms of several seeds: what each held-out side got, and the time.

    python benchmarks/phantom.py --out OUT [--seeds 0 1 2]

Each seed makes other people, another split and other initial weights. Finished seeds are not run
again; a seed's time is that of the run that finished it. Prints a table; writes OUT/table.json.
Phantom results say nothing about patients.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

FIGURES = (("hemorrhage", "auroc"), ("location", "macro_recall"))
ROOT = Path(__file__).resolve().parents[1]


def chain(out: Path, seed: int) -> dict:
    """Runs launch.sh's five commands with `seed` in `out`; subject-level figures and seconds."""
    done = out / "chain.json"
    if done.exists():
        return json.loads(done.read_text())
    scans, cleaned, workdir = out / "scans", out / "cleaned", out / "run"
    commands = [
        f"data_builder phantom --out {scans} --seed {seed}",
        f"data_builder clean {scans} --out {cleaned} --key public",
        f"data_builder build {cleaned} --data_dir {out} --size 128 --folds 3 --key public "
        f"--seed {seed}",
        f"dtvit_jax.main --config {ROOT / 'configs/phantom.py'} --workdir {workdir} "
        f"--config.data.dir={out} --config.data.seed={seed} --config.seed={seed}",
        f"dtvit_jax.evaluate --workdir {workdir}",
    ]
    wall, cpu = [], []
    for command in commands:
        start, before = time.monotonic(), os.times()
        subprocess.run([sys.executable, "-m", *command.split()], check=True, cwd=ROOT)
        after = os.times()
        wall.append(round(time.monotonic() - start, 1))
        used = after.children_user + after.children_system
        cpu.append(round(used - before.children_user - before.children_system, 1))
    metrics = json.loads((workdir / "test" / "metrics.json").read_text())
    result = {
        "subjects": metrics["n"]["subjects"],
        **{f"{task} {name}": metrics["subject"][task][name] for task, name in FIGURES},
        "wall_seconds": wall,
        "cpu_seconds": cpu,
    }
    done.write_text(json.dumps(result, indent=1) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    table = {}
    for seed in args.seeds:
        folder = args.out.resolve() / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        table[seed] = chain(folder, seed)
    print("\nseed | held-out subjects | ICH AUROC | location macro recall | wall s | CPU s")
    for seed, result in table.items():
        cells = [
            f"{f['value']:.3f} (no interval)"
            if f["low"] is None
            else f"{f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})"
            for f in (result[f"{task} {name}"] for task, name in FIGURES)
        ]
        seconds = [f"{sum(result[name]):.0f}" for name in ("wall_seconds", "cpu_seconds")]
        print(" | ".join([str(seed), str(result["subjects"]), *cells, *seconds]))
    (args.out / "table.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
