//! The element-wise half of the softmax over the cosines of one sample, which lie in a row.

use std::ops::Range;

use super::dispatch::op;
use super::hard::HardRow;
use super::real::Real;
use super::simd::Isa;

/// Logits that are held at a time: they stay in the first-level cache.
pub(super) const BLOCK: usize = 1024;

/// How the cosines of one sample become logits: `scale · columns[j] · c + biases[j]`, without
/// columns or biases where there are none.
#[derive(Clone, Copy)]
pub(crate) struct RowLogits<'a, F> {
    pub cosines: &'a [F],
    pub scale: F,
    pub columns: Option<&'a [F]>,
    pub biases: Option<&'a [F]>,
    pub target: usize,
    /// Negatives that are up-weighted; not together with `columns`.
    pub hard: Option<HardRow<F>>,
}

impl<F: Real> RowLogits<'_, F> {
    /// The classes other than the target, in blocks.
    #[inline(always)]
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<F> {
        let (target, classes) = (self.target, self.cosines.len());
        let blocks = |side: Range<usize>| {
            let end = side.end;
            side.step_by(BLOCK).map(move |start| start..(start + BLOCK).min(end))
        };
        blocks(0..target).chain(blocks(target + 1..classes))
    }

    /// The logits of a block as they count, as values and one scale for all of them; `buffer` holds
    /// the values where they are not the cosines.
    #[inline(always)]
    fn block<'s, I: Isa>(
        &'s self,
        block: Range<usize>,
        buffer: &'s mut [F; BLOCK],
    ) -> (&'s [F], F) {
        let cosines = &self.cosines[block.clone()];
        let z = &mut buffer[..block.len()];
        let scale_alone = self.columns.is_none() && self.biases.is_none();
        match self.hard {
            Some(hard) => z.iter_mut().zip(cosines).for_each(|(z, &c)| *z = hard.value::<I>(c)),
            None if scale_alone => return (cosines, self.scale),
            None => z.copy_from_slice(cosines),
        }
        if scale_alone {
            return (z, self.scale);
        }
        z.iter_mut().for_each(|z| *z *= self.scale);
        if let Some(columns) = self.columns {
            z.iter_mut().zip(&columns[block.clone()]).for_each(|(z, &factor)| *z *= factor);
        }
        if let Some(biases) = self.biases {
            for (z, &bias) in z.iter_mut().zip(&biases[block]) {
                *z += bias;
            }
        }
        (z, F::one())
    }
}

/// A sample's negative logits, summed up: the largest as they count, Σ e^(z − max), and the nearest
/// class with its plain logit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowLogSumExp<F> {
    pub max: F,
    pub sum: f64,
    pub class: usize,
    pub nearest: F,
}

op! {
    /// The negatives of one sample, in one pass over its cosines.
    pub(crate) fn row_log_sum_exp<I>[F: Real](
        level: Level,
        logits: RowLogits<'_, F>,
    ) -> RowLogSumExp<F> {
        let mut buffer = [F::zero(); BLOCK];
        let none = F::neg_infinity();
        let mut all = RowLogSumExp { max: none, sum: 0.0, class: 0, nearest: none };
        for block in logits.blocks() {
            let (values, scale) = logits.block::<I>(block.clone(), &mut buffer);
            let of_values = largest(values);
            let max = scale * of_values;
            if max > all.max {
                all.sum *= (all.max - max).exp_inline::<I>().widen();
                all.max = max;
            }
            // Logits that are left out are −∞: a block of nothing else has no largest.
            if all.max > none {
                let shift = all.max;
                all.sum += sum_of(values, |v| (v * scale - shift).exp_inline::<I>());
            }
            // With hard negatives the nearest class is that of the largest cosine.
            let (plain, scale, largest) = match logits.hard {
                Some(_) => {
                    let cosines = &logits.cosines[block.clone()];
                    (cosines, logits.scale, largest(cosines))
                }
                None => (values, scale, of_values),
            };
            if scale * largest > all.nearest {
                all.nearest = scale * largest;
                all.class = block.start + plain.iter().position(|&v| v == largest).unwrap_or(0);
            }
        }
        all
    }
}

const LANES: usize = 32;

#[inline(always)]
fn largest<F: Real>(values: &[F]) -> F {
    let larger = |a: F, b: F| if b > a { b } else { a };
    let mut lanes = [F::neg_infinity(); LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, v);
        }
    }
    lanes.iter().chain(rest).fold(F::neg_infinity(), |a, &b| larger(a, b))
}

/// The sum of the `term`s of `values`: in lanes of `F`, which add up in f64.
#[inline(always)]
fn sum_of<F: Real>(values: &[F], term: impl Fn(F) -> F) -> f64 {
    let mut lanes = [F::zero(); LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane += term(v);
        }
    }
    let rest = rest.iter().map(|&v| term(v).widen());
    lanes.iter().map(|lane| lane.widen()).chain(rest).sum()
}

op! {
    /// The gradient with respect to the cosines of one sample, in one pass: `out[j] = coefficient
    /// · exp(z_j − shift) · scale · columns[j]`, 0 at the target.
    pub(crate) fn row_gradient<I>[F: Real](
        level: Level,
        logits: RowLogits<'_, F>,
        shift: F,
        coefficient: F,
        out: &mut [F],
    ) {
        assert_eq!(logits.cosines.len(), out.len());
        out[logits.target] = F::zero();
        let mut buffer = [F::zero(); BLOCK];
        for block in logits.blocks() {
            let out = &mut out[block.clone()];
            let (values, scale) = logits.block::<I>(block.clone(), &mut buffer);
            for (out, &v) in out.iter_mut().zip(values) {
                let share = (v * scale - shift).exp_inline::<I>();
                *out = (coefficient * share) * logits.scale;
            }
            if let Some(columns) = logits.columns {
                for (out, &factor) in out.iter_mut().zip(&columns[block.clone()]) {
                    *out *= factor;
                }
            }
            if let Some(hard) = logits.hard {
                for (out, &c) in out.iter_mut().zip(&logits.cosines[block]) {
                    *out *= hard.slope::<I>(c);
                }
            }
        }
    }
}

op! {
    /// What the hard negatives of one sample add to the derivative by its scale beyond that of the
    /// cosines: Σ_j δ_j·(N − c·N′), where δ_j = coefficient · exp(z_j − shift) − uniform, of the
    /// logits as [`row_gradient`] has them.
    pub(crate) fn row_hard_radial<I>[F: Real](
        level: Level,
        logits: RowLogits<'_, F>,
        [shift, coefficient, uniform]: [F; 3],
    ) -> f64 {
        let Some(hard) = logits.hard else { return 0.0 };
        let mut sum = 0.0;
        for block in logits.blocks() {
            for j in block {
                let c = logits.cosines[j];
                let radial = hard.radial(c);
                if radial != 0.0 {
                    let bias = logits.biases.map_or(F::zero(), |biases| biases[j]);
                    let z = hard.value::<I>(c) * logits.scale + bias;
                    let share = (z - shift).exp_inline::<I>();
                    sum += (coefficient * share - uniform).widen() * radial;
                }
            }
        }
        sum
    }
}

op! {
    /// Σ_j z_j over the negatives of one sample.
    pub(crate) fn row_logit_sum<I>[F: Real](level: Level, logits: RowLogits<'_, F>) -> f64 {
        let mut buffer = [F::zero(); BLOCK];
        let mut all = 0.0;
        for block in logits.blocks() {
            let (values, scale) = logits.block::<I>(block, &mut buffer);
            all += scale.widen() * sum_of(values, |v| v);
        }
        all
    }
}

op! {
    /// Takes the uniform part of label smoothing off the gradient with respect to the cosines of
    /// one sample: `out[j] −= uniform · scale · columns[j]`, but at the target.
    pub(crate) fn row_smoothing<I>[F: Real](
        level: Level,
        logits: RowLogits<'_, F>,
        uniform: F,
        out: &mut [F],
    ) {
        let by_cosine = uniform * logits.scale;
        for block in logits.blocks() {
            let out = &mut out[block.clone()];
            match (logits.columns, logits.hard) {
                (Some(columns), _) => {
                    for (out, &factor) in out.iter_mut().zip(&columns[block]) {
                        *out -= by_cosine * factor;
                    }
                }
                (None, Some(hard)) => {
                    for (out, &c) in out.iter_mut().zip(&logits.cosines[block]) {
                        *out -= by_cosine * hard.slope::<I>(c);
                    }
                }
                (None, None) => out.iter_mut().for_each(|out| *out -= by_cosine),
            }
        }
    }
}
