"""Measures how long a study takes: ViT-L, 32 slices of 512 x 512 DICOM, against torchvision's.

    python benchmarks/predict.py --out DIR [--rounds 3] [--torch PYTHON]

Makes a ViT-L run with random weights and a synthetic study once, in DIR. Each round is a fresh
process of each program, in turn; what is printed are medians with the range. PYTHON is an
interpreter with torchvision (default: this one). Without heat maps and DICOM objects.

The time that is not the model's own is that of the process, from start to end, minus the time that
the same compiled batches take alone, in that process afterwards. It is also printed for the study
alone, without the start (imports, weights, the compiled program from the cache).
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
SLICES = 32
BATCH = 2


def make_run(folder: Path, name: str) -> None:
    """A run of configs/vit_l.py with random weights, and a rule fitted on synthetic predictions."""
    import jax
    import numpy as np

    from configs import vit_l
    from data_builder.cleaning import clean
    from data_builder.files import write_json
    from dtvit_jax.decision import outlier
    from dtvit_jax.decision.aggregation import Aggregation
    from dtvit_jax.decision.predictions import Predictions
    from dtvit_jax.evaluation import fitted_rule
    from dtvit_jax.models.variables import split_model
    from dtvit_jax.runs import evaluated_weights
    from dtvit_jax.training import record as run_record
    from dtvit_jax.training.network import make_model

    config = vit_l.get_config()
    config.model.name, config.init_from = name, "scratch"
    run_record.claim_workdir(folder, config)
    cleaning = {"mode": "robust", "version": clean.VERSION, "format": "png"}
    dataset = {"digest": "0", "phantom": True, "cleaning": cleaning}
    record = {"format": run_record.FORMAT, "dataset": dataset}
    write_json(folder / "run.json", record)
    params, stats = jax.jit(lambda: split_model(make_model(config))[1:])()
    evaluated_weights.write(folder, config.model.to_dict(), (params, stats), 1, "0")
    rng = np.random.default_rng(0)
    n = 400
    subject, truth = np.arange(n) // 10, (np.arange(n) // 10) % 2
    p = 1 / (1 + np.exp(-(2 * truth - 1) - rng.normal(size=n)))
    table = Predictions(
        key=np.array([f"k{i}" for i in range(n)]),
        subject=np.array([f"s{i}" for i in subject]),
        hemorrhage=truth,
        location=np.where(truth == 1, subject % 3, -1),
        p_hemorrhage=p,
        p_location=rng.dirichlet(np.ones(3), n),
        split=np.full(n, "validation"),
        study=np.array([f"s{i}" for i in subject]),
        fold=np.full(n, -1),
    )
    of = {"checkpoint_step": 1, "dataset_digest": "0"}
    fitted_rule.write(folder, fitted_rule.fit(table, Aggregation(), provenance=of))
    sides = [
        [{"image": rng.integers(0, 256, (256, 256)).astype(np.uint8)} for _ in range(300)]
        for _ in range(2)
    ]
    outlier.write(folder, outlier.fit(*sides, "0"))


def make_study(folder: Path) -> None:
    """Writes 32 slices of two phantoms as one study to folder/dicom, and cleans it."""
    import pydicom
    from pydicom.uid import generate_uid

    from data_builder.cleaning.clean_folder import clean_folder
    from data_builder.phantom import write_studies

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "dicom").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as made:
        write_studies(Path(made), 2, 5)
        heads = (path for path in sorted(Path(made).glob("*/*.dcm")) if shows_head(path))
        for i, path in enumerate(itertools.islice(heads, SLICES)):
            slice_ = pydicom.dcmread(path)
            slice_.StudyInstanceUID = slice_.SeriesInstanceUID = generate_uid(entropy_srcs=["s"])
            slice_.PatientID = "phantom"
            slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            slice_.save_as(folder / "dicom" / f"{i:02d}.dcm")
    clean_folder(folder / "dicom", folder / "cleaned", key="public")


def shows_head(path: Path) -> bool:
    """Returns whether cleaning leaves any pixel of the slice."""
    from data_builder.cleaning import clean
    from data_builder.dicom.read import read_slices

    ((hu, header),) = read_slices(path)
    return bool(clean.clean_slice(hu, "robust", (header.row_mm, header.column_mm)).any())


def ours(run: Path, study: Path, out: Path) -> dict[str, float]:
    """Runs predict in this process; returns seconds since the process's start."""
    born = float(os.environ["BORN"])
    from dtvit_jax import predict

    marks: dict[str, float] = {}
    arguments = [str(study), "--workdir", str(run), "--out", str(out), "--key", "public"]
    keep: list = []
    real = predict._session

    def watched(*words: object) -> object:
        from dtvit_jax.prediction import classifier

        slices = classifier.SliceProbabilities
        start, take = slices.__init__, slices._collect
        begin = classifier.Classifier.begin

        def started(self, model):  # type: ignore[no-untyped-def]
            marks.setdefault("ready", time.time() - born)
            keep.append(model)
            start(self, model)

        def taken(self):  # type: ignore[no-untyped-def]
            take(self)
            marks.setdefault("first", time.time() - born)

        def begun(self, images):  # type: ignore[no-untyped-def]
            keep.append(images)
            return begin(self, images)

        slices.__init__, slices._collect = started, taken
        classifier.Classifier.begin = begun
        return real(*words)

    predict._session = watched
    predict.main([*arguments, "--dicom_out", "no", "--explain", "none", "--batch", str(BATCH)])
    marks["whole"] = time.time() - born
    model, *batches = keep
    assert sum(map(len, batches)) == SLICES
    begun = time.perf_counter()
    for images in batches:
        probabilities, _ = model.begin(images)
        probabilities.block_until_ready()
    marks["model"] = time.perf_counter() - begun
    return marks


TORCH = """
import json, os, sys, time, psutil
born = float(os.environ["BORN"])
import numpy as np
import torch
try:
    import torchvision
except RuntimeError:  # its compiled operators are for another torch: the model needs none of them
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
from PIL import Image
weights, folder, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(psutil.cpu_count())
model = torchvision.models.vit_l_16()
model.load_state_dict(torch.load(weights, mmap=True), assign=True)
model.eval()
ready = time.time() - born
files = sorted(p for p in __import__("pathlib").Path(folder).iterdir())
images = [Image.open(p).convert("L").resize((256, 256), 2) for p in files]
x = torch.from_numpy(np.stack([np.asarray(image.crop((16, 16, 240, 240))) for image in images]))
x = x.float().div(255).sub(0.45).div(0.225)[:, None].repeat(1, 3, 1, 1)
first = None
with torch.inference_mode():
    for start in range(0, len(x), batch):
        model(x[start : start + batch]).softmax(-1).numpy()
        first = first or time.time() - born
    whole = time.time() - born
    begun = time.perf_counter()
    for start in range(0, len(x), batch):
        model(x[start : start + batch])
    alone = time.perf_counter() - begun
    marks = {"ready": ready, "first": first, "whole": whole, "model": alone}
    print(json.dumps(marks | {"end": time.time() - born}))
"""


NAMES = {
    "ready": "start to weights and program ready, s",
    "first": "start to the first slice's probability, s",
    "whole": "the whole process, s",
    "model": "the model alone on all slices, s",
    "other": "not the model's own, part of the whole process",
    "study": "not the model's own, part of the study once ready",
}


def one(words: list[str], **changed: str) -> dict[str, float]:
    """Runs a child and returns its marks and both fractions; its exit is part of the whole."""
    born = time.time()
    environment = os.environ | changed | {"BORN": str(born)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    took = time.time() - born
    if done.returncode:
        raise SystemExit(done.stderr)
    marks = json.loads(done.stdout.strip().splitlines()[-1])
    marks["done"] = marks["whole"]
    marks["whole"] += took - marks.pop("end")
    marks["other"] = 1 - marks["model"] / marks["whole"]
    marks["study"] = 1 - marks["model"] / (marks["done"] - marks["ready"])
    return marks


def main() -> None:
    """Makes what is missing, runs the rounds, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="vit_l16", help="for a quick look: vit_ti16")
    parser.add_argument("--torch", default=sys.executable, help="an interpreter with torchvision")
    parser.add_argument("--only", choices=("make", "ours", "torch", "child"), help="a part of it")
    args = parser.parse_args()
    run, study, weights = args.out / args.model, args.out / "study", args.out / "vit_l16.pth"
    if args.only == "child":
        with tempfile.TemporaryDirectory() as out:
            marks = ours(run, study / "dicom", Path(out))
        print(json.dumps(marks | {"end": time.time() - float(os.environ["BORN"])}))
        from dtvit_jax import runtime

        runtime.skip_last_collection()  # as python -m dtvit_jax.predict does
        return
    if not (run / "weights.safetensors").is_file():
        make_run(run, args.model)
    if not (study / "cleaned" / "manifest.csv").is_file():
        make_study(study)
    if args.only != "ours" and not weights.is_file():
        save = (
            "import sys, torch; sys.path.insert(0, sys.argv[2]); "
            "from tests.helpers.make_references import import_torchvision as t; "
            "torch.save(t().models.vit_l_16().state_dict(), sys.argv[1])"
        )
        subprocess.run([args.torch, "-c", save, str(weights), ROOT], check=True)
    if args.only == "make":
        return
    (images,) = (study / "cleaned" / "images").iterdir()
    mine = [sys.executable, __file__, "--out", str(args.out), "--model", args.model]
    ways = {
        "predict": [*mine, "--only", "child"],
        "torchvision": [args.torch, "-c", TORCH, str(weights), str(images), str(BATCH)],
    }
    if args.only:
        chosen = {"ours": "predict", "torch": "torchvision"}[args.only]
        ways = {chosen: ways[chosen]}
    cache = {"XDG_CACHE_HOME": str(args.out / "cache")}
    if "predict" in ways and not (args.out / "cache").exists():
        print("cold:", json.dumps(one(ways["predict"], **cache)), flush=True)
    marks_of: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, words in ways.items():
            marks_of[name].append(one(words, **cache))
            print(name, json.dumps(marks_of[name][-1]), flush=True)
    print(f"\n{SLICES} slices, batch {BATCH}, {args.rounds} rounds, {os.cpu_count()} cores;")
    print(f"median (range)\n\n| | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
    for key, name in NAMES.items():
        cells = [spread([marks[key] for marks in marks_of[way]]) for way in ways]
        print(f"| {name} | {' | '.join(cells)} |")
    if len(ways) == 2:
        ratios = [
            a["model"] / b["model"]
            for a, b in zip(marks_of["predict"], marks_of["torchvision"], strict=True)
        ]
        print(f"| the model's time, times torchvision's | {spread(ratios)} | |")


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
