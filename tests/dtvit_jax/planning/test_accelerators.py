import pytest

from data_builder.errors import InputError
from dtvit_jax.planning import accelerators


def test_names_of_devices():
    assert accelerators.find("rtx3090") is accelerators.find("NVIDIA GeForce RTX-3090")
    assert accelerators.find("TPU-v4").memory == 32e9
    with pytest.raises(InputError, match=r"--device=abacus: .*H100"):
        accelerators.find("abacus")
