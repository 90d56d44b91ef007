"""The losses and their gradients in high-precision arithmetic, from docs/math.md.

Everything is a plain loop over lists of `mpf`: no vectorization and no trick that the formula on
the page does not have. Section numbers refer to docs/math.md.
"""

from fractions import Fraction

from mpmath import acos, atan2, cos, exp, floor, log, log1p, mp, mpf, pi, sin, sqrt

mp.dps = 90


def dot(a, b):
    return sum((p * q for p, q in zip(a, b)), mpf(0))


def norm(a):
    return sqrt(dot(a, a))


def unit(a):
    length = norm(a)
    return [p / length for p in a]


def combine(alpha, a, beta, b):
    """alpha a + beta b."""
    return [alpha * p + beta * q for p, q in zip(a, b)]


# --- one target pair (sections 0 and 2) -------------------------------------------------------


class Margin:
    """The margin function f of one loss: section 0.2."""

    def __init__(self, params):
        number = lambda key, default: mpf(params.get(key, default))
        self.scale = params["scale"]
        self.s = number("s", 1)
        self.m0, self.m1, self.m2 = number("m0", 1), number("m1", 0), number("m2", 0)
        self.lam = number("lambda", 0)
        self.continuation = params.get("extension", "monotone")

    def psi(self, theta):
        """psi(m0 theta + m1) and -d psi / d theta, continued past pi: section 0.4."""
        phi = self.m0 * theta + self.m1
        if self.continuation == "arcface_official" and theta >= pi - self.m1:
            return cos(theta) - self.m1 * sin(self.m1), sin(theta)
        if self.continuation == "easy" and theta >= pi / 2:
            return cos(theta), sin(theta)
        if self.continuation == "monotone":
            k = floor(phi / pi)
            alpha = phi - k * pi
            return cos(alpha) - 2 * k, self.m0 * sin(alpha)
        return cos(phi), self.m0 * sin(phi)

    def target(self, theta):
        """f(theta) and D(theta) = -df/dtheta."""
        psi, fall = self.psi(theta)
        blend = lambda plain, margin: (self.lam * plain + margin) / (1 + self.lam)
        return blend(cos(theta), psi - self.m2), blend(sin(theta), fall)

    def factor(self, x):
        """a_i, what multiplies the cosines of this sample."""
        return norm(x) if self.scale == "norm" else self.s


def angle(x, w):
    """The angle between two vectors, by the lengths of difference and sum: section 2.3."""
    u, v = unit(x), unit(w)
    return 2 * atan2(norm(combine(1, v, -1, u)), norm(combine(1, v, 1, u)))


def is_parallel(x, w):
    """Whether the angle is exactly 0 or pi: Cauchy-Schwarz with equality, in rational numbers."""
    x, w = [Fraction(float(p)) for p in x], [Fraction(float(p)) for p in w]
    inner = lambda a, b: sum(p * q for p, q in zip(a, b))
    return inner(x, w) ** 2 == inner(x, x) * inner(w, w)


def tangent(at, towards):
    """The unit tangent at one vector's direction towards another's; 0 where there is none."""
    if is_parallel(at, towards):
        return [mpf(0)] * len(at)
    u, v = unit(at), unit(towards)
    return unit(combine(1, v, -dot(u, v), u))


# --- one sample (section 1) -------------------------------------------------------------------


def cross_entropy(z, y):
    """L = softplus(S - z_y), and dL/dz: section 1.1."""
    largest = max((z_j for j, z_j in enumerate(z) if j != y))
    powers = [mpf(0) if j == y else exp(z_j - largest) for j, z_j in enumerate(z)]
    total = sum(powers)
    d = largest + log(total) - z[y]
    loss = d + log1p(exp(-d)) if d > 0 else log1p(exp(d))
    sigma = 1 / (1 + exp(-d))
    delta = [-sigma if j == y else sigma * power / total for j, power in enumerate(powers)]
    return loss, delta


def logits(margin, x, w, b, y):
    """z_j of one sample: section 0.2."""
    if margin.scale == "none":
        return [dot(x, row) + (b[j] if b else 0) for j, row in enumerate(w)]
    a, u = margin.factor(x), unit(x)
    return [
        a * (margin.target(angle(x, row))[0] if j == y else dot(u, unit(row)))
        for j, row in enumerate(w)
    ]


def gradients(margin, x, w, b, y, delta):
    """The gradients of one sample's loss times a weight: sections 1.3 and 1.4.

    `delta` is dL/dz, the weight included. Returns dL/dx, dL/dw, dL/db (None without a bias) and
    dL/dc at fixed norms (None for Softmax and where the target has no tangent).
    """
    if margin.scale == "none":
        dx = [dot(delta, column) for column in zip(*w)]
        dw = [[delta_j * p for p in x] for delta_j in delta]
        return dx, dw, list(delta) if b else None, None
    a, r, u = margin.factor(x), norm(x), unit(x)
    f, fall = margin.target(angle(x, w[y]))
    dx, dw, dcos = [mpf(0)] * len(x), [], []
    for j, row in enumerate(w):
        q, v = norm(row), unit(row)
        c = dot(u, v)
        if j == y:
            value, by_x, by_w = f, tangent(x, row), tangent(row, x)
            by_x, by_w = [fall * p for p in by_x], [fall * p for p in by_w]
            dcos.append(None if is_parallel(x, row) else delta[j] * a * fall / sin(angle(x, row)))
        else:
            value, by_x, by_w = c, combine(1, v, -c, u), combine(1, u, -c, v)
            dcos.append(delta[j] * a)
        # Along the sphere, and along x where its norm is in the scale.
        dx = combine(1, dx, delta[j] * a / r, by_x)
        if margin.scale == "norm":
            dx = combine(1, dx, delta[j] * value, u)
        dw.append([delta[j] * a / q * p for p in by_w])
    return dx, dw, None, None if None in dcos else dcos


def loss_of_cosines(margin, cosines, a, y):
    """One sample's loss as a function of its cosines at fixed norms: what dcos is checked by."""
    z = [a * (margin.target(acos(c))[0] if j == y else c) for j, c in enumerate(cosines)]
    return cross_entropy(z, y)[0]


# --- hyperspherical energy (section 6) --------------------------------------------------------


def riesz(s, d):
    """f_s(d)."""
    return -log(d) if s == 0 else d ** -s


def force(s, d):
    """-f_s'(d) / d."""
    return (s or 1) * d ** (-s - 2)


def energy(s, w, labels, half):
    """The energy of all rows, of all rows and their opposites, or of a batch of labels."""
    v, c = [unit(row) for row in w], len(w)
    distance = lambda j, k, sign: norm(combine(1, v[j], -sign, v[k]))
    first = range(c) if labels is None else labels
    signs = (1, -1) if half else (1,)
    pairs = [(j, k, sign) for j in first for k in range(c) for sign in signs if j != k]
    total = sum(riesz(s, distance(*pair)) for pair in pairs)
    if half:
        return 2 * (total + c * riesz(s, mpf(2))) / (2 * c * (2 * c - 1))
    return total / (len(first) * (c - 1))


def energy_gradient(s, w, labels, half):
    """Its gradient with respect to every row, by the closed forms of section 6."""
    v, c = [unit(row) for row in w], len(w)
    counts = [1] * c if labels is None else [labels.count(j) for j in range(c)]
    scale = mpf(2) / (2 * c * (2 * c - 1)) if half else mpf(1) / (sum(counts) * (c - 1))
    rows = []
    for j in range(c):
        pull = [mpf(0)] * len(w[j])
        for k in (k for k in range(c) if k != j):
            near = force(s, norm(combine(1, v[j], -1, v[k])))
            far = force(s, norm(combine(1, v[j], 1, v[k]))) if half else 0
            pull = combine(1, pull, (counts[j] + counts[k]) * (near - far), v[k])
        tangential = combine(1, pull, -dot(pull, v[j]), v[j])
        rows.append([scale / norm(w[j]) * p for p in tangential])
    return rows
