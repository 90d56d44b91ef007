#!/usr/bin/env python3
"""Computes golden.json from inputs.json in 90-digit arithmetic.

    python generate.py            writes golden.json
    python generate.py --check    recomputes it and compares it with the committed file
    python generate.py --verify   compares every gradient with central differences first

The formulas are in formulas.py, their derivation in docs/math.md.
"""

import argparse
import json
import struct
import sys
from pathlib import Path

from mpmath import mp, mpf, sin, workprec

import formulas
from formulas import Margin, angle, cross_entropy, dot, gradients, is_parallel, logits, norm, unit

HERE = Path(__file__).parent
# Truncation and rounding of the differences are then both some 1e-48 of a gradient.
STEP = mpf(10) ** -36
NOTES = (
    "Numbers are f64, shortest digits that read back the same. dx, dw, db, dlogits and dcos are "
    "gradients of the objective: for reduction 'mean' sum(w_i L_i)/sum(w_i), 'sum' sum(w_i L_i), "
    "'none' sum(upstream_i w_i L_i); sample_weights null = 1. losses are the unweighted L_i; "
    "mean_loss and sum_loss are their weighted mean and sum whatever the reduction. dcos is by the "
    "cosines at fixed norms, null for softmax and for singular cases. singular: a target angle is "
    "exactly 0 or pi. min_sin_theta_target leaves such angles out, and is 1 where none is left."
)


def exact(value):
    """Nested lists of floats as `mpf`, digit for digit; None stays."""
    if isinstance(value, list):
        return [exact(v) for v in value]
    return None if value is None else mpf(value)


def rounded(value):
    """Nested lists and dictionaries of `mpf` as the nearest f64; anything else stays."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    if not isinstance(value, mpf):
        return value
    with workprec(53):
        return float(+value)


def is_f32(value):
    """Whether every number is also a 32-bit float."""
    if isinstance(value, list):
        return all(map(is_f32, value))
    return value is None or struct.unpack("f", struct.pack("f", value))[0] == value


class Case:
    """The inputs of one case of losses and gradients."""

    def __init__(self, given):
        self.given = given
        self.margin = Margin(given["params"])
        self.x, self.w, self.b = exact(given["x"]), exact(given["w"]), exact(given.get("b"))
        self.labels = given["labels"]
        self.weights = exact(given.get("sample_weights")) or [mpf(1)] * len(self.x)
        self.angular = self.margin.scale != "none"

    def upstream(self):
        """g_i = d objective / d L_i: section 1.1."""
        if self.given["reduction"] == "mean":
            return [weight / sum(self.weights) for weight in self.weights]
        if self.given["reduction"] == "sum":
            return self.weights
        return [eta * weight for eta, weight in zip(exact(self.given["upstream"]), self.weights)]

    def is_singular(self):
        """Whether a target angle is exactly 0 or pi."""
        pairs = zip(self.x, self.labels)
        return self.angular and any(is_parallel(x, self.w[y]) for x, y in pairs)

    def loss(self, i, x=None, w=None, b=None):
        """L_i, some inputs replaced."""
        x, w, b = x or self.x[i], w or self.w, b or self.b
        return cross_entropy(logits(self.margin, x, w, b, self.labels[i]), self.labels[i])[0]

    def objective(self, **replaced):
        losses = (self.loss(i, **replaced) for i in range(len(self.x)))
        return sum(g * loss for g, loss in zip(self.upstream(), losses))

    def solve(self):
        """Losses and gradients by the formulas, in `mpf`."""
        out = {"logits": [], "losses": [], "dlogits": [], "dcos": [], "dx": []}
        dw = [[mpf(0)] * len(row) for row in self.w]
        db = [mpf(0)] * len(self.w) if self.b else None
        for x, y, g in zip(self.x, self.labels, self.upstream()):
            z = logits(self.margin, x, self.w, self.b, y)
            loss, delta = cross_entropy(z, y)
            delta = [g * p for p in delta]
            dx, dw_of_sample, db_of_sample, dcos = gradients(
                self.margin, x, self.w, self.b, y, delta
            )
            for key, value in zip(out, (z, loss, delta, dcos, dx)):
                out[key].append(value)
            dw = [formulas.combine(1, p, 1, q) for p, q in zip(dw, dw_of_sample)]
            db = formulas.combine(1, db, 1, db_of_sample) if db else None
        if None in out["dcos"]:
            out["dcos"] = None
        return {**out, "dw": dw, "db": db}

    def describe(self):
        """The case as it stands in golden.json."""
        given, found = self.given, self.solve()
        angles = [angle(x, self.w[y]) for x, y in zip(self.x, self.labels)]
        sines = [
            sin(theta)
            for theta, x, y in zip(angles, self.x, self.labels)
            if not is_parallel(x, self.w[y])
        ]
        total = dot(self.weights, found["losses"])
        answer = {
            "min_sin_theta_target": min(sines, default=mpf(1)) if self.angular else mpf(1),
            "singular": self.is_singular(),
            "theta_target": angles if self.angular else None,
            "mean_loss": total / sum(self.weights),
            "sum_loss": total,
            **found,
        }
        inputs = {key: given.get(key) for key in ("b", "sample_weights", "upstream")}
        exact_in_f32 = all(is_f32(given.get(key)) for key in ("x", "w", "b"))
        return {**given, **inputs, "f32_exact_inputs": exact_in_f32, **rounded(answer)}

    def verify(self):
        """The largest deviation of a gradient from central differences, relative to its array."""
        found, worst = self.solve(), mpf(0)
        for i, x in enumerate(self.x):
            g = self.upstream()[i]
            expected = [g * difference(lambda x: self.loss(i, x=x), x, k) for k in range(len(x))]
            worst = max(worst, deviation(expected, found["dx"][i], found["dx"]))
        for j, row in enumerate(self.w):
            by_row = lambda row: self.objective(w=self.w[:j] + [row] + self.w[j + 1 :])
            expected = [difference(by_row, row, k) for k in range(len(row))]
            worst = max(worst, deviation(expected, found["dw"][j], found["dw"]))
        if self.b:
            by_bias = lambda b: self.objective(b=b)
            expected = [difference(by_bias, self.b, k) for k in range(len(self.b))]
            worst = max(worst, deviation(expected, found["db"], [found["db"]]))
        for i, dcos in enumerate(found["dcos"] or []):
            x, y, g = self.x[i], self.labels[i], self.upstream()[i]
            cosines = [dot(unit(x), unit(row)) for row in self.w]
            a = self.margin.factor(x)
            by_cosines = lambda c: formulas.loss_of_cosines(self.margin, c, a, y)
            expected = [g * difference(by_cosines, cosines, j) for j in range(len(cosines))]
            worst = max(worst, deviation(expected, dcos, found["dcos"]))
        return worst


class Energy:
    """The inputs of one case of hyperspherical energy."""

    def __init__(self, given):
        self.given, self.w = given, exact(given["w"])
        self.rest = (given.get("labels"), given["half_space"])

    def value(self, w):
        return formulas.energy(self.given["s"], w, *self.rest)

    def gradient(self):
        return formulas.energy_gradient(self.given["s"], self.w, *self.rest)

    def describe(self):
        answer = {"energy": rounded(self.value(self.w)), "dw": rounded(self.gradient())}
        return {**self.given, "labels": self.given.get("labels"), **answer}

    def verify(self):
        found, worst = self.gradient(), mpf(0)
        for j, row in enumerate(self.w):
            by_row = lambda row: self.value(self.w[:j] + [row] + self.w[j + 1 :])
            expected = [difference(by_row, row, k) for k in range(len(row))]
            worst = max(worst, deviation(expected, found[j], found))
        return worst


def difference(function, at, k):
    """The central difference by entry k, with a step of STEP times the vector's length."""
    step = STEP * norm(at)
    moved = lambda by: function(at[:k] + [at[k] + by] + at[k + 1 :])
    return (moved(step) - moved(-step)) / (2 * step)


def deviation(expected, found, array):
    """The largest difference of a row, relative to the largest entry of its array."""
    largest = max(abs(p) for row in array for p in row)
    return max(abs(p - q) for p, q in zip(expected, found)) / largest if largest else mpf(0)


def verify(cases, energies):
    """Prints the largest deviations from central differences; False where one is too large."""
    # At a cone the difference is one of two equal slopes: its error is the step, not its square.
    groups = [
        ("losses", [case for case in cases if not case.is_singular()], 1e-40),
        ("losses at target angles of 0 and pi", [c for c in cases if c.is_singular()], 1e-30),
        ("energies", energies, 1e-40),
    ]
    good = True
    for name, group, limit in groups:
        worst = max(case.verify() for case in group)
        print(f"{name}: {len(group)} cases, largest deviation {mp.nstr(worst, 2)}")
        good &= worst <= limit
    return good


def as_text(value, indent=0):
    """JSON with one row of numbers per line."""
    if isinstance(value, dict):
        lines = [f"{json.dumps(k)}: {as_text(v, indent + 1)}" for k, v in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], (list, dict)):
        lines = [as_text(v, indent + 1) for v in value]
    else:
        return json.dumps(value)
    flat = isinstance(value, dict) and not any(isinstance(v, list) for v in value.values())
    if not lines or flat:
        return json.dumps(value)
    gap = "\n" + " " * (indent + 1)
    left, right = "{}" if isinstance(value, dict) else "[]"
    return left + gap + ("," + gap).join(lines) + "\n" + " " * indent + right


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed file")
    parser.add_argument("--verify", action="store_true", help="compare with central differences")
    arguments = parser.parse_args()

    inputs = json.loads((HERE / "inputs.json").read_text())
    cases, energies = map(Case, inputs["cases"]), map(Energy, inputs["mhe_cases"])
    cases, energies = list(cases), list(energies)
    if arguments.verify and not verify(cases, energies):
        sys.exit("a gradient deviates from central differences")
    text = as_text(
        {
            "schema": 1,
            "generator": "tests/golden/generate.py",
            "digits": mp.dps,
            "notes": NOTES,
            "cases": [case.describe() for case in cases],
            "mhe_cases": [case.describe() for case in energies],
        }
    )
    golden = HERE / "golden.json"
    if not arguments.check:
        golden.write_text(text + "\n")
    elif json.loads(golden.read_text()) != json.loads(text):
        sys.exit("golden.json differs from what its inputs give")
    else:
        print(f"golden.json: {len(cases)} cases and {len(energies)} energies, all the same")


if __name__ == "__main__":
    main()
