"""Evaluates configs/real_small.py on folds by subject, against a ResNet-18 and a gray histogram.

    python benchmarks/real_small.py --source SRC --out OUT --torch_python TORCH/bin/python

SRC is a folder in the published layout. Each fold's ViT is trained by the project's own command in
a process of its own; the CPU seconds that this process took, start and compilation included, are
what torchvision's ResNet-18 (random weights, 96 pixels) gets for training on the same fold.
TORCH is an environment with torch and torchvision. Finished folds are not run again.
Prints a table with 95% intervals over subjects, and paired differences; writes OUT/table.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from histogram import features
from histogram import predict as histogram_predict
from PIL import Image

from data_builder.pseudonyms import Pseudonyms, load_key
from data_builder.records import LOCATIONS, Record
from data_builder.shards.images import resize
from data_builder.shards.sources import open_source
from data_builder.shards.splits import SplitPlan, divide
from dtvit_jax.data.examples import replication
from dtvit_jax.decision.predictions import Predictions, read_csv
from dtvit_jax.evaluation.differences import paired_difference
from dtvit_jax.evaluation.summary import evaluate_predictions
from dtvit_jax.experiments.table import joined

FIGURES = (("hemorrhage", "auroc"), ("location", "macro_recall"))
HERE = Path(__file__).parent


def cpu_of(command: list[str]) -> float:
    """Runs a command and returns its CPU seconds, user and system, children too."""
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def vit_fold(args: argparse.Namespace, fold: int) -> tuple[Predictions, float]:
    """Trains and evaluates one fold with the project's commands."""
    workdir = args.out / f"vit_fold{fold}"
    seconds = workdir / "cpu_seconds"
    run = [sys.executable, "-m"]
    if not seconds.exists():
        command = [*run, "dtvit_jax.main", f"--config={HERE.parent / 'configs/real_small.py'}"]
        command += [f"--config.data.source={args.source}", f"--config.data.fold={fold}"]
        command += [f"--config.data.dir={args.out / 'data'}", f"--config.data.key={args.key}"]
        seconds.parent.mkdir(parents=True, exist_ok=True)
        seconds.write_text(str(cpu_of([*command, f"--workdir={workdir}"])))
    subprocess.run([*run, "dtvit_jax.evaluate", f"--workdir={workdir}"], check=True)
    return read_csv(workdir / "test" / "predictions.csv"), float(seconds.read_text())


def resnet_fold(
    args: argparse.Namespace, records: list[Record], side_of: dict, fold: int, seconds: float
) -> Predictions:
    """Trains torchvision's ResNet-18 for `seconds` of CPU time on the same fold."""
    given, answer = (args.out / f"resnet_fold{fold}_{name}.npz" for name in ("in", "out"))
    hemorrhage = np.array([r.hemorrhage for r in records])
    location = np.array([LOCATIONS.index(r.location) if r.hemorrhage else -1 for r in records])
    if not answer.exists():
        images = [np.asarray(resize(Image.open(r.image).convert("L"), 110)) for r in records]
        side = np.array([side_of[r.key] for r in records])
        train = np.flatnonzero(side == "train")
        order = np.repeat(train, replication(location[train] + 1)[location[train] + 1])
        np.savez(
            given,
            images=np.stack(images),
            hemorrhage=hemorrhage,
            location=location,
            side=side,
            order=order,
        )
        script = [args.torch_python, HERE / "resnet18_fold.py", given]
        subprocess.run([*script, f"--cpu_seconds={seconds}", f"--out={answer}"], check=True)
    result = np.load(answer)
    test = result["test"]
    print(f"fold {fold}: ResNet-18 {result['epochs']:.1f} epochs in {result['cpu_seconds']:.0f} s")
    return Predictions(
        key=np.array([records[i].key for i in test]),
        subject=np.array([records[i].subject for i in test]),
        hemorrhage=hemorrhage[test],
        location=location[test],
        p_hemorrhage=result["p_hemorrhage"],
        p_location=result["p_location"].astype(np.float64),
        split=np.full(len(test), "test"),
        study=np.array([records[i].study for i in test]),
        fold=np.full(len(test), fold),
    )


def cell(figure: dict) -> str:
    if figure["low"] is None:
        return f"{figure['value']:.3f} ({figure.get('reason', 'no interval')})"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--torch_python", required=True)
    parser.add_argument("--folds", type=int, default=5)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.key = args.out / "key"
    records = list(open_source(args.source, Pseudonyms(load_key(str(args.key)))).records)
    x = np.stack([features(record) for record in records])
    parts: dict[str, list[Predictions]] = {"ViT": [], "ResNet-18": [], "gray histogram": []}
    cpu = []
    for fold in range(args.folds):
        side_of = divide(records, SplitPlan("subject", args.folds, fold)).side_of
        predictions, seconds = vit_fold(args, fold)
        cpu.append(seconds)
        parts["ViT"].append(predictions)
        parts["ResNet-18"].append(resnet_fold(args, records, side_of, fold, seconds))
        parts["gray histogram"].append(histogram_predict(records, x, side_of, fold))
    whole = {name: joined(folds) for name, folds in parts.items()}
    results = {name: evaluate_predictions(table)["subject"] for name, table in whole.items()}
    table: dict = {"cpu_seconds": cpu, "subject": {}, "ViT minus": {}}
    print(f"\nCPU seconds a fold: {', '.join(f'{s:.0f}' for s in cpu)}")
    print("subject level, test subjects of all folds | ICH AUROC | location macro recall")
    for name, result in results.items():
        figures = {f"{task} {metric}": result[task][metric] for task, metric in FIGURES}
        table["subject"][name] = figures
        print(" | ".join([name, *map(cell, figures.values())]))
    for name in ("ResNet-18", "gray histogram"):
        difference = paired_difference(whole["ViT"], whole[name])["subject"]
        figures = {f"{task} {metric}": difference[task][metric] for task, metric in FIGURES}
        table["ViT minus"][name] = figures
        print(" | ".join([f"ViT minus {name}", *map(cell, figures.values())]))
    for key, figure in table["ViT minus"]["gray histogram"].items():
        if figure["low"] is None or figure["low"] <= 0:
            print(f"{key}: not distinguishable from acquisition")
    (args.out / "table.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
