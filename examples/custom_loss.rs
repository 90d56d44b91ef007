//! A user-defined loss: X2-Softmax in about fifty lines, run through all engines of the crate
//! without any change to them.
//!
//! The margin of X2-Softmax grows with the angle: the target logit is a parabola of the angle
//! instead of a cosine. Xu et al., *X2-Softmax: Margin Adaptive Loss Function for Face
//! Recognition* (Expert Systems with Applications 2024, arXiv:2312.05281).

#[path = "common/say.rs"]
mod say;

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use margin_softmax::custom::{Angle, Target, check_loss};
use margin_softmax::ranks::{ThreadCollective, class_range};
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::{Batch, Error, Gradients, Head, MarginLoss, Reduction, Scale};
use ndarray::{Array2, ArrayRef2, Axis, s};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::say::say;

/// `z_y = s · (a · (θ_y − h)² + k)`, `z_j = s · cos θ_j`.
#[derive(Debug, Clone, PartialEq)]
struct X2Softmax {
    s: f64,
    a: f64,
    h: f64,
    k: f64,
}

impl X2Softmax {
    /// The target logit falls on all of [0, π] if the parabola opens downwards (a < 0) and its
    /// vertex is at h ≤ 0.
    fn new(s: f64, a: f64, h: f64, k: f64) -> Result<Self, Error> {
        let check = |parameter, value: f64, expected, valid: bool| {
            let valid = valid && value.is_finite();
            if valid { Ok(value) } else { Err(Error::Parameter { parameter, value, expected }) }
        };
        Ok(X2Softmax {
            s: check("scale s", s, "finite and > 0", s > 0.0)?,
            a: check("curvature a", a, "finite and < 0", a < 0.0)?,
            h: check("vertex angle h", h, "finite and <= 0", h <= 0.0)?,
            k: check("vertex logit k", k, "finite", true)?,
        })
    }
}

/// Chosen for this example: a target below the cosine by 0.35 at 0° and by 1.57 at 90°.
impl Default for X2Softmax {
    fn default() -> Self {
        X2Softmax { s: 64.0, a: -0.9, h: 0.0, k: 0.65 }
    }
}

impl MarginLoss for X2Softmax {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    fn target(&self, angle: &Angle) -> Target {
        let from_vertex = angle.theta - self.h;
        Target {
            value: self.a * from_vertex * from_vertex + self.k,
            slope: 2.0 * self.a * from_vertex,
        }
    }
}

const CLASSES: usize = 100;
const DIMS: usize = 16;
const RANKS: usize = 3;

/// The mean loss of a step and the gradient of the class weights.
type Step = (f64, Array2<f64>);

fn main() -> Result<()> {
    let loss = X2Softmax::default();
    say(format!("{loss:?}"))?;
    let refused = X2Softmax::new(64.0, 0.9, 0.0, 0.65).err().context("a = 0.9 was accepted")?;
    say(format!("a = 0.9 is refused: {refused}"))?;
    let check = check_loss(&loss)?;
    ensure!(check.error < 1e-7, "{check}");
    say(format!("gradients differ from finite differences by {:.0e}", check.error))?;

    let (x, mut w, labels) = problem();
    let before = Head::new(&loss).forward(&Batch::new(&x, &w, &labels))?;
    train(&loss, &x, &mut w, &labels)?;
    let after = Head::new(&loss).forward(&Batch::new(&x, &w, &labels))?;
    say(format!(
        "trained with half of the classes per step: loss {:.2} -> {:.2}, accuracy {:.2} -> {:.2}",
        before.mean(),
        after.mean(),
        before.accuracy(),
        after.accuracy(),
    ))?;
    ensure!(after.accuracy() > before.accuracy(), "training did not improve the accuracy");

    let (x, labels) = (x.slice(s![..20, ..]), &labels[..20]);
    let batch = Batch::new(&x, &w, labels);
    let ranks = step_over_ranks(&loss, &x, &w, labels)?;
    let whole = step(&loss, &batch)?;
    let apart = difference(&ranks, &whole)?;
    say(format!("{RANKS} ranks differ from one process by {apart:.0e}"))?;

    let sample = ClassSampler::new(CLASSES, 0.5, 2)?.sample(labels)?;
    let rows = w.select(Axis(0), &sample.classes);
    let sampled = sampled_step(&loss, &batch, &sample)?;
    let separate = step(&loss, &Batch::new(&x, &rows, &sample.labels))?;
    let classes = sample.classes.len();
    let apart = difference(&sampled, &separate)?;
    say(format!(
        "a step over {classes} sampled classes differs from one without the others by {apart:.0e}"
    ))
}

/// Embeddings scattered around a direction for each class, and random class weights.
fn problem() -> (Array2<f64>, Array2<f64>, Vec<usize>) {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut random = |rows| Array2::from_shape_fn((rows, DIMS), |_| rng.random_range(-1.0..1.0));
    let (directions, w, scatter) = (random(CLASSES), random(CLASSES), random(5 * CLASSES));
    let labels: Vec<_> = (0..5 * CLASSES).map(|i| i * 37 % CLASSES).collect();
    (directions.select(Axis(0), &labels) + 0.3 * scatter, w, labels)
}

/// Ten epochs of gradient descent on the class weights, with half of the classes per step.
fn train(loss: &X2Softmax, x: &Array2<f64>, w: &mut Array2<f64>, labels: &[usize]) -> Result<()> {
    let mut sampler = ClassSampler::new(CLASSES, 0.5, 1)?;
    for _ in 0..10 {
        for (x, labels) in x.axis_chunks_iter(Axis(0), 20).zip(labels.chunks(20)) {
            let sample = sampler.sample(labels)?;
            let (_, gradient) = sampled_step(loss, &Batch::new(&x, w, labels), &sample)?;
            for (&class, row) in sample.classes.iter().zip(gradient.rows()) {
                w.row_mut(class).scaled_add(-0.1, &row);
            }
        }
    }
    Ok(())
}

fn step(loss: &X2Softmax, batch: &Batch<'_, f64>) -> Result<Step> {
    let mut gradients = Gradients::zeros_for(batch);
    let forward = Head::new(loss).forward_backward(batch, Reduction::Mean, &mut gradients)?;
    Ok((forward.mean(), gradients.weights))
}

fn sampled_step<'a>(
    loss: &X2Softmax,
    batch: &Batch<'a, f64>,
    sample: &'a ClassSample,
) -> Result<Step> {
    step(loss, &batch.with_sample(sample))
}

/// Each rank is a thread that holds a range of the classes.
fn step_over_ranks(
    loss: &X2Softmax,
    x: &ArrayRef2<f64>,
    w: &ArrayRef2<f64>,
    labels: &[usize],
) -> Result<Step> {
    let rank = |collective: ThreadCollective| -> Result<Step> {
        let range = class_range(CLASSES, collective.rank(), RANKS);
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(x, &rows, labels);
        let mut gradients = Gradients::zeros_for(&shard);
        let head = Head::on_ranks(loss, collective, range);
        let forward = head.forward_backward(&shard, Reduction::Mean, &mut gradients)?;
        Ok((forward.mean(), gradients.weights))
    };
    thread::scope(|scope| {
        let start = |collective| scope.spawn(|| rank(collective));
        let ranks: Vec<_> = ThreadCollective::group(RANKS).into_iter().map(start).collect();
        let (mut mean, mut rows) = (0.0, Array2::zeros((0, DIMS)));
        for rank in ranks {
            let step = rank.join().map_err(|_| anyhow!("a rank panicked"))??;
            mean = step.0;
            rows.append(Axis(0), step.1.view())?;
        }
        Ok((mean, rows))
    })
}

/// The largest difference between two steps, which are equal up to the order of their sums.
fn difference((loss, gradient): &Step, (other_loss, other_gradient): &Step) -> Result<f64> {
    let largest = (gradient - other_gradient).fold(0.0_f64, |max, entry| max.max(entry.abs()));
    let difference = largest.max((loss - other_loss).abs());
    ensure!(difference < 1e-12, "the steps differ by {difference:e}");
    Ok(difference)
}
