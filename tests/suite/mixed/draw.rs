//! One batch, one loss and one way to compute, drawn from all that there are.

use std::ops::Range;

use margin_softmax::custom::HardNegatives;
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::{
    IGNORED, InterclassFilter, LabelSmoothing, MarginLoss, Precision, Real, Scale, TopNegatives,
};
use ndarray::{Array1, Array2};

use crate::common::compare::{norm, wide};
use crate::common::layout::{LAYOUTS, Layout};
use crate::common::naive::{Naive, NaiveAnswer};
use crate::common::random::Rng;
use crate::common::ranks::even;
use crate::common::wide::Wide;
use crate::every_loss::varied;

/// What a mixed step is of. Every option that is drawn here is mixed with all others.
#[derive(Debug)]
pub struct Case {
    pub loss: Box<dyn MarginLoss>,
    /// Rows of class weights for each class.
    pub k: usize,
    /// The numbers of the working type, wide.
    pub x: Array2<f64>,
    pub w: Array2<f64>,
    pub bias: Option<Array1<f64>>,
    pub log_prior: Option<Array1<f64>>,
    pub labels: Vec<usize>,
    /// Whether each sample counts: the others have the label IGNORED, or no direction.
    pub counted: Vec<bool>,
    pub first_row: usize,
    pub reduction: Reduced,
    /// Of x and w, and of their gradients.
    pub layouts: [[Layout; 2]; 2],
    pub sampling: Option<Sampling>,
    pub ranks: usize,
    pub precision: Precision,
    pub budget: usize,
    /// AdamW, or SGD with momentum.
    pub adamw: bool,
}

#[derive(Debug)]
pub enum Reduced {
    Mean,
    Sum,
    Weighted(Array1<f64>),
}

#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    pub rate: f64,
    pub corrected: bool,
    pub seed: u64,
}

impl Case {
    /// The case of a seed, such that rounding in `F` selects as f64 does, among whichever classes are
    /// active: no cosine near a threshold, no two rows of a class nearly as near as each other, and
    /// the last of the nearest negatives well before the next.
    pub fn new<F: Real>(seed: u64) -> Self {
        for attempt in 0..1000 {
            let case = Case::draw::<F>(&mut Rng::new(seed * 1000 + attempt));
            let mut active = vec![vec![Some(0.0); case.classes()]];
            if case.sampling.is_some() {
                active.push(case.sample(&(0..case.classes())).1);
                let ranks = even(case.classes(), case.ranks);
                active.push(ranks.iter().flat_map(|range| case.sample(range).1).collect());
            }
            // Nor a binary loss at an angle of 0 or π, where it has no derivative by the cosine.
            let clear = |answer: NaiveAnswer| {
                answer.gap > 64.0 * wide(F::epsilon()) && answer.reach.is_finite()
            };
            if active.iter().all(|offsets| clear(case.solve(offsets, false))) {
                return case;
            }
        }
        panic!("seed {seed}: every batch has ties");
    }

    /// The sample of a range of classes; the offsets of its classes, by number in the range.
    pub fn sample(&self, range: &Range<usize>) -> (Option<ClassSample>, Vec<Option<f64>>) {
        let Some(sampling) = self.sampling else { return (None, vec![Some(0.0); range.len()]) };
        let whole = *range == (0..self.classes());
        let sampler = if whole {
            ClassSampler::new(self.classes(), sampling.rate, sampling.seed)
        } else {
            ClassSampler::for_range(range.clone(), sampling.rate, sampling.seed)
        };
        let mut sampler = sampler.unwrap().with_correction(sampling.corrected);
        let sample = sampler.sample(&self.labels).unwrap();
        let mut offsets = vec![None; range.len()];
        for &class in &sample.classes {
            let in_batch = self.labels.contains(&(range.start + class));
            offsets[class] = Some(if in_batch { 0.0 } else { sample.correction() });
        }
        (Some(sample), offsets)
    }

    fn draw<F: Real>(rng: &mut Rng) -> Self {
        let (n, d) = (rng.pick(&[1, 2, 3, 5, 8, 13, 33]), rng.pick(&[2, 3, 5, 8, 17, 40]));
        let (classes, k) = (rng.pick(&[1, 2, 3, 5, 9, 30, 280]), rng.pick(&[1, 1, 1, 2, 3]));
        let loss = draw_loss(rng, classes);
        let round = |v: f64| wide(F::from(v).unwrap());
        let mut w = rng.matrix(classes * k, d);
        let tiny = rng.pick(&[1.0, 1.0, 1e-9]);
        for mut row in w.rows_mut() {
            row *= tiny * rng.decades(0.1, 10.0);
        }
        let mut labels = rng.labels(n, classes);
        let mut x = rng.matrix(n, d);
        let unnormalized = loss.scale() == Scale::Unnormalized;
        let tiny = if unnormalized { 1.0 } else { rng.pick(&[1.0, 1.0, 1e-8, 1e-23]) };
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            if rng.below(3) == 0 {
                let own = w.row(labels[i] * k + rng.below(k));
                row.scaled_add(1.5 / norm(own), &own);
            }
            let length = norm(row.view());
            row *= tiny * rng.decades(0.5, if unnormalized { 5.0 } else { 150.0 }) / length;
        }
        let mut counted = vec![true; n];
        let leaves_out = rng.below(2) == 0;
        for i in (0..n).filter(|_| leaves_out) {
            match rng.below(6) {
                0 => {
                    labels[i] = IGNORED;
                    x.row_mut(i).fill(rng.pick(&[0.0, 1e20, -1.0]));
                }
                1 if !unnormalized => x.row_mut(i).fill(0.0),
                _ => continue,
            }
            counted[i] = false;
        }
        let reduction = match rng.below(3) {
            0 => Reduced::Mean,
            1 => Reduced::Sum,
            _ => Reduced::Weighted(rng.vector(n).mapv(round)),
        };
        // What a correction or a prior adds to a logit leaves few digits of a much smaller one, and so
        // of the cosine that tells hard negatives and the nearest rows.
        let faint = tiny < 1.0 || matches!(loss.scale(), Scale::Fixed(s) if s < 1.0);
        let selects = k > 1 || loss.hard_negatives().is_some() || loss.top_negatives().is_some();
        let exact = !faint || !selects;
        let sampling = (rng.below(2) == 0).then(|| Sampling {
            rate: rng.uniform(0.1, 1.0),
            corrected: exact && rng.below(2) == 0 && loss.binary().is_none(),
            seed: rng.bits(),
        });
        // Rounded factors select other rows and other negatives than f64.
        let rounds = size_of::<F>() == 4 && !selects;
        let rounded = rounds && rng.below(4) == 0;
        let mut layouts = || [rng.pick(&LAYOUTS), rng.pick(&LAYOUTS)];
        let layouts = [layouts(), layouts()];
        Case {
            bias: (unnormalized && rng.below(2) == 0).then(|| rng.vector(classes * k).mapv(round)),
            log_prior: (exact && rng.below(2) == 0)
                .then(|| (rng.vector(classes) * 3.0).mapv(round)),
            x: x.mapv(round),
            w: w.mapv(round),
            loss,
            k,
            labels,
            counted,
            first_row: rng.pick(&[0, 0, 7]),
            reduction,
            layouts,
            sampling,
            ranks: 1 + rng.below(3),
            precision: if rounded { Precision::Bf16 } else { Precision::Full },
            budget: rng.pick(&[0, 1000, 256 << 20]),
            adamw: rng.below(2) == 0,
        }
    }

    pub fn classes(&self) -> usize {
        self.w.nrows() / self.k
    }

    /// What the formulas say, with what is added to the logits of each class; `None` where it is not
    /// active.
    pub fn solve(&self, offsets: &[Option<f64>], by_cosines: bool) -> NaiveAnswer {
        let count = self.counted.iter().filter(|counted| **counted).count();
        let upstream: Vec<f64> = (0..self.labels.len())
            .map(|i| match &self.reduction {
                Reduced::Mean => 1.0 / count as f64,
                Reduced::Sum => 1.0,
                Reduced::Weighted(weights) => weights[i],
            })
            .collect();
        let labels = self.labels.iter().zip(&self.counted);
        let labels: Vec<Option<usize>> =
            labels.map(|(&label, counted)| counted.then_some(label)).collect();
        let Case { x, w, first_row, k, .. } = self;
        let (bias, first_row, k) = (self.bias.as_ref(), *first_row, *k);
        let upstream = &upstream;
        let (labels, log_prior) = (&labels[..], self.log_prior.as_ref());
        Naive { x, w, bias, log_prior, labels, first_row, k, offsets, upstream, by_cosines }
            .solve(&*self.loss)
    }
}

/// A loss of the crate, or one with all that a loss may have, with wrappers or without.
fn draw_loss(rng: &mut Rng, classes: usize) -> Box<dyn MarginLoss> {
    let mut all = varied(rng, classes);
    let at = rng.below(all.len() + 3);
    let mut loss = if at < all.len() { all.swap_remove(at) } else { Box::new(draw_wide(rng)) };
    if loss.binary().is_some() {
        return loss; // no wrapper is a part of it
    }
    let cosines = loss.scale() != Scale::Unnormalized;
    if cosines && loss.hard_negatives().is_none() && rng.below(4) == 0 {
        loss = Box::new(InterclassFilter::new(loss, rng.uniform(0.0, 0.9)).unwrap());
    }
    if cosines && rng.below(4) == 0 {
        let (k, margin) = (1 + rng.below(6), rng.uniform(0.0, 0.3));
        loss = Box::new(TopNegatives::new(loss, k, margin).unwrap());
    }
    if rng.below(3) == 0 {
        loss = Box::new(LabelSmoothing::new(loss, rng.uniform(0.0, 0.3)).unwrap());
    }
    loss
}

fn draw_wide(rng: &mut Rng) -> Wide {
    let scale = Scale::Fixed(rng.decades(1.0, 64.0));
    let tiny = Scale::Fixed(rng.decades(1e-44, 1e-6).max(1e-36));
    let scale = rng.pick(&[scale, scale, tiny, Scale::FeatureNorm, Scale::Unnormalized]);
    let [q0, q1, q2] = [0.0; 3].map(|_: f64| rng.uniform(-0.5, 1.5));
    let threshold = rng.uniform(-0.2, 0.8);
    let hard = rng.pick(&[
        None,
        Some(HardNegatives::above_target(q0, q1, q2)),
        Some(HardNegatives::above(threshold, q0, q1, q2)),
    ]);
    Wide {
        m: rng.uniform(0.0, 0.6),
        kappa: rng.pick(&[0.0, 0.1]),
        by_label: rng.pick(&[0.0, 0.1]),
        lambda: rng.pick(&[0.0, 1e-3]),
        hard: hard.filter(|_| scale != Scale::Unnormalized),
        ..Wide::new(scale)
    }
}
