//! The first look at a step's inputs: everything that can be refused is refused here, before any
//! buffer of the caller's is touched.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::classes::{Classes, contiguous, norm_of};
use crate::batch::Reduction;
use crate::error::Error;
use crate::geometry::{Pair, check_norm};
use crate::kernel::{self, Level, Mat, Panels, Real};
use crate::loss::{MarginLoss, Scale, Target};
use crate::range::Bounds;

/// The label of a sample whose class is not among the classes of this step.
pub(crate) const ELSEWHERE: usize = usize::MAX;

/// Classes whose factors are kept from the first look: more than these are found again, so that
/// memory does not grow with the classes. A multiple of every block and tile.
const KNOWN_FACTORS: usize = 1 << 16;

/// The smallest and the largest norm of no rows.
const NO_NORMS: (f64, f64) = (f64::INFINITY, 0.0);

/// What the first look leaves for the sweeps.
#[derive(Debug, Default)]
pub(crate) struct FirstLook<F> {
    /// The samples that count, sorted by class.
    pub samples: Vec<Sample>,
    /// Their embeddings, scaled: $\tilde x_i = a_i u_i$ (samples × dims).
    pub embeddings: Vec<F>,
    /// The same, packed: transposed (dims × samples) and as they are.
    pub panels: [Panels<F>; 2],
    /// What multiplies the products of each of the first classes: a bounded number of them.
    pub factors: Vec<F>,
}

/// What a class's products are multiplied by.
pub(super) fn factor_of<F: Real>(scale: Scale, weight_norm: f64) -> F {
    match scale {
        Scale::Unnormalized => F::one(),
        Scale::Fixed(_) | Scale::FeatureNorm => F::narrow(weight_norm.recip()),
    }
}

/// What becomes of an embedding that is zero, or shorter than the smallest norm that is accepted
/// (1e-30 in f32, 1e-290 in f64), and has no direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ZeroEmbedding {
    /// The step is refused with [`Error::DegenerateNorm`].
    #[default]
    Error,
    /// The sample is left out: its loss and gradient are 0, it does not count in a mean.
    Skip,
}

/// One sample that counts.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Its row in the batch.
    pub row: usize,
    /// Its class, or [`ELSEWHERE`].
    pub class: usize,
    /// $|x|$.
    pub norm: f64,
    /// $g = \partial \text{objective}/\partial L$.
    pub upstream: f64,
    /// Its target pair, where its class is here.
    pub target: Option<TargetPair>,
}

/// The target pair of a sample and what the loss makes of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetPair {
    pub pair: Pair,
    pub target: Target,
    /// $a_{iy}$: what multiplies $f(\theta)$.
    pub scale: f64,
    /// $a_{iy}f(\theta) + b_y$.
    pub logit: f64,
}

/// The inputs of a step.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, F> {
    pub embeddings: ArrayView2<'a, F>,
    pub classes: Classes<'a, F>,
    /// The class of each embedding, or [`ELSEWHERE`].
    pub labels: &'a [usize],
    pub zero: ZeroEmbedding,
}

impl<F: Real> Inputs<'_, F> {
    /// Checks every number and fills what the sweeps read.
    pub fn prepare<L: MarginLoss>(
        &self,
        loss: &L,
        reduction: Option<Reduction<'_, F>>,
        look: &mut FirstLook<F>,
        parallel: bool,
    ) -> Result<(), Error> {
        let FirstLook { samples, embeddings, panels, factors } = look;
        let scale = loss.scale().checked()?;
        if self.classes.bias.is_some() && scale != Scale::Unnormalized {
            return Err(Error::Bias);
        }
        if let Some(reduction) = &reduction {
            reduction.check(self.labels.len())?;
        }
        if let Some(bias) = &self.classes.bias {
            crate::batch::check_finite("bias", bias)?;
        }
        self.collect(samples)?;
        let norms = self.check_weights(scale, factors, parallel)?;
        let counted = samples.len();
        for sample in samples.iter_mut() {
            sample.upstream = reduction.map_or(0.0, |r| r.weight(sample.row, counted));
        }
        self.meet_targets(loss, scale, samples, parallel)?;
        self.check_range(scale, samples, norms)?;
        self.scale_embeddings(scale, samples, embeddings);
        if counted > 0 {
            let embeddings = Mat::new(embeddings, counted, self.embeddings.ncols());
            kernel::pack(Level::detect(), embeddings.t(), &mut panels[0]);
            kernel::pack(Level::detect(), embeddings, &mut panels[1]);
        }
        Ok(())
    }

    /// The samples that count, sorted by class and then by row.
    fn collect(&self, samples: &mut Vec<Sample>) -> Result<(), Error> {
        let mut buffer = Vec::new();
        samples.clear();
        for (row, x) in self.embeddings.rows().into_iter().enumerate() {
            let norm = norm_of(x, &mut buffer);
            if norm < F::MIN_NORM && self.zero == ZeroEmbedding::Skip {
                continue;
            }
            let norm = check_norm("embeddings", row, x, norm)?;
            samples.push(Sample {
                row,
                class: self.labels[row],
                norm,
                upstream: 0.0,
                target: None,
            });
        }
        samples.sort_unstable_by_key(|sample| (sample.class, sample.row));
        Ok(())
    }

    /// Checks every class weight and keeps the `factors` of the first; answers the smallest and the
    /// largest norm.
    fn check_weights(
        &self,
        scale: Scale,
        factors: &mut Vec<F>,
        parallel: bool,
    ) -> Result<(f64, f64), Error> {
        const BLOCK: usize = 256;
        let classes = self.classes.len();
        factors.resize(classes.min(KNOWN_FACTORS), F::zero());
        let check_block = |(block, factors): (usize, &mut [F])| {
            let mut buffer = Vec::new();
            let range = block * BLOCK..((block + 1) * BLOCK).min(classes);
            let mut factors = factors.iter_mut();
            range.into_iter().try_fold(NO_NORMS, |(least, most), j| {
                let row = self.classes.weight(j);
                let norm = norm_of(row, &mut buffer);
                let norm = check_norm("class weights", self.classes.row_of(j), row, norm)?;
                if let Some(factor) = factors.next() {
                    *factor = factor_of(scale, norm);
                }
                Ok((least.min(norm), most.max(norm)))
            })
        };
        let others = factors.len().div_ceil(BLOCK)..classes.div_ceil(BLOCK);
        // Of several bad rows the first is named, whichever thread meets one first.
        let widest = |a: Result<(f64, f64), Error>, b: Result<(f64, f64), Error>| {
            let (a, b) = (a?, b?);
            Ok((a.0.min(b.0), a.1.max(b.1)))
        };
        if parallel {
            let others = others.into_par_iter().map(|block| check_block((block, &mut [])));
            let known = factors.par_chunks_mut(BLOCK).enumerate().map(check_block);
            known.chain(others).reduce(|| Ok(NO_NORMS), widest)
        } else {
            let others = others.map(|block| check_block((block, &mut [])));
            let known = factors.chunks_mut(BLOCK).enumerate().map(check_block);
            known.chain(others).fold(Ok(NO_NORMS), widest)
        }
    }

    /// Geometry and margin of every target pair.
    fn meet_targets<L: MarginLoss>(
        &self,
        loss: &L,
        scale: Scale,
        samples: &mut [Sample],
        parallel: bool,
    ) -> Result<(), Error> {
        let meet = |sample: &mut Sample| {
            if sample.class != ELSEWHERE {
                sample.target = Some(self.meet(loss, scale, sample)?);
            }
            Ok(())
        };
        if parallel {
            let refused = samples.par_iter_mut().find_map_first(|sample| meet(sample).err());
            refused.map_or(Ok(()), Err)
        } else {
            samples.iter_mut().try_for_each(meet)
        }
    }

    fn meet<L: MarginLoss>(
        &self,
        loss: &L,
        scale: Scale,
        sample: &Sample,
    ) -> Result<TargetPair, Error> {
        let (mut x, mut w) = (Vec::new(), Vec::new());
        let x = contiguous(self.embeddings.row(sample.row), &mut x);
        let w = contiguous(self.classes.weight(sample.class), &mut w);
        let weight_norm = kernel::norm(w);
        let pair = Pair::new(x, w, sample.norm, weight_norm);
        let target = checked_target(loss, &pair.angle, sample.row)?;
        let scale = match scale {
            Scale::Fixed(s) => s,
            Scale::FeatureNorm => sample.norm,
            Scale::Unnormalized => sample.norm * weight_norm,
        };
        let logit = scale * target.value + self.classes.bias_of(sample.class).widen();
        Ok(TargetPair { pair, target, scale, logit })
    }

    /// Refuses inputs whose logits or gradients may leave the range of the working type.
    fn check_range(
        &self,
        scale: Scale,
        samples: &[Sample],
        weight_norms: (f64, f64),
    ) -> Result<(), Error> {
        let mut bounds = Bounds::new(scale, weight_norms, self.classes.bias.iter().flatten());
        for Sample { row, norm, upstream, target, .. } in samples {
            let target = target.map(|target| target.target);
            bounds.check::<F>(*row, *norm, target, *upstream)?;
        }
        Ok(())
    }

    /// The working copy of the embeddings, in the samples' order: $\tilde x = a u$.
    fn scale_embeddings(&self, scale: Scale, samples: &[Sample], embeddings: &mut Vec<F>) {
        let dims = self.embeddings.ncols();
        let mut copy = Vec::new();
        embeddings.resize(samples.len() * dims, F::zero());
        for (sample, out) in samples.iter().zip(embeddings.chunks_exact_mut(dims)) {
            let x = contiguous(self.embeddings.row(sample.row), &mut copy);
            match scale {
                Scale::Fixed(s) => kernel::scaled(out, x, s / sample.norm),
                Scale::FeatureNorm | Scale::Unnormalized => out.copy_from_slice(x),
            }
        }
    }
}

/// What the loss says of an angle; refused unless it is finite.
pub(crate) fn checked_target<L: MarginLoss>(
    loss: &L,
    angle: &crate::loss::Angle,
    row: usize,
) -> Result<Target, Error> {
    let Target { value, slope } = loss.target(angle);
    if value.is_finite() && slope.is_finite() {
        return Ok(Target { value, slope });
    }
    Err(Error::Target { row, theta: angle.theta, value, slope })
}
