"""Computes curves.json: ROC points, AUC and TAR@FAR by folds of small sets by scikit-learn.

Without an option it writes the file; with --check it computes everything again and compares.
"""

import json
import random
import sys
from pathlib import Path

import numpy
import sklearn
from sklearn.metrics import roc_auc_score, roc_curve

FOLDS, FARS = 5, [0.0, 0.05, 0.2, 1.0]
FILE = Path(__file__).with_name("curves.json")


def sets() -> list[tuple[str, list[float], list[bool]]]:
    source = random.Random(20)
    chosen = [
        ("one score", [0.5] * 5, [True, False, True, False, False]),
        ("two pairs", [0.1, 0.2], [True, False]),
        ("separated", [0.9, 0.8, 0.2, 0.1], [True, True, False, False]),
        ("reversed", [0.1, 0.2, 0.8, 0.9], [True, True, False, False]),
    ]
    for name, count, digits in [("ties", 60, 1), ("some ties", 80, 2), ("no ties", 50, 17)]:
        genuine = [i % 3 == 0 for i in range(count)]
        scores = [round(source.gauss(0.4 if g else 0.1, 0.25), digits) for g in genuine]
        chosen.append((name, scores, genuine))
    return chosen


def tar_at_far_by_folds(scores: list[float], genuine: list[bool], far: float) -> list[list[float]]:
    """FAR and TAR of each fold at the lowest threshold with at most this FAR on the others."""
    scores, genuine = numpy.array(scores), numpy.array(genuine)
    size, rates = len(scores) // FOLDS, []
    for fold in range(FOLDS):
        inside = (numpy.arange(len(scores)) // size) == fold
        fars, _, thresholds = roc_curve(genuine[~inside], scores[~inside], drop_intermediate=False)
        accepted = scores[inside] >= thresholds[fars <= far][-1]
        shares = [accepted[genuine[inside] == kind].mean() for kind in (False, True)]
        rates.append([float(share) for share in shares])
    return rates


def compute() -> dict:
    cases = []
    for name, scores, genuine in sets():
        far, tar, thresholds = roc_curve(genuine, scores, drop_intermediate=False)
        auc = float(roc_auc_score(genuine, scores))
        points = numpy.stack([thresholds[1:], far[1:], tar[1:]], axis=1).tolist()
        folds = [
            {"far": far, "rates": tar_at_far_by_folds(scores, genuine, far)}
            for far in (FARS if len(scores) >= 50 else [])
        ]
        case = {"name": name, "scores": scores, "genuine": genuine, "points": points, "auc": auc}
        case["folds"] = folds
        cases.append(case)
    versions = {"scikit-learn": sklearn.__version__, "numpy": numpy.__version__}
    return {"versions": versions, "cases": cases}


if "--check" in sys.argv[1:]:
    assert json.loads(FILE.read_text())["cases"] == compute()["cases"]
else:
    FILE.write_text(json.dumps(compute(), indent=1) + "\n")
