"""Computes curves.json: ROC points and AUC of small sets by scikit-learn.

Without an option it writes the file; with --check it computes everything again and compares.
"""

import json
import random
import sys
from pathlib import Path

import numpy
import sklearn
from sklearn.metrics import roc_auc_score, roc_curve

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


def compute() -> dict:
    cases = []
    for name, scores, genuine in sets():
        far, tar, thresholds = roc_curve(genuine, scores, drop_intermediate=False)
        auc = float(roc_auc_score(genuine, scores))
        points = numpy.stack([thresholds[1:], far[1:], tar[1:]], axis=1).tolist()
        case = {"name": name, "scores": scores, "genuine": genuine, "points": points, "auc": auc}
        cases.append(case)
    versions = {"scikit-learn": sklearn.__version__, "numpy": numpy.__version__}
    return {"versions": versions, "cases": cases}


if "--check" in sys.argv[1:]:
    assert json.loads(FILE.read_text())["cases"] == compute()["cases"]
else:
    FILE.write_text(json.dumps(compute(), indent=1) + "\n")
