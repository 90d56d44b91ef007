"""Prints which vector registers a competitor's step uses, by sampling its instructions.

Usage: registers.py --worker PEERS_WORKER [--isa avx2] [--shape N/D/C:T] [MODE ...]

It needs perf and objdump, and reads the instruction at each sampled address from the process,
so that generated code counts too.
"""

import argparse
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from bench import say, write_data
from competitors import PEERS, Options, Shape, Worker

REGISTERS = ("zmm", "ymm", "xmm")  # 512, 256 and 128 bits
SECONDS = 3.0
KERNEL = 1 << 63


def instruction(code: bytes, scratch: Path) -> str:
    """The first instruction."""
    scratch.write_bytes(code)
    command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", str(scratch)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return next(line for line in listing.splitlines() if line.lstrip().startswith("0:"))


def sample(worker: Worker, directory: Path) -> Counter[tuple[int, str]]:
    """How often each address, with its function, was found running."""
    record, pid = directory / "perf.data", worker.process.pid
    repetitions = max(1, round(1e3 * SECONDS / min(worker.run(3))))
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "999", "-p", str(pid)]
    with subprocess.Popen([*command, "-o", str(record)]) as perf:
        worker.run(repetitions)
        perf.terminate()
    fields = ["perf", "script", "-i", str(record), "-F", "ip,sym"]
    lines = subprocess.run(fields, check=True, capture_output=True, text=True).stdout.splitlines()
    samples = (line.strip().partition(" ") for line in lines if line.strip())
    return Counter((int(address, 16), function) for address, _, function in samples)


def shares(mode: str, shape: Shape, data: Path, options: Options) -> str:
    worker = Worker(mode, shape, data, options)
    samples = sample(worker, data)
    registers: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    with Path(f"/proc/{worker.process.pid}/mem").open("rb", buffering=0) as memory:
        for (address, function), count in samples.items():
            functions[function] += count
            if address >= KERNEL:
                registers["the kernel"] += count
                continue
            memory.seek(address)
            text = instruction(memory.read(16), data / "code")
            registers[next((r for r in REGISTERS if r in text), "none")] += count
    worker.close()
    total = samples.total()
    cells = [f"{name} {count / total:.0%}" for name, count in registers.most_common()]
    tops = [f"{name[:60]} {count / total:.0%}" for name, count in functions.most_common(3)]
    return f"{', '.join(cells)}; most in {', '.join(tops)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=Path, required=True)
    parser.add_argument("--isa", choices=["avx2"])
    parser.add_argument("--shape", type=Shape.parse, default=Shape.parse("256/512/10000:1"))
    modes = ["engine", *PEERS]
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"of {' '.join(modes)}")
    args = parser.parse_args()
    options = Options(
        worker=args.worker,
        rounds=1,
        turn_ms=0,
        quiet=1,
        patience=0,
        keep_memory=False,
        avx2=args.isa == "avx2",
    )
    with tempfile.TemporaryDirectory(prefix="registers-") as data:
        write_data(args.shape, Path(data))
        for mode in args.modes or modes:
            say(f"{mode}: {shares(mode, args.shape, Path(data), options)}")


if __name__ == "__main__":
    main()
