"""Computes label_smoothing.json: torch's cross_entropy(label_smoothing=...) on margin logits.

Everything is in float64. Without an option it writes the file; with --check it computes everything
again and compares it with the file to 1e-13 of each array's largest entry.
"""

import json
import random
import sys
from pathlib import Path

import torch

FILE = Path(__file__).with_name("label_smoothing.json")
CASES = [
    {"loss": "ArcFace", "s": 16.0, "m": 0.5, "epsilon": 0.1},
    {"loss": "ArcFace", "s": 64.0, "m": 0.3, "epsilon": 1.0},
    {"loss": "CosFace", "s": 64.0, "m": 0.35, "epsilon": 0.05},
    {"loss": "CosFace", "s": 8.0, "m": 0.2, "epsilon": 0.5},
    {"loss": "Softmax", "epsilon": 0.2},
]


def run(case: dict, source: random.Random) -> dict:
    def matrix(rows: int) -> torch.Tensor:
        values = [[source.uniform(-1.0, 1.0) for _ in range(4)] for _ in range(rows)]
        return torch.tensor(values, dtype=torch.float64, requires_grad=True)

    x, w, labels = matrix(5), matrix(6), torch.tensor([source.randrange(6) for _ in range(5)])
    if case["loss"] == "Softmax":
        z = x @ w.T
    else:
        normalize = torch.nn.functional.normalize
        cosines = normalize(x) @ normalize(w).T
        own = torch.nn.functional.one_hot(labels, 6).bool()
        if case["loss"] == "ArcFace":
            # None of these angles lies beyond pi - m.
            angles = torch.acos(cosines[own])
            assert (angles < torch.pi - case["m"]).all()
            target = torch.cos(angles + case["m"])
        else:
            target = cosines[own] - case["m"]
        z = case["s"] * cosines.masked_scatter(own, target)
    losses = torch.nn.functional.cross_entropy(
        z, labels, label_smoothing=case["epsilon"], reduction="none"
    )
    losses.sum().backward()
    fields = {"x": x, "w": w, "labels": labels, "losses": losses, "dx": x.grad, "dw": w.grad}
    return case | {field: value.tolist() for field, value in fields.items()}


def flat(value) -> list[float]:
    return [v for part in value for v in flat(part)] if isinstance(value, list) else [value]


def main() -> None:
    source = random.Random(7)
    cases = [run(case, source) for case in CASES]
    if "--check" not in sys.argv:
        FILE.write_text(json.dumps({"torch": torch.__version__, "cases": cases}, indent=1) + "\n")
        return
    for found, stored in zip(cases, json.loads(FILE.read_text())["cases"], strict=True):
        for field in ["x", "w", "losses", "dx", "dw"]:
            largest = max(map(abs, flat(stored[field])))
            pairs = zip(flat(found[field]), flat(stored[field]), strict=True)
            assert all(abs(a - b) <= 1e-13 * largest for a, b in pairs), (stored["loss"], field)


if __name__ == "__main__":
    main()
