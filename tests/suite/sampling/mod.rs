//! Sampled classes: what is drawn, and that a step over them is a step over those rows.

mod draws;
mod refusals;
mod steps;

use std::collections::HashMap;

use crate::common::layout::Layout;
use crate::common::oracle::Problem;
use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks};
use crate::common::spec::{Spec, menu};
use margin_softmax::sampling::{ClassSample, ClassSampler, SamplerState};
use margin_softmax::{ArcFace, Batch, Error, Forward, Gradients, Head, IGNORED, Real, Reduction};
use ndarray::{Array1, Array2, Axis, concatenate, s};

fn problem(seed: u64, (n, d, c): (usize, usize, usize), bias: bool) -> Problem {
    let mut rng = Rng::new(seed);
    let x = rng.matrix(n, d) * (6.0 / (d as f64).sqrt());
    let (w, labels) = (rng.matrix(c, d), rng.labels(n, c));
    let b = bias.then(|| rng.vector(c));
    Problem { x, w, b, labels, upstream: rng.vector(n) }
}

fn sorted(labels: &[usize]) -> Vec<usize> {
    let mut classes = labels.to_vec();
    classes.sort_unstable();
    classes.dedup();
    classes
}
