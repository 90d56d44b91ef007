"""One Python competitor in a process of its own, driven over stdin and stdout by bench.py.

The protocol is the one of worker/src/main.rs. Each framework computes the same ArcFace
(mean over the batch, true gradients) in the form that proved quickest for it.
"""

import argparse
import math
import os
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SCALE, MARGIN = 64.0, 0.5
COS_M, SIN_M = math.cos(MARGIN), math.sin(MARGIN)
MOMENTUM, RATE = 0.9, 1e-6  # so small a rate that the weights stay those of the others


class Competitor(ABC):
    """A whole step on data it holds: the mean loss and both gradients."""

    @abstractmethod
    def step(self) -> float: ...

    @abstractmethod
    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        """The last step's dX (N, D) and dW (C, D)."""


class Jax(Competitor):
    def __init__(self, x: np.ndarray, w: np.ndarray, labels: np.ndarray, threads: int) -> None:
        import jax
        import jax.numpy as jnp

        def unit(rows: jax.Array) -> jax.Array:
            return rows * jax.lax.rsqrt(jnp.sum(rows * rows, axis=1, keepdims=True))

        def loss(x: jax.Array, w: jax.Array, y: jax.Array) -> jax.Array:
            cos = unit(x) @ unit(w).T
            target = jnp.take_along_axis(cos, y[:, None], axis=1)
            target = target * COS_M - jnp.sqrt(1 - target * target) * SIN_M
            is_target = jnp.arange(w.shape[0]) == y[:, None]
            logits = SCALE * jnp.where(is_target, target, cos)
            return jnp.mean(jax.nn.logsumexp(logits, axis=1) - SCALE * target[:, 0])

        differentiate = jax.value_and_grad(loss, argnums=(0, 1))

        def step(x: Any, w: Any, y: Any, *_outputs: Any) -> Any:
            return differentiate(x, w, y)

        # The last gradients are donated, so the next ones land in their memory.
        self.compiled = jax.jit(step, donate_argnums=(3, 4), keep_unused=True)
        self.arguments = jax.device_put((x, w, labels))
        self.outputs = (jnp.zeros_like(x), jnp.zeros_like(w))
        self.wait = jax.block_until_ready

    def step(self) -> float:
        loss, self.outputs = self.wait(self.compiled(*self.arguments, *self.outputs))
        return float(loss)

    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        dx, dw = self.outputs
        return np.asarray(dx), np.asarray(dw)


class Torch(Competitor):
    """Eager, or by torch.compile; in the precision of the data, or with autocast to bf16."""

    def __init__(
        self,
        x: np.ndarray,
        w: np.ndarray,
        labels: np.ndarray,
        threads: int,
        compiled: bool = False,
        rounded: bool = False,
    ) -> None:
        import torch
        import torch.nn.functional as F

        torch.set_num_threads(threads)

        def arcface(x: Any, w: Any, y: Any) -> Any:
            logits = F.linear(SCALE * F.normalize(x), F.normalize(w))
            target = logits.gather(1, y) / SCALE
            target = SCALE * (target * COS_M - (1 - target * target).sqrt() * SIN_M)
            if compiled:  # a mask fuses with its surroundings, a scatter does not
                logits = torch.where(torch.arange(w.shape[0]) == y, target, logits)
            else:
                logits = logits.scatter(1, y, target)
            return F.cross_entropy(logits, y[:, 0])

        self.loss = torch.compile(arcface) if compiled else arcface
        self.autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=rounded)
        self.parameters = [torch.from_numpy(a).requires_grad_() for a in (x, w)]
        self.labels = torch.from_numpy(labels)[:, None]
        self.differentiate = torch.autograd.grad
        self.outputs: Any = None

    def step(self) -> float:
        self.outputs = None  # as zero_grad() does: its memory can be used again
        with self.autocast():
            loss = self.loss(*self.parameters, self.labels)
        self.outputs = self.differentiate(loss, self.parameters)
        return loss.item()

    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        dx, dw = self.outputs
        return dx.numpy(), dw.numpy()


class TorchSgd(Torch):
    """Eager, and the class weights moved by torch's optimizer."""

    def __init__(self, x: np.ndarray, w: np.ndarray, labels: np.ndarray, threads: int) -> None:
        super().__init__(x, w, labels, threads)
        from torch.optim import SGD

        self.update = SGD(self.parameters[1:], lr=RATE, momentum=MOMENTUM, fused=True)

    def step(self) -> float:
        for parameter in self.parameters:
            parameter.grad = None
        loss = self.loss(*self.parameters, self.labels)
        loss.backward()
        self.update.step()
        return loss.item()

    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        dx, dw = (parameter.grad for parameter in self.parameters)
        return dx.numpy(), dw.numpy()


class MarginFree(Torch):
    """Eager, without the margin: what linear cross-entropy is checked against."""

    def __init__(self, x: np.ndarray, w: np.ndarray, labels: np.ndarray, threads: int) -> None:
        super().__init__(x, w, labels, threads)
        import torch.nn.functional as F

        def cross_entropy(x: Any, w: Any, y: Any) -> Any:
            return F.cross_entropy(F.linear(SCALE * F.normalize(x), F.normalize(w)), y[:, 0])

        self.loss = cross_entropy


class LinearCrossEntropy(Torch):
    """torch's cross-entropy in chunks of the batch, which never holds N×C and has no margin."""

    def __init__(
        self,
        x: np.ndarray,
        w: np.ndarray,
        labels: np.ndarray,
        threads: int,
        chunk: int | None = None,  # rows of the batch; torch's own choice if None
    ) -> None:
        super().__init__(x, w, labels, threads)
        import torch.nn.functional as F
        from torch.nn import LinearCrossEntropyOptions

        # It warns where it makes N×C after all.
        warnings.filterwarnings("error", message=".*linear_cross_entropy")
        options = LinearCrossEntropyOptions(batch_chunk_size=chunk)

        def cross_entropy(x: Any, w: Any, y: Any) -> Any:
            x, w = SCALE * F.normalize(x), F.normalize(w)
            return F.linear_cross_entropy(x, w, y[:, 0], options=options)

        self.loss = cross_entropy


class MetricLearning(Torch):
    """pytorch-metric-learning's own ArcFaceLoss, which holds its class weights as (D, C)."""

    def __init__(self, x: np.ndarray, w: np.ndarray, labels: np.ndarray, threads: int) -> None:
        super().__init__(x, w, labels, threads)
        from pytorch_metric_learning.losses import ArcFaceLoss

        arcface = ArcFaceLoss(*w.shape, margin=math.degrees(MARGIN), scale=SCALE)
        arcface.W.data.copy_(self.parameters[1].detach().T)
        self.parameters[1] = arcface.W
        self.loss = lambda x, _, y: arcface(x, y[:, 0])

    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        dx, dw = super().gradients()
        return dx, dw.T


COMPETITORS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, int], Competitor]] = {
    "jax": Jax,
    "compile": partial(Torch, compiled=True),
    "eager": Torch,
    "autocast": partial(Torch, rounded=True),
    "sgd": TorchSgd,
    "eager64": Torch,
    "margin-free64": MarginFree,
    "metric-learning": MetricLearning,
    "linear-ce": LinearCrossEntropy,
    "linear-ce-128": partial(LinearCrossEntropy, chunk=128),
}


def status_kb(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise KeyError(field)


def import_framework(mode: str) -> str:
    """Imports and starts the framework, so that its own memory is not put down to the step."""
    if mode == "jax":
        import jax

        jax.block_until_ready(jax.numpy.zeros(1) + 1)
        if os.environ.get("PEERS_ISA") == "avx2":
            from jax_without_avx512 import hold_to_avx2

            hold_to_avx2()
        return f"jax {jax.__version__}"
    import torch

    torch.zeros(1) + 1
    if mode == "metric-learning":
        import pytorch_metric_learning
        import pytorch_metric_learning.losses

        return f"pytorch-metric-learning {pytorch_metric_learning.__version__}"
    return f"torch {torch.__version__}"


def save(step: Competitor, prefix: str) -> None:
    """Writes the last step's gradients, raw; some rows at a time, as a copy would be a new peak."""
    for gradient, name in zip(step.gradients(), ("dx", "dw"), strict=True):
        with Path(f"{prefix}.{name}").open("wb") as file:
            for start in range(0, len(gradient), 1024):
                np.ascontiguousarray(gradient[start : start + 1024]).tofile(file)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=COMPETITORS)
    parser.add_argument("data", type=Path)
    parser.add_argument("sizes", type=int, nargs=4, metavar="N D C THREADS")
    args = parser.parse_args()
    n, d, c, threads = args.sizes

    version = import_framework(args.mode)
    before = status_kb("VmRSS")
    precision = np.float64 if args.mode.endswith("64") else np.float32
    x, w = (
        np.fromfile(args.data / name, np.float32).astype(precision, copy=False).reshape(rows, d)
        for name, rows in (("x.f32", n), ("w.f32", c))
    )
    labels = np.fromfile(args.data / "y.i64", np.int64)
    step = COMPETITORS[args.mode](x, w, labels, threads)
    del x, w

    print("ready", before, version, flush=True)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        match command:
            case "run":
                times = []
                for _ in range(int(argument)):
                    start = time.perf_counter()
                    step.step()
                    times.append(1e3 * (time.perf_counter() - start))
                print("ms", *(f"{t:.6f}" for t in times), flush=True)
            case "save":
                loss = step.step()
                save(step, argument)
                print(f"loss {loss:.12f}", flush=True)
            case "peak":
                print("kb", status_kb("VmHWM"), flush=True)
            case _:
                raise ValueError(f"unknown command {line}")


if __name__ == "__main__":
    main()
