#!/usr/bin/env python3
"""Computes the cases of field.json again, in 90-digit arithmetic: losses by the formulas of
docs/math.md, gradients by central differences of these losses.

    python field.py    compares both with the committed file, digit for digit of an f64
"""

import json
import sys
from pathlib import Path

from mpmath import cos, exp, log1p, mpf

from formulas import Margin, angle, cross_entropy, mp
from generate import deviation, difference, exact

HERE = Path(__file__).parent
# An f64 is off by half a unit of its last place, the values of the file as well.
LIMIT = mpf(2) ** -51


class Case:
    """The inputs of one case: nearest negatives, a binary loss, or a class prior."""

    def __init__(self, given):
        self.given, self.s = given, mpf(given["s"])
        self.params, self.labels = given["params"], given["labels"]
        self.x, self.w = exact(given["x"]), exact(given["w"])
        self.b = [exact(self.params.get("b", 0.0))]

    def angles(self, x, w):
        """The angle with the nearest row of each class: section 13.4."""
        k = self.given["sub_centers"]
        rows = [angle(x, row) for row in w]
        return [min(rows[j : j + k]) for j in range(0, len(rows), k)]

    def logits(self, angles, y):
        """The logits of a softmax: sections 0.2, 13.3 and 13.7."""
        margin = Margin({"scale": "fixed", **self.params})
        others = sorted((j for j in range(len(angles)) if j != y), key=lambda j: angles[j])
        nearest = others[: self.params.get("k", 0)]
        fs = [cos(theta) for theta in angles]
        for j in nearest:
            fs[j] = cos(angles[j] - mpf(self.params["top_margin"]))
        fs[y] = margin.target(angles[y])[0]
        prior = exact(self.params.get("prior")) or [mpf(0)] * len(fs)
        return [self.s * f + p for f, p in zip(fs, prior)]

    def softmax(self, angles, y):
        """Cross-entropy with smoothed labels: section 11."""
        z, epsilon = self.logits(angles, y), mpf(self.given["smoothing"])
        return cross_entropy(z, y)[0] + epsilon * (z[y] - sum(z) / len(z))

    def binary(self, angles, y, b):
        """One logistic loss for each class: section 14."""
        m, lam, t = (mpf(self.params.get(key, 1)) for key in ("m", "lambda", "t"))
        shape = lambda c: 2 * ((max(c, mpf(-1)) + 1) / 2) ** t - 1
        own = angles[y]
        f, h, positive, negative = {
            "sphereface2_c": (shape(cos(own)) - m, lambda a: shape(cos(a)) + m, lam, 1 - lam),
            "sphereface2_a": (
                shape(Margin({"scale": "fixed", "m1": m}).target(own)[0]),
                lambda a: shape(cos(a - m)),
                lam,
                1 - lam,
            ),
            "uce": (cos(own) - m, cos, 1, 1),
        }[self.given["loss"]]
        others = (softplus(self.s * h(a) + b) for j, a in enumerate(angles) if j != y)
        return positive * softplus(-self.s * f - b) + negative * sum(others)

    def loss(self, i, x=None, w=None, b=None):
        """L_i, some inputs replaced."""
        angles, y = self.angles(x or self.x[i], w or self.w), self.labels[i]
        if "b" in self.params:
            return self.binary(angles, y, (b or self.b)[0])
        return self.softmax(angles, y)

    def objective(self, x=None, **replaced):
        rows = x or self.x
        losses = [self.loss(i, x=row, **replaced) for i, row in enumerate(rows)]
        return sum(losses) / (len(losses) if self.given["reduction"] == "mean" else 1)

    def deviations(self):
        """How far losses and gradients of the file are off, relative to a loss and to an array."""
        given = {key: exact(self.given[key]) for key in ("losses", "dx", "dw", "db")}
        for i, loss in enumerate(given["losses"]):
            yield abs(self.loss(i) / loss - 1)
        for key, rows in (("x", self.x), ("w", self.w)):
            for i, row in enumerate(rows):
                moved = lambda row: self.objective(**{key: rows[:i] + [row] + rows[i + 1 :]})
                found = [difference(moved, row, k) for k in range(len(row))]
                yield deviation(found, given["d" + key][i], given["d" + key])
        if given["db"] is not None:
            slope = difference(lambda b: self.objective(b=b), self.b, 0)
            yield abs(slope / given["db"] - 1)


def softplus(z):
    return log1p(exp(-abs(z))) + max(z, mpf(0))


def main():
    cases = [Case(given) for given in json.loads((HERE / "field.json").read_text())["cases"]]
    worst = mpf(0)
    for case in cases:
        off = max(case.deviations())
        worst = max(worst, off)
        if off > LIMIT:
            print(f"{case.given['id']}: off by {mp.nstr(off, 2)}")
    print(f"field.json: {len(cases)} cases, largest deviation {mp.nstr(worst, 2)}")
    if worst > LIMIT:
        sys.exit("field.json differs from what its inputs give")


if __name__ == "__main__":
    main()
