"""launch.sh: the device that it detects, and how processes set one environment up together."""

import subprocess

import pytest

from tests.helpers import ROOT

GOOGLE, NVIDIA = "0x1ae0\n", "0x10de\n"


def device(folder, nodes=(), vendors=(), gpu=False, **environment):
    """What launch.sh detects where /dev and /sys have these entries, and nvidia-smi may run."""
    for node in nodes:
        path = folder / "dev" / node
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for i, vendor in enumerate(vendors):
        pci = folder / "sys/bus/pci/devices" / f"0000:00:0{i}.0"
        pci.mkdir(parents=True)
        (pci / "vendor").write_text(vendor)
    programs = folder / "bin"
    programs.mkdir()
    if gpu:
        (programs / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0: NVIDIA H200\n")
        (programs / "nvidia-smi").chmod(0o755)
    script = f"""
set -euo pipefail
source <(sed -n '/^device()/,/^}}/p' "{ROOT}/launch.sh")
device "{folder}"
"""
    path = {"PATH": f"{programs}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", script], env=path | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("nodes", "vendors", "detected"),
    [
        ((), (), "cpu"),
        (("accel0", "accel1"), (GOOGLE,), "tpu"),  # v2 to v4
        (("vfio/0", "vfio/vfio"), (NVIDIA, GOOGLE), "tpu"),  # v5e and later
        (("vfio/12",), (NVIDIA,), "cpu"),  # a card that a virtual machine uses
        (("accel/accel0",), ("0x8086\n",), "cpu"),  # a laptop's neural processor
        ((), (GOOGLE,), "cpu"),  # Google's network card
    ],
)
def test_a_tpu_is_detected_by_its_nodes_and_vendor(tmp_path, nodes, vendors, detected):
    assert device(tmp_path, nodes, vendors) == detected


def test_a_gpu_comes_first_and_the_environment_before_all(tmp_path):
    assert device(tmp_path, ["accel0"], [GOOGLE], gpu=True) == "cuda"
    other = tmp_path / "other"
    other.mkdir()
    assert device(other, ["accel0"], [GOOGLE], gpu=True, DTVIT_DEVICE="cpu") == "cpu"


def test_processes_that_start_together_install_once(tmp_path):
    """Three at a time, with an installer that records its calls and takes a while."""
    (tmp_path / "uv").write_text(
        f"""#!/bin/sh
echo "$1" >>"{tmp_path}/calls"
if [ "$1" = venv ]; then mkdir -p "{tmp_path}/venv/bin" && touch "{tmp_path}/venv/bin/python"
  chmod +x "{tmp_path}/venv/bin/python"; fi
sleep 0.2
"""
    )
    (tmp_path / "uv").chmod(0o755)
    script = f"""
set -euo pipefail
here="{ROOT}" venv="{tmp_path}/venv"
source <(sed -n -e '/^device()/,/^}}/p' -e '/^setup()/,/^)/p' "{ROOT}/launch.sh")
setup ""
"""
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DTVIT_DEVICE": "cpu"}
    started = [subprocess.Popen(["bash", "-c", script], env=environment) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert (tmp_path / "calls").read_text().split() == ["venv", "pip"]
