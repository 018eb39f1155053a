import os
import subprocess
import sys

WHERE = """
import os, jax
from dtvit_jax.runtime import prepare
prepare()
print(jax.config.jax_compilation_cache_dir)
"""


def folder(**environment):
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", WHERE],
        env={**kept, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_programs_are_kept_in_the_users_cache_or_where_jax_is_told(tmp_path):
    assert folder(XDG_CACHE_HOME=str(tmp_path)) == str(tmp_path / "dtvit" / "programs")
    chosen = str(tmp_path / "chosen")
    assert folder(XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=chosen) == chosen
