//! One problem on several ranks, each a thread.

use std::ops::Range;
use std::time::{Duration, Instant};

use margin_softmax::ranks::{Collective, ThreadCollective, class_range};
use margin_softmax::{Batch, Error, Forward, Gradients, Head, Real, Reduction};
use ndarray::s;

use super::oracle::Problem;
use super::random::Rng;
use super::run::Inputs;
use super::spec::Spec;

/// Embeddings of norms around 3; every third row of X in a common direction, so that some
/// targets are far and some near.
pub fn problem(seed: u64, (n, d, c): (usize, usize, usize), bias: bool) -> Problem {
    let mut rng = Rng::new(seed);
    let mut x = rng.matrix(n, d) * (6.0 / (d as f64).sqrt());
    let (w, labels) = (rng.matrix(c, d), rng.labels(n, c));
    for i in (0..n).step_by(3) {
        let near = &w.row(labels[i]) * 2.0 + &x.row(i) * 0.3;
        x.row_mut(i).assign(&near);
    }
    let b = bias.then(|| rng.vector(c));
    Problem { x, w, b, labels, upstream: rng.vector(n) }
}

/// The ranges between these edges.
pub fn ranges(edges: &[usize]) -> Vec<Range<usize>> {
    edges.windows(2).map(|edge| edge[0]..edge[1]).collect()
}

pub fn even(classes: usize, size: usize) -> Vec<Range<usize>> {
    (0..size).map(|rank| class_range(classes, rank, size)).collect()
}

/// Runs `run` on as many threads as there are ranges; a rank that hangs fails the test.
pub fn on_ranks<T: Send>(
    ranges: &[Range<usize>],
    run: impl Fn(ThreadCollective, Range<usize>) -> T + Sync,
) -> Vec<T> {
    let start = Instant::now();
    let run = &run;
    let results = std::thread::scope(|scope| {
        let group = ThreadCollective::group(ranges.len()).into_iter().zip(ranges);
        let ranks: Vec<_> =
            group.map(|(rank, range)| scope.spawn(move || run(rank, range.clone()))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert!(start.elapsed() < Duration::from_secs(60));
    results
}

pub fn with_shard<F: Real, T>(
    inputs: &Inputs<F>,
    range: &Range<usize>,
    run: impl FnOnce(&Batch<'_, F>) -> T,
) -> T {
    let w = inputs.w.slice(s![range.clone(), ..]);
    let b = inputs.b.as_ref().map(|b| b.slice(s![range.clone()]));
    let shard = Batch::new(&inputs.x, &w, &inputs.labels);
    match &b {
        Some(b) => run(&shard.with_bias(b)),
        None => run(&shard),
    }
}

/// What every rank returns, its gradients full of NaN beforehand.
pub fn by_ranks<F: Real, C: Collective<F>>(
    spec: &Spec,
    inputs: &Inputs<F>,
    reduction: Reduction<'_, F>,
    (collective, range): (C, Range<usize>),
) -> Result<(Forward<F>, Gradients<F>), Error> {
    with_shard(inputs, &range, |shard| {
        let mut gradients = Gradients::zeros_for(shard);
        gradients.embeddings.fill(F::nan());
        gradients.weights.fill(F::nan());
        let head = Head::on_ranks(spec.build(), collective, range.clone());
        let without = head.forward(shard)?;
        let forward = head.forward_backward(shard, reduction, &mut gradients)?;
        assert!(forward == without, "{spec:?}: forward differs without gradients");
        Ok((forward, gradients))
    })
}
