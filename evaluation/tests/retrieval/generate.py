"""Computes retrieval.json: retrieval within small sets, by three libraries.

Without an option it writes the file; with --check it computes everything again and compares.
"""

import json
import random
import sys
from pathlib import Path

import numpy
import pytorch_metric_learning
import sklearn
import torch
import torchmetrics
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.metrics import average_precision_score
from torchmetrics.functional import retrieval

FILE = Path(__file__).with_name("retrieval.json")
KS = [1, 2, 5, 10]
METRICS = (
    "precision_at_1",
    "r_precision",
    "mean_average_precision",
    "mean_average_precision_at_r",
)


def sets() -> list[dict]:
    """Noisy copies of one direction per identity. The last identity of each set is of one item."""
    source = random.Random(5)
    chosen = []
    for name, items, identities, dims in [
        ("few items of many identities", 60, 17, 4),
        ("many items of few identities", 120, 3, 3),
        ("noise", 40, 8, 2),
    ]:
        centers = [[source.gauss(0, 1) for _ in range(dims)] for _ in range(identities)]
        noise = 5.0 if name == "noise" else 0.8
        labels = [source.randrange(identities) for _ in range(items)] + [identities]
        rows = [[round(c + noise * source.gauss(0, 1), 6) for c in centers[y % identities]]
                for y in labels]
        cameras = [source.randrange(3) for _ in labels]
        chosen.append({"name": name, "embeddings": rows, "identities": labels, "cameras": cameras})
    return chosen


def cosines(x: numpy.ndarray) -> numpy.ndarray:
    unit = x / numpy.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


def query(scores: numpy.ndarray, relevant: numpy.ndarray) -> dict | None:
    """One query by scikit-learn and torchmetrics; torchmetrics takes positive scores only."""
    if not relevant.any():
        return None
    assert len(set(scores)) == len(scores), "ties are ranked differently"
    preds, target = torch.tensor(scores + 2.0), torch.tensor(relevant)
    hits = [float(retrieval.retrieval_hit_rate(preds, target, top_k=k)) for k in KS]
    return {
        "relevant": int(relevant.sum()),
        "average_precision": float(average_precision_score(relevant, scores)),
        "torchmetrics_average_precision": float(retrieval.retrieval_average_precision(preds, target)),
        "torchmetrics_r_precision": float(retrieval.retrieval_r_precision(preds, target)),
        "torchmetrics_reciprocal_rank": float(retrieval.retrieval_reciprocal_rank(preds, target)),
        "torchmetrics_hits": hits,
    }


def within(case: dict) -> tuple[list, list]:
    """Each item against all others, without and with the rule of cameras."""
    scores, labels = cosines(numpy.array(case["embeddings"])), numpy.array(case["identities"])
    cameras = numpy.array(case["cameras"])
    plain, by_camera = [], []
    for item, label in enumerate(labels):
        same = labels == label
        others = numpy.arange(len(labels)) != item
        plain.append(query(scores[item][others], same[others]))
        seen = ~(same & (cameras == cameras[item]))
        by_camera.append(query(scores[item][seen], same[seen]))
    return plain, by_camera


def metric_learning(case: dict) -> dict:
    x, labels = torch.tensor(case["embeddings"], dtype=torch.float64), torch.tensor(case["identities"])
    calculator = AccuracyCalculator(
        include=METRICS, k=len(labels) - 1, device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
    )
    return calculator.get_accuracy(x, labels)


def compute() -> dict:
    cases = []
    for case in sets():
        plain, by_camera = within(case)
        metric = metric_learning(case)
        cases.append({**case, "queries": plain, "camera_queries": by_camera, "metric_learning": metric})
    versions = {
        "scikit-learn": sklearn.__version__,
        "torchmetrics": torchmetrics.__version__,
        "pytorch-metric-learning": pytorch_metric_learning.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
    return {"versions": versions, "ks": KS, "cases": cases}


if "--check" in sys.argv[1:]:
    assert json.loads(FILE.read_text())["cases"] == compute()["cases"]
else:
    FILE.write_text(json.dumps(compute(), indent=None, separators=(",", ":")).replace('{"', '\n{"') + "\n")
