"""Lists published figures of accelerators: peak rates, memory, bandwidth, links.

Sources: NVIDIA's data sheets of H100 SXM, H200 SXM, A100 80 GB SXM, L4, L40S and A10; its white
papers of Ada (RTX 4090) and GA102 (RTX 3090), tensor cores with FP32 accumulation; all without
sparsity. TPUs: the Cloud TPU documentation's page of each version (docs.cloud.google.com/tpu/docs).
Links: a GPU's NVLink, otherwise its PCIe 4.0 x16; a TPU chip's inter-chip interconnect. Each is one
way, half of the published bidirectional figure.
"""

import dataclasses
import re

from data_builder.errors import InputError


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One chip.

    Attributes:
      bfloat16_flops: peak operations a second of products with bfloat16 operands.
      float32_flops: the same with float32 operands at JAX's default precision: TF32 on NVIDIA's,
        bfloat16 passes on TPUs.
      memory: bytes.
      bandwidth: bytes a second between chip and memory.
      link: bytes a second to the other chips, one way.
    """

    name: str
    bfloat16_flops: float
    float32_flops: float
    memory: int
    bandwidth: float
    link: float


def _gpu(
    name: str, bf16: float | int, tf32: float | int, gb: int, gb_s: float | int, link: float | int
) -> Accelerator:
    # TFLOP/s, GB and GB/s. A GPU of 24 GB has 24 GiB; one of 80 GB, with HBM, a little over 80e9.
    memory = gb * 2**30 if gb < 80 else gb * 10**9
    return Accelerator(name, bf16 * 1e12, tf32 * 1e12, memory, gb_s * 1e9, link * 1e9)


def _tpu(
    name: str, bf16: float | int, gb: int, gb_s: float | int, link: float | int
) -> Accelerator:
    return Accelerator(name, bf16 * 1e12, bf16 * 1e12, gb * 10**9, gb_s * 1e9, link * 1e9)


ACCELERATORS = (
    _gpu("H200", 989, 494.5, 141, 4800, 450),
    _gpu("H100", 989, 494.5, 80, 3350, 450),
    _gpu("A100", 312, 156, 80, 2039, 300),
    _gpu("L40S", 362, 183, 48, 864, 32),
    _gpu("L4", 121, 60, 24, 300, 32),
    _gpu("A10", 125, 62.5, 24, 600, 32),
    _gpu("RTX 4090", 165.2, 82.6, 24, 1008, 32),
    _gpu("RTX 3090", 71, 35.6, 24, 936, 32),
    _tpu("TPU v4", 275, 32, 1200, 150),
    _tpu("TPU v5e", 197, 16, 819, 200),
    _tpu("TPU v5p", 459, 95, 2765, 600),
    _tpu("TPU v6e", 918, 32, 1638, 400),
)


def find(name: str) -> Accelerator:
    """Returns the accelerator of that name; case, spaces, dashes and the brand make no difference.

    Raises InputError for a name that is not in ACCELERATORS.
    """

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]|nvidia|geforce|tpu|rtx", "", text.lower())

    for accelerator in ACCELERATORS:
        if plain(accelerator.name) == plain(name):
            return accelerator
    names = ", ".join(accelerator.name for accelerator in ACCELERATORS)
    raise InputError(f"--device={name}: not in the list; there are {names}")
