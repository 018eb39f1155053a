"""ViT-L/16 at full size beside torchvision's and timm's own: the same numbers, in what time.

    ./launch.sh parity                                        (sets up .venv-parity, with PyTorch)
    .venv-parity/bin/python benchmarks/vit_l_parity.py

torchvision's vit_l_16 gets random weights and saves them in both kinds of .pth; the command
`python -m dtvit_jax.convert` turns each into safetensors in a process of its own, whose wall time
and peak memory are taken; the encoder read back answers two images of 224 pixels, in float32.
Takes 3 GB of disk in the temporary folder, 8 GB of memory and some minutes.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from make_references import answers, fill, import_torchvision
from reference_models import load, our_answers, pictures

from dtvit_jax import weight_files

SIDE = 224


def convert(src: Path, out: Path) -> tuple[float, float]:
    """Seconds and peak gigabytes of one call of the command."""
    command = [sys.executable, "-m", "dtvit_jax.convert", str(src), "--model", "vit_l16"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--out", str(out)], env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - start, usage.ru_maxrss * kilobyte / 1e9


def line(name: str, got: np.ndarray, want: np.ndarray) -> str:
    """A row of the table: the largest difference, and that relative to the largest value."""
    error = np.abs(np.asarray(got, np.float64) - want).max()
    return f"| {name} | {error:.1e} | {error / np.abs(want).max():.1e} |"


def timm_features(path: Path) -> np.ndarray:
    """timm's vit_large_patch16_224 with the file loaded strictly."""
    import timm

    vit = timm.create_model("vit_large_patch16_224", num_classes=0)
    state = {k: torch.from_numpy(v) for k, v in weight_files.read(path)[0].items()}
    vit.load_state_dict(state, strict=True)
    with torch.no_grad():
        return vit.eval()(torch.from_numpy(pictures(SIDE)).permute(0, 3, 1, 2)).numpy()


def main() -> None:
    vit = import_torchvision().models.vit_l_16()
    state = fill(vit)
    places = {"embedding": "encoder.dropout", "block": "encoder.layers.encoder_layer_0"}
    want = answers(vit, SIDE, places)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.safetensors"
        print("| .pth | GB | seconds | peak GB | times the file |\n|---|---|---|---|---|")
        for kind in ("legacy", "zip"):
            path = Path(folder) / "vit_l_16.pth"
            torch.save(vit.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
            size = path.stat().st_size / 1e9
            seconds, peak = convert(path, out)
            print(f"| {kind} | {size:.2f} | {seconds:.1f} | {peak:.2f} | {peak / size:.2f} |")
            path.unlink()
        del vit
        encoder = load(out, "vit_l16", image_size=SIDE).encoder
        got = our_answers(encoder, state, SIDE)
        print("\n| ViT-L/16 beside torchvision's | difference | relative |\n|---|---|---|")
        for name in ("embedding", "block", "logits"):
            print(line(name, got[name], want[name]))
        del encoder
        ours = load(out, "vit_l16", image_size=SIDE).encoder(pictures(SIDE))
        print(line("features, beside timm's", ours, timm_features(out)))


if __name__ == "__main__":
    main()
