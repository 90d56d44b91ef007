"""Times this crate beside its peers, turn and turn about, and prints the tables in Markdown.

Start it by `run`, which sets up what it needs; README.md says what is measured and how.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from competitors import GEMMS, MARGIN_FREE, PEERS, Options, Shape, Worker
from report import Result, quiet_pairs, report

DEFAULT_SHAPES = "512/512/100000 256/512/10000 512/128/100000 256/512/10000:1 128/128/1000:1"

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-9
ROUNDED_LOSS_TOLERANCE = 0.02  # of products, or logits too, in bf16


def write_data(shape: Shape, directory: Path) -> None:
    random = np.random.default_rng(0)
    for name, rows in (("x.f32", shape.n), ("w.f32", shape.c)):
        random.standard_normal((rows, shape.d), np.float32).tofile(directory / name)
    random.integers(0, shape.c, shape.n).astype(np.int64).tofile(directory / "y.i64")


def blocks(path: Path, count: int) -> Iterator[np.ndarray]:
    """A raw file's numbers, f32 or f64 as its size says, some at a time."""
    precision = np.dtype(f"<f{path.stat().st_size // count}")
    with path.open("rb") as file:
        while (block := np.fromfile(file, precision, 1 << 22)).size:
            yield block.astype(np.float64)


def gradient_error(ours: Path, exact: Path, shape: Shape) -> float:
    """The greatest difference in dX and dW, each relative to its greatest entry."""
    worst = 0.0
    for suffix, rows in ((".dx", shape.n), (".dw", shape.c)):
        files = (p.with_suffix(suffix) for p in (ours, exact))
        pairs = zip(*(blocks(file, rows * shape.d) for file in files), strict=True)
        extremes = [(abs(a - b).max(), abs(b).max()) for a, b in pairs]
        worst = max(worst, max(e for e, _ in extremes) / max(m for _, m in extremes))
    return worst


def check_exactness(
    shape: Shape, modes: list[str], data: Path, options: Options
) -> tuple[dict[str, float], float]:
    """The losses in f64, and how far this crate's f64 gradients are from torch's."""
    losses = {}
    margin_free = ["margin-free64"] if set(MARGIN_FREE) & set(modes) else []
    for mode in ("eager64", "engine64", *margin_free):
        worker = Worker(mode, shape, data, options)
        losses[mode] = float(worker.ask(f"save {data / mode}", "loss")[0])
        worker.close()
    error = gradient_error(data / "engine64", data / "eager64", shape)
    off = abs(losses["engine64"] / losses["eager64"] - 1)
    if not (error <= GRADIENT_TOLERANCE and off <= GRADIENT_TOLERANCE):
        sys.exit(f"{shape}: f64 differs from torch: loss by {off:.1e}, gradients by {error:.1e}")
    return losses, error


def measure(
    shape: Shape, modes: list[str], data: Path, options: Options
) -> tuple[dict[str, Result], float]:
    """Every competitor at one shape, and this crate's f64 gradient error."""
    say(f"{shape}: checking")
    write_data(shape, data)
    losses, exact_error = check_exactness(shape, modes, data, options)
    results: dict[str, Result] = {}
    workers: list[Worker] = []
    for mode in modes:
        worker = Worker(mode, shape, data, options)
        loss, error = float(worker.ask(f"save {data / mode}", "loss")[0]), np.nan
        if mode in GEMMS:
            say(f"{shape}: {mode}, {worker.note}")
        else:
            reference = "margin-free64" if mode in MARGIN_FREE else "eager64"
            exact_loss = losses[reference]
            tolerance = ROUNDED_LOSS_TOLERANCE if mode in ("bf16", "autocast") else LOSS_TOLERANCE
            if not abs(loss - exact_loss) <= tolerance * max(1.0, exact_loss):
                sys.exit(f"{shape}: {mode} has loss {loss}, torch in f64 {exact_loss}")
            error = gradient_error(data / mode, data / reference, shape)
            say(f"{shape}: {mode}, loss {loss:.7g}, gradients off by {error:.0e}")
            for suffix in (".dx", ".dw"):
                (data / mode).with_suffix(suffix).unlink()
        worker.calibrate(options.turn_ms)
        results[mode] = Result(worker.note, error, [], 0, 0)
        workers.append(worker)
    for number in range(2 * options.rounds):
        wanting = {
            worker
            for worker in workers
            if len(quiet_pairs(results, worker.mode)) < worker.rounds(options)
            and number < 2 * worker.rounds(options)
        }
        if not wanting:
            break
        say(f"{shape}: round {number + 1}, {options.rounds} quiet ones wanted")
        for worker in workers if number % 2 == 0 else workers[::-1]:
            sits_out = worker.slow and worker not in wanting
            results[worker.mode].turns.append(None if sits_out else worker.turn(options))
    for worker in workers:
        result = results[worker.mode]
        result.peak = worker.close()
        result.extra = result.peak - 1024 * worker.before_kb - shape.held_bytes
    return results, exact_error


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="3 rounds of short turns")
    parser.add_argument(
        "--rounds", type=int, help="quiet ones, of up to twice as many: 9 unless --quick"
    )
    parser.add_argument(
        "--shapes",
        type=Shape.parse,
        nargs="+",
        default=[Shape.parse(shape) for shape in DEFAULT_SHAPES.split()],
        help="N/D/C on all cores, N/D/C:1 on one",
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--quiet", type=float, default=0.1, help="cores other processes may use in a turn"
    )
    parser.add_argument(
        "--patience", type=float, default=3, help="seconds to wait for them before a turn"
    )
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="have the C library keep freed memory, for the Python peers: fewer page faults",
    )
    parser.add_argument("--isa", choices=["avx2"], help="hold all to these instructions")
    args = parser.parse_args()
    options = Options(
        worker=args.worker,
        rounds=args.rounds or (3 if args.quick else 9),
        turn_ms=200.0 if args.quick else 500.0,
        quiet=args.quiet,
        patience=args.patience,
        keep_memory=args.keep_memory,
        avx2=args.isa == "avx2",
    )
    modes = ["engine", *(mode for mode in PEERS if mode in args.peers)]
    measured = {}
    for shape in args.shapes:
        with tempfile.TemporaryDirectory(prefix="peers-") as data:
            measured[shape] = measure(shape, modes, Path(data), options)
    print(report(measured, modes, options.avx2))


if __name__ == "__main__":
    main()
