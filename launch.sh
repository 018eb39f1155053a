#!/usr/bin/env bash
# The whole chain on synthetic head scans, the tests, or a training run.
#
#   ./launch.sh              sets up .venv; phantom DICOM, clean, shards, train, evaluate, report
#   ./launch.sh test ARGS    sets up .venv; runs the tests (ARGS go to pytest)
#   ./launch.sh parity ARGS  the models beside their publishers' own code, in .venv-parity (PyTorch)
#   ./launch.sh train ARGS   sets up .venv; python -m dtvit_jax.main ARGS (docs/training_sharding.md)
#
# A second call reuses what is there. PYTHON: another interpreter (3.11 or newer); VENV: another folder
# than .venv; DTVIT_DEVICE (cpu, cuda, tpu): another device, as for GPU nodes from a login node.
set -euo pipefail; here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${VENV:-$here/.venv}

device() { # $1 is put before /dev and /sys, for tests; 0x1ae0 is Google's PCI vendor number
  if [ -n "${DTVIT_DEVICE:-}" ]; then echo "$DTVIT_DEVICE"
  elif command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then echo cuda
  elif { compgen -G "${1:-}/dev/accel[0-9]*" || compgen -G "${1:-}/dev/vfio/[0-9]*"; } >/dev/null &&
    grep -qsx 0x1ae0 "${1:-}"/sys/bus/pci/devices/*/vendor; then echo tpu
  else echo cpu; fi
}

# Installs the project with the extras in $1 at the lock's versions, unless .venv has them already.
# Processes that start together do it one after the other: this subshell holds the lock.
setup() (
  mkdir -p "$(dirname "$venv")"; exec 9>>"$venv.lock"; if command -v flock >/dev/null; then flock 9; fi
  extras=$1 kind=$(device)
  [ "$kind" = cpu ] || extras="$extras${extras:+,}$kind"
  sum=$(cat "$here/pyproject.toml" "$here/requirements.lock" <(echo "$here") | cksum)
  grep -qs "^[^|]*$extras[^|]*|$sum\$" "$venv/installed" && exit
  echo "setting up ${venv##*/} for $kind${extras:+ with $extras}: some minutes, once" >&2
  packages=(-c "$here/requirements.lock" -e "$here${extras:+[$extras]}")
  if command -v uv >/dev/null; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "${PYTHON:-3.11}" "$venv"
    uv pip install --quiet --python "$venv/bin/python" "${packages[@]}"
  else
    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet "${packages[@]}"
  fi
  echo "$extras|$sum" >>"$venv/installed"
)

cd "$here"
case "${1:-demo}" in
parity) venv=${VENV:-$here/.venv-parity} DTVIT_DEVICE=cpu; setup dev,parity
  DTVIT_PARITY=1 exec "$venv/bin/python" -m pytest tests/dtvit_jax/models/test_parity.py "${@:2}" ;;
test) setup dev # in two processes: most tests keep one core busy
  exec "$venv/bin/python" -m pytest -n 2 --dist loadfile "${@:2}" ;;
train) setup ""
  exec "$venv/bin/python" -m dtvit_jax.main "${@:2}" ;;
demo) setup ""
  run="$venv/bin/python -m"
  $run data_builder phantom --out data/phantom/scans
  $run data_builder clean data/phantom/scans --out data/phantom/cleaned --key public
  $run data_builder build data/phantom/cleaned --data_dir data --size 128 --folds 3 --key public
  $run dtvit_jax.main --config configs/phantom.py
  $run dtvit_jax.evaluate --workdir runs/phantom ;;
*)
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
