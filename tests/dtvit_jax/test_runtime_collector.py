import gc
import subprocess
import sys

import pytest

from dtvit_jax import runtime


def test_it_is_paused_inside_alone_also_where_that_fails():
    with pytest.raises(ValueError), runtime.paused():
        with runtime.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with runtime.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_left_open_is_written_all_the_same(tmp_path):
    program = (
        "import sys\nfrom dtvit_jax import collector\n"
        "file = open(sys.argv[1], 'w')\nfile.write('whole')\ncollector.spare_the_end()\n"
    )
    path = tmp_path / "file.txt"
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=60)
    assert path.read_text() == "whole"
