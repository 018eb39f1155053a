"""Compares the models with their publishers' own code: largest differences; ViT-L/16 at full size.

    ./launch.sh parity                                        (sets up .venv-parity)
    .venv-parity/bin/python benchmarks/parity.py

First torchvision's vit_l_16 at full size, with random weights saved in both kinds of .pth: the
command `python -m dtvit_jax.convert` turns each into safetensors in a process of its own, whose
wall time and peak memory are taken; the encoder read back answers two images of 224 pixels, in
float32. Then every family at test size (`tests.helpers.make_references`), from its own file format.
Takes 3 GB of disk in the temporary folder, 8 GB of memory and some minutes.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dtvit_jax.weights import files
from tests.helpers.make_references import REFERENCES, answers, fill, import_torchvision, save
from tests.helpers.reference_models import difference, load, our_answers, pictures

SIDE = 224
HEAD = "| compared with | embedding or stem | first block or stage | logits |\n|---|---|---|---|"


MEASURED = """
import sys
from pathlib import Path
from dtvit_jax.convert import main
status = main(sys.argv[1:])
print(Path("/proc/self/status").read_text())
sys.exit(status)
"""


def convert(src: Path, out: Path) -> tuple[float, float, float]:
    """Runs the command; returns seconds, CPU seconds and peak gigabytes (Linux's VmHWM).

    Not ru_maxrss: a child's is at least that of its parent, which is large here.
    """
    arguments = [str(src), "--model", "vit_l16", "--out", str(out)]
    command = [sys.executable, "-c", MEASURED, *arguments]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    kibibytes = int(done.stdout.split("VmHWM:")[1].split()[0])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, processor, kibibytes * 1024 / 1e9


def row(name: str, got: dict[str, Any], want: dict[str, np.ndarray]) -> str:
    """Formats a row: the largest difference of each output, and relative to its largest value."""
    cells = [name]
    for output in want:
        absolute, relative = difference(got[output], want[output])
        cells.append(f"{absolute:.1e} ({relative:.1e})")
    return f"| {' | '.join(cells)} |"


def families() -> None:
    """Prints the table of every family at test size."""
    print(f"\n{HEAD}")
    for name, make in REFERENCES.items():
        reference = make()
        with tempfile.TemporaryDirectory() as folder:
            path = save(reference.state, name, Path(folder))
            encoder = load(path, reference.model, image_size=reference.side).encoder
            got = our_answers(encoder, reference.state, reference.side)
        print(row(name, got, reference.answers), flush=True)


def timm_features(path: Path) -> np.ndarray:
    """Returns the features of timm's vit_large_patch16_224 with the file loaded strictly."""
    import timm

    vit = timm.create_model("vit_large_patch16_224", num_classes=0)
    state = {k: torch.from_numpy(v) for k, v in files.read(path)[0].items()}
    vit.load_state_dict(state, strict=True)
    with torch.no_grad():
        return vit.eval()(torch.from_numpy(pictures(SIDE)).permute(0, 3, 1, 2)).numpy()


def full_size() -> None:
    """Converts and compares ViT-L/16 with 1000 classes at 224 pixels."""
    vit = import_torchvision().models.vit_l_16()
    state = fill(vit)
    places = {"embedding": "encoder.dropout", "block": "encoder.layers.encoder_layer_0"}
    want = answers(vit, SIDE, places)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.safetensors"
        print("| .pth | GB | seconds | CPU seconds | peak GB | times the file |")
        print("|---|---|---|---|---|---|")
        for kind in ("legacy", "zip"):
            path = Path(folder) / "vit_l_16.pth"
            torch.save(vit.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
            size = path.stat().st_size / 1e9
            seconds, processor, peak = convert(path, out)
            took = f"{seconds:.1f} | {processor:.1f}"
            print(f"| {kind} | {size:.2f} | {took} | {peak:.2f} | {peak / size:.2f} |")
            path.unlink()
        del vit
        encoder = load(out, "vit_l16", image_size=SIDE).encoder
        got = our_answers(encoder, state, SIDE)
        print(f"\n{HEAD}")
        print(row("ViT-L/16, torchvision", got, want))
        del encoder
        ours = load(out, "vit_l16", image_size=SIDE).encoder(pictures(SIDE))
        absolute, relative = difference(ours, timm_features(out))
        print(f"\nfeatures against timm's with the written file: {absolute:.1e} ({relative:.1e})")


if __name__ == "__main__":
    full_size()
    families()
