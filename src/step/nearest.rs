//! The nearest negatives of the samples, where these have a margin of their own: as the first sweep
//! keeps them, and as pairs in f64, which count like the target pairs.

use std::convert::Infallible;

use super::input::StepInput;
use super::pairs::PreparedSample;
use crate::data::{
    IGNORED, LogitForm, NearestNegative, SampleStats, Scale, TargetLogit, TargetPair, norm_of,
};
use crate::kernel::{HardTile, Real};
use crate::math::{Angle, LogSumExp, Smoothing, TopMargin};

/// Entries that are compared one by one, without a branch that the CPU cannot predict; of more it is
/// faster to move the rest at once.
const FEW: usize = 16;

/// One of the largest logits of a sample so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NearestLogit<F> {
    /// The logit without its offset, by which the nearest are found; −∞ where there is none.
    pub plain: F,
    pub logit: F,
    pub class: usize,
}

impl<F: Real> NearestLogit<F> {
    pub const NO_CLASS: usize = usize::MAX;

    pub fn none() -> Self {
        let logit = F::neg_infinity();
        NearestLogit { plain: logit, logit, class: Self::NO_CLASS }
    }

    pub fn is_some(&self) -> bool {
        self.class != Self::NO_CLASS
    }

    /// This one before others: by its logit, then by its class.
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.plain.widen().total_cmp(&self.plain.widen()).then(self.class.cmp(&other.class))
    }

    /// Takes its place among `entries`, which come from the largest on; returns the one for which none
    /// is left, if there is one. Of equals the first that came stays ahead.
    pub fn insert(self, entries: &mut [Self]) -> Option<Self> {
        let mut last = self;
        if entries.len() > FEW {
            let at = entries.partition_point(|entry| entry.plain >= last.plain);
            if let Some(end) = entries[at..].last_mut() {
                std::mem::swap(end, &mut last);
                entries[at..].rotate_right(1);
            }
            return Some(last).filter(Self::is_some);
        }
        for entry in entries {
            if last.plain > entry.plain {
                std::mem::swap(entry, &mut last);
            }
        }
        Some(last).filter(Self::is_some)
    }
}

/// A sample and one of its nearest negatives.
#[derive(Debug, Clone)]
pub(crate) struct NearestPair {
    pub class: usize,
    pub sample: usize,
    pub pair: TargetPair,
    /// ∂objective/∂z of its logit.
    pub gradient: f64,
}

impl NearestPair {
    /// The pair of sample `i` with a class; its logit is added to those `apart`.
    pub fn new<F: Real>(
        input: &StepInput<'_, F>,
        (form, top): (LogitForm, TopMargin),
        (i, sample): (usize, &PreparedSample),
        class: usize,
        apart: &mut Apart,
    ) -> Self {
        let target = |angle: &Angle| Ok::<_, Infallible>(top.target(angle).into());
        let norm = input.classes.norm(class, &mut Vec::new());
        let Ok(mut pair) = input.pair(form, sample, (class, norm), target);
        let prior = input.classes.log_prior_of(class).widen();
        apart.add(pair.logit, prior);
        pair.add_log_prior(prior);
        NearestPair { class, sample: i, pair, gradient: 0.0 }
    }
}

/// The logits that the first sweep left out of a sample's log-sum-exp.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Apart {
    pub negatives: LogSumExp,
    /// The same without class prior.
    pub margin_free: LogSumExp,
    /// Their sum.
    pub logits: f64,
}

impl Apart {
    pub const NONE: Self =
        Apart { negatives: LogSumExp::NONE, margin_free: LogSumExp::NONE, logits: 0.0 };

    /// These and others.
    pub fn merge(self, other: Self) -> Self {
        Apart {
            negatives: self.negatives.merge(other.negatives),
            margin_free: self.margin_free.merge(other.margin_free),
            logits: self.logits + other.logits,
        }
    }

    /// Adds a logit to which the class `prior` is still to be added.
    pub fn add(&mut self, logit: f64, prior: f64) {
        self.margin_free = self.margin_free.merge(LogSumExp::new(logit, 1.0));
        self.negatives = self.negatives.merge(LogSumExp::new(logit + prior, 1.0));
        self.logits += logit + prior;
    }

    /// Adds a logit of sample `i` that is not among the nearest, as it counts, of a class with this
    /// `prior`.
    pub fn add_other<F: Real>(
        &mut self,
        hard: Option<HardTile<'_, F>>,
        i: usize,
        NearestLogit { plain, logit, .. }: NearestLogit<F>,
        prior: f64,
    ) {
        let counted = hard.map_or(logit, |hard| hard.value(i, plain, logit));
        self.add(counted.widen(), prior);
    }
}

impl<F: Real> StepInput<'_, F> {
    /// What the first sweep has found of a sample: its `negatives`, and the label of the class that it
    /// is nearest to with its logit.
    pub fn sample_stats(
        &self,
        sample: &PreparedSample,
        smoothing: Smoothing,
        negatives: Apart,
        (prediction, best): (usize, f64),
        nearest_negative: NearestNegative,
    ) -> SampleStats {
        let sub_center = sample.class.map_or(0, |class| self.classes.sub_center_of(class));
        SampleStats {
            row: sample.row,
            label: self.samples.labels.map_or(IGNORED, |labels| labels[sample.row]),
            norm: sample.norm,
            negatives: negatives.negatives,
            margin_free_negatives: negatives.margin_free,
            mean_share: smoothing.share(negatives.logits),
            target: sample.target.map(|pair| TargetLogit {
                logit: pair.logit,
                margin_free: pair.margin_free_logit,
                angle: pair.angle.theta,
                penalty: pair.target.penalty,
                sub_center,
            }),
            prediction,
            best,
            nearest_negative,
        }
    }

    /// The nearest negative of a sample, a class and its logit: a product whose cosine has this `factor`,
    /// apart from the norm of the class weight.
    pub fn nearest_negative(
        &self,
        form: LogitForm,
        factor: f64,
        (class, logit): (usize, f64),
    ) -> NearestNegative {
        let weight_norm = match form.scale {
            Scale::Unnormalized => norm_of(self.classes.weight(class), &mut Vec::new()),
            Scale::Fixed(_) | Scale::FeatureNorm => 1.0,
        };
        let (label, bias) = (self.classes.label_of(class), self.classes.bias_of(class).widen());
        NearestNegative::new(label, logit, bias, factor * weight_norm)
    }
}
