"""Holds JAX's products to AVX2 on a CPU with AVX-512.

They come from YNNPACK, which asks the CPU itself: `--xla_cpu_max_isa` does not reach it, and with
YNNPACK turned off XLA multiplies otherwise than on a CPU with AVX2. This takes AVX-512 out of the
flags that YNNPACK keeps.
"""

import ctypes
import subprocess
import sys
from pathlib import Path

FLAGS = "_ZZN3ynn24get_supported_arch_flagsEvE5flags"
UP_TO_AVX2 = (1 << 7) - 1  # SSE2, SSSE3, SSE4.1, AVX, F16C, AVX2, FMA3: ynnpack/base/arch.h


def hold_to_avx2() -> None:
    import jax.numpy as jnp
    import jaxlib

    (jnp.ones((8, 8)) @ jnp.ones((8, 8))).block_until_ready()  # has YNNPACK ask
    library = Path(jaxlib.__file__).with_name("libjax_common.so")
    offset = None
    # Line by line: all of them at once would be the peak of this process' memory.
    with subprocess.Popen(["nm", library], stdout=subprocess.PIPE, text=True) as symbols:
        assert symbols.stdout is not None
        for line in symbols.stdout:
            if line.endswith(f" {FLAGS}\n"):
                offset = int(line.split()[0], 16)
    maps = Path("/proc/self/maps").read_text().splitlines()
    base = next(int(line.split("-")[0], 16) for line in maps if line.endswith(str(library)))
    if offset is None:
        sys.exit("no flags of YNNPACK in jaxlib: another version than requirements.txt's?")
    flags = ctypes.c_uint64.from_address(base + offset)
    if flags.value & UP_TO_AVX2 != UP_TO_AVX2:
        sys.exit(f"YNNPACK found no AVX2: flags {flags.value:#x}")
    flags.value &= UP_TO_AVX2
