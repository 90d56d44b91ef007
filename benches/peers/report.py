"""The tables, in Markdown."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median, quantiles

from competitors import CPUS, GEMMS, OTHER_STEPS, PEERS, PYTHON, RUST, Shape, Turn

# What the crate aims at: at most this many times the GEMMs, at least this many times faster.
TARGETS: dict[tuple[str, bool], dict[str, float]] = {
    (shape, one_thread): dict(zip(("gemm", "jax", "compile", "eager", "naive"), targets))
    for shape, one_thread, *targets in (
        ("512/512/100000", False, 1.00, 1.8, 2.4, 3.5, 7.0),
        ("256/512/10000", False, 1.05, 1.7, 1.8, 2.4, 6.0),
        ("512/128/100000", False, 1.05, 3.5, 4.5, 6.5, 8.0),
        ("256/512/10000", True, 1.05, 1.6, 1.4, 1.8, 1.9),
        ("128/128/1000", True, 1.15, 1.5, 2.0, 2.3, 2.0),
    )
}

# A column of the table of the other steps: the one mode's time over the other's.
OTHER_RATIOS = {
    "bf16 ÷ f32": ("bf16", "engine"),
    "bf16 faster than torch autocast": ("autocast", "bf16"),
    "with SGD ÷ without": ("step", "engine"),
    "with SGD faster than torch eager + SGD": ("sgd", "step"),
    "f32 faster than torch linear CE, auto chunks": ("linear-ce", "engine"),
    "f32 faster than torch linear CE, chunks of 128": ("linear-ce-128", "engine"),
}


@dataclass
class Result:
    """What one competitor showed at one shape."""

    note: str
    gradient_error: float
    turns: list[Turn | None]
    """One for each round; none where it sat a round out."""
    peak: int
    extra: int
    """Peak memory beside the started framework, X, W, dX and dW."""


def quiet_pairs(
    results: dict[str, Result], mode: str, beside: str = "engine"
) -> list[tuple[Turn, Turn]]:
    """Another mode's (this crate's) and a peer's turns in the rounds in which both were quiet."""
    pairs = zip(results[beside].turns, results[mode].turns, strict=True)
    return [(ours, its) for ours, its in pairs if ours and its and ours.quiet and its.quiet]


def spread(rounds: list[float]) -> str:
    """The quartiles."""
    low, _, high = quantiles(rounds, n=4, method="inclusive") if len(rounds) > 1 else rounds * 3
    return f"[{low:.2f}, {high:.2f}]"


def ratio_cell(shape: Shape, results: dict[str, Result], mode: str) -> str:
    """This crate's time over the GEMMs', or a peer's over this crate's, and how that is."""
    pairs = quiet_pairs(results, mode)
    if not pairs:
        return "–"
    rounds = [a.ms / b.ms if mode in GEMMS else b.ms / a.ms for a, b in pairs]
    value = median(rounds)
    cell, aim = f"{value:.2f}", ""
    target = TARGETS.get((f"{shape.n}/{shape.d}/{shape.c}", shape.threads == 1), {}).get(mode)
    if target is not None:
        met = value <= target if mode in GEMMS else value >= target
        cell = cell if met else f"**{cell}**"
        aim = f" ({'≤' if mode in GEMMS else '≥'} {target:g})"
    return f"{cell}{aim} {spread(rounds)}"


def other_cell(results: dict[str, Result], mode: str, beside: str) -> str:
    """The one's time over the other's."""
    rounds = [its.ms / ours.ms for ours, its in quiet_pairs(results, mode, beside)]
    return f"{median(rounds):.2f} {spread(rounds)}" if rounds else "–"


def chip() -> str:
    """The CPU, and what it offers for the products."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = fields["flags"].split()
    family = f"family {fields['cpu family']}, model {fields['model']}"
    vectors = next((v for v in ("avx512f", "avx2", "avx") if v in flags), "no AVX")
    bf16 = "multiplies bf16" if "avx512_bf16" in flags else "does not multiply bf16"
    return f"{fields['model name']} ({family}; {vectors}; {bf16})"


def milliseconds(result: Result) -> str:
    times = [turn.ms for turn in result.turns if turn and turn.quiet]
    return f"{median(times):.4g}" if times else "–"


def megabytes(result: Result) -> str:
    return f"{result.peak / 1e6:.0f} ({max(0, result.extra) / 1e6:.0f})"


def quietness(turns: list[Turn]) -> str:
    quiet = [turn.foreign for turn in turns if turn.quiet]
    if not quiet:
        return "No turn was quiet."
    return (
        f"{len(quiet)} of {len(turns)} turns were quiet and are counted: in the\n"
        f"median one other processes used {median(quiet):.2f} cores, in the worst {max(quiet):.2f}."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def report(
    measured: dict[Shape, tuple[dict[str, Result], float]], modes: list[str], avx2: bool
) -> str:
    peers = [mode for mode in PEERS if mode in modes and mode not in OTHER_STEPS]
    others = {k: pair for k, pair in OTHER_RATIOS.items() if set(pair) <= set(modes)}
    names = {"engine": RUST["engine"], **PEERS}
    turns = [t for results, _ in measured.values() for r in results.values() for t in r.turns if t]
    results, _ = next(iter(measured.values()))
    versions = [results[mode].note for mode in PYTHON if mode in results]
    keys = ("ratio", "other", "ms", "memory", "error")
    rows: dict[str, list[list[str]]] = {key: [] for key in keys}
    for shape, (results, exact_error) in measured.items():
        row = [results[mode] for mode in modes]
        rows["ratio"].append([str(shape), *(ratio_cell(shape, results, m) for m in peers)])
        cells = (other_cell(results, *pair) for pair in others.values())
        rows["other"].append([str(shape), *cells])
        rows["ms"].append([str(shape), *map(milliseconds, row)])
        rows["memory"].append([str(shape), *map(megabytes, row)])
        errors = (f"{r.gradient_error:.0e}" for m, r in zip(modes, row) if m not in GEMMS)
        rows["error"].append([str(shape), f"{exact_error:.0e}", *errors])
    plain = [names[mode] for mode in modes]
    checked = [names[mode] for mode in modes if mode not in GEMMS]
    against = ["÷ " + names[m] if m in GEMMS else "faster than " + names[m] for m in peers]
    held = ", held to AVX2" if avx2 else ""
    return f"""\
{date.today()}, {chip()}{held}, {len(CPUS)} cores; {", ".join(dict.fromkeys(versions))}.
ArcFace, s = 64, m = 0.5, f32, the whole step. {quietness(turns)}

Time divided by that of three bare GEMMs, and times faster than each peer: the median over the
rounds (target) [quartiles], bold where a target is missed.

{table(["N/D/C", *against], rows["ratio"])}
The other steps, this crate's unless it says so: products of factors in bf16, SGD with momentum on
the class weights, and torch's linear cross-entropy, which has no margin, beside ArcFace. Times, and
times faster: the median over the rounds [quartiles].

{table(["N/D/C", *others], rows["other"])}
Milliseconds a step: the median turn.

{table(["N/D/C", *plain], rows["ms"])}
Peak memory of the process in MB (beside the started framework, X, W, dX and dW).

{table(["N/D/C", *plain], rows["memory"])}
Gradient error: max |g - g₆₄| / max |g₆₄|, g₆₄ being torch's in float64 (of linear cross-entropy:
without the margin).

{table(["N/D/C", "this crate, f64", *checked], rows["error"])}"""
