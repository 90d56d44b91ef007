"""The competitors' processes, and how one is given its turn."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
CPUS = sorted(os.sched_getaffinity(0))
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

# Modes of the workers, in the order of a round, and their names in the tables.
RUST = {
    "engine": "this crate",
    "bf16": "this crate, bf16",
    "step": "this crate + SGD",
    "gemm": "bare faer GEMMs",
    "split": "GEMMs split by class",
    "naive": "naive ndarray",
}
PYTHON = {
    "jax": "JAX jit",
    "compile": "torch.compile",
    "eager": "torch eager",
    "autocast": "torch autocast, bf16",
    "sgd": "torch eager + SGD",
    "metric-learning": "pytorch-metric-learning",
    "linear-ce": "torch linear CE, auto chunks",
    "linear-ce-128": "torch linear CE, chunks of 128",
}
GEMMS = {mode: RUST[mode] for mode in ("gemm", "split")}  # no loss, no gradients
PEERS = GEMMS | PYTHON | {mode: RUST[mode] for mode in ("naive", "bf16", "step")}
MARGIN_FREE = ("linear-ce", "linear-ce-128")
# Not the f32 step of ArcFace without an update, so not to be set against it alone.
OTHER_STEPS = ("bf16", "autocast", "step", "sgd", *MARGIN_FREE)

# What holds each to AVX2, as far as it can be held: README.md.
AVX2 = {
    "PEERS_ISA": "avx2",  # for worker/src/main.rs and jax_without_avx512.py
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops, and those that torch.compile writes
    "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3",  # the compiler of the latter
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}

SLOW_MS = 10_000
"""A step beyond this is slow: one to a turn, and in few rounds."""
SLOW_ROUNDS = 2


@dataclass(frozen=True)
class Shape:
    n: int
    d: int
    c: int
    threads: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """N/D/C, on all cores, or N/D/C:THREADS."""
        sizes, _, threads = text.partition(":")
        n, d, c = map(int, sizes.split("/"))
        return cls(n, d, c, min(int(threads or len(CPUS)), len(CPUS)))

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.n}/{self.d}/{self.c:,}, {threads}"

    @property
    def held_bytes(self) -> int:
        """X, W, dX and dW in f32, which no competitor can do without."""
        return 2 * 4 * self.d * (self.n + self.c)


@dataclass(frozen=True)
class Options:
    worker: Path
    rounds: int
    turn_ms: float
    quiet: float
    patience: float
    keep_memory: bool
    avx2: bool


@dataclass(frozen=True)
class Turn:
    """Some repetitions in a row by one worker."""

    ms: float
    """The median step's."""
    foreign: float
    """How many of the worker's cores other processes used meanwhile."""
    quiet: bool
    """Whether that was little enough."""


def busy_seconds(cpus: list[int]) -> float:
    """Time these cores have spent on anything at all."""
    cores = {f"cpu{i}" for i in cpus}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    # user, nice, system, irq, softirq, steal: all but the idle ones
    ticks = (int(f[k]) for f in lines if f[0] in cores for k in (1, 2, 3, 6, 7, 8))
    return sum(ticks) / CLOCK_TICKS


def settle(cpus: list[int], quiet: float, patience: float) -> None:
    """Waits until these cores idle, the last worker's threads included; not beyond `patience`."""
    deadline, pause = time.monotonic() + patience, 0.1
    while time.monotonic() < deadline:
        before = busy_seconds(cpus)
        time.sleep(pause)
        if busy_seconds(cpus) - before <= quiet * pause:
            break


class Worker:
    """A competitor's process, idle but while it answers."""

    def __init__(self, mode: str, shape: Shape, data: Path, options: Options) -> None:
        self.mode, self.shape = mode, shape
        self.cpus = CPUS[-shape.threads :]
        settle(self.cpus, options.quiet, 10 * options.patience)
        rust = mode in RUST or mode == "engine64"
        program = [options.worker] if rust else [sys.executable, HERE / "peers.py"]
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        environment = os.environ | dict.fromkeys(threads, str(shape.threads))
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(data / "inductor")
        if options.avx2:
            environment |= AVX2
        if options.keep_memory and not rust:
            thresholds = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
            environment |= dict.fromkeys(thresholds, str(1 << 40))
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        sizes = (shape.n, shape.d, shape.c, shape.threads)
        self.process = subprocess.Popen(
            [str(part) for part in (*program, mode, data, *sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            bufsize=1,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, self.cpus),
        )
        before, *note = self.answer("ready")
        self.before_kb, self.note = int(before), " ".join(note)
        self.repetitions, self.slow = 1, False

    def answer(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        if line[:1] != [word]:
            self.log.seek(0)
            sys.exit(f"{self.mode} at {self.shape} failed: {line}\n{self.log.read()[-2000:]}")
        return line[1:]

    def ask(self, question: str, word: str) -> list[str]:
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        return self.answer(word)

    def run(self, repetitions: int) -> list[float]:
        return [float(ms) for ms in self.ask(f"run {repetitions}", "ms")]

    def calibrate(self, turn_ms: float) -> None:
        [first] = self.run(1)
        self.slow = first > SLOW_MS
        if not self.slow:
            fastest = min(first, *self.run(2))
            self.repetitions = max(1, min(2000, round(turn_ms / fastest)))

    def rounds(self, options: Options) -> int:
        """Quiet ones wanted."""
        return min(options.rounds, SLOW_ROUNDS) if self.slow else options.rounds

    def own_seconds(self) -> float:
        """Processor time this process has used."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / CLOCK_TICKS

    def turn(self, options: Options) -> Turn:
        settle(self.cpus, options.quiet, options.patience)
        start, busy, own = time.monotonic(), busy_seconds(self.cpus), self.own_seconds()
        # The first warms caches and threads, which a slow step does for itself.
        times = self.run(1) if self.slow else self.run(self.repetitions + 1)[1:]
        busy, own = busy_seconds(self.cpus) - busy, self.own_seconds() - own
        foreign = max(0.0, (busy - own) / (time.monotonic() - start))
        return Turn(median(times), foreign, foreign <= options.quiet)

    def close(self) -> int:
        """Ends the process; its peak memory in bytes."""
        peak = int(self.ask("peak", "kb")[0])
        self.process.communicate()
        return 1024 * peak
