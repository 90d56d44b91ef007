"""Lets PyPI's torch for Linux x86-64, built for CUDA, be imported without the CUDA libraries.

It will not load unless libcublas, libcudnn and a dozen more (2.5 GB) are there, though no CPU
code calls them. This puts beside it one small library that answers to all their names, every
function of which only returns an error. Where nothing is missing, it does nothing.

Usage: torch_without_cuda.py SITE_PACKAGES
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path


def run(*command: object) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True
    ).stdout


def main() -> None:
    lib = Path(sys.argv[1], "torch", "lib")
    torch = sorted(lib.glob("libtorch*.so"))
    if not torch:
        return
    stub = lib / "libcuda_stub.so"
    for path in lib.glob("*.so.*"):
        if path.is_symlink() and path.readlink().name == stub.name:
            path.unlink()  # an earlier torch's
    missing = sorted(set(re.findall(r"(\S+) => not found", run("ldd", *torch))))
    if not missing:
        return

    functions: dict[str, set[str]] = {}  # by symbol version: mostly the library's own name
    for path in lib.glob("lib*.so"):
        for symbol in re.findall(r" U ((?:cu|nv|nccl)\S+)", run("nm", "-D", path)):
            name, _, version = symbol.partition("@")
            if version in ("", "NVSHMEM", *missing):
                functions.setdefault(version, set()).add(name)

    with tempfile.TemporaryDirectory() as build:
        source, versions = Path(build, "stub.c"), Path(build, "stub.map")
        names = sorted(set().union(*functions.values()))
        source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
        versions.write_text(
            "".join(f"{v} {{ {'; '.join(names)}; }};\n" for v, names in functions.items() if v)
        )
        script = f"-Wl,--version-script={versions}"
        run("cc", "-w", "-shared", "-fPIC", script, "-o", stub, source)
    for name in missing:
        (lib / name).symlink_to(stub.name)


if __name__ == "__main__":
    main()
