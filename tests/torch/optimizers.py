"""Computes optimizers.json: a small matrix after each of several steps of torch's optimizers.

Everything is in float64. Without an option it writes the file; with --check it computes everything
again and compares it with the file to 1e-14 of each array's largest entry, for another version of
torch may round elsewhere.
"""

import json
import random
import re
import sys
from pathlib import Path

import torch

FILE = Path(__file__).with_name("optimizers.json")
ROWS, DIMS, STEPS = 4, 3, 6

SGD = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.05},
    {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.05, "nesterov": True},
]
ADAMW = [
    {"lr": 0.01},
    {"lr": 0.1, "weight_decay": 0.0},
    {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3},
]


def matrix(source: random.Random) -> list[list[float]]:
    return [[source.uniform(-1.0, 1.0) for _ in range(DIMS)] for _ in range(ROWS)]


def run(name: str, options: dict, weights: list, gradients: list) -> dict:
    w = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    optimizer = getattr(torch.optim, name)([w], **options)
    after = []
    for gradient in gradients:
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        after.append(w.tolist())
    state = {
        field: value.tolist()
        for field, value in optimizer.state[w].items()
        if field != "step" and value is not None
    }
    return {"optimizer": name, "options": options, "weights": after, "state": state}


def compute() -> dict:
    source = random.Random(20)
    weights = matrix(source)
    gradients = [matrix(source) for _ in range(STEPS)]
    gradients[1][2] = [0.0] * DIMS
    gradients[3] = [[1e-9 * g for g in row] for row in gradients[3]]
    cases = [run("SGD", options, weights, gradients) for options in SGD]
    cases += [run("AdamW", options, weights, gradients) for options in ADAMW]
    version = torch.__version__.split("+")[0]
    return {"torch": version, "weights": weights, "gradients": gradients, "cases": cases}


def numbers(value) -> list[float]:
    return sum(map(numbers, value), []) if isinstance(value, list) else [value]


def deviation(found, expected) -> float:
    found, expected = numbers(found), numbers(expected)
    assert len(found) == len(expected)
    largest = max(map(abs, expected))
    return max(abs(f - e) for f, e in zip(found, expected)) / largest


def check(found: dict, expected: dict) -> None:
    assert [found["weights"], found["gradients"]] == [expected["weights"], expected["gradients"]]
    worst = 0.0
    for one, other in zip(found["cases"], expected["cases"], strict=True):
        assert one["optimizer"] == other["optimizer"]
        assert one["state"].keys() == other["state"].keys()
        worst = max(worst, deviation(one["weights"], other["weights"]))
        for field, value in one["state"].items():
            worst = max(worst, deviation(value, other["state"][field]))
    print(f"{len(found['cases'])} cases, largest deviation {worst:.1e}")
    assert worst < 1e-14


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        check(compute(), json.loads(FILE.read_text()))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        text = json.dumps(compute(), indent=1)
        # A row of numbers on one line.
        row = re.compile(r"\[([^][]+)\]")
        FILE.write_text(row.sub(lambda row: f"[{' '.join(row[1].split())}]", text) + "\n")
