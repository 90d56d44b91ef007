//! What crosses the ranks in a step.

use ndarray::{ArrayView1, ArrayViewMut2};

use super::agreement::Inputs;
use super::collective::Collective;
use crate::cross_entropy::Negatives;
use crate::error::Error;
use crate::head::{Exchange, Finding, Own};
use crate::kernel::Real;

/// A step whose classes are split.
pub(super) struct Ranks<'a, F, C> {
    pub collective: &'a C,
    pub inputs: Inputs<'a, F>,
}

impl<F: Real, C: Collective<F>> Exchange<F> for Ranks<'_, F, C> {
    fn agree(&self, counted: Result<usize, Error>) -> Result<(), Error> {
        self.inputs.agree(self.collective, counted)
    }

    fn complete(&self, rows: usize, findings: &mut [Finding]) -> Result<(), Error> {
        let maxima = self.negatives(rows, findings)?;
        self.look_around(&maxima, findings)
    }

    fn add_up(&self, mut embeddings: ArrayViewMut2<'_, F>) -> Result<(), Error> {
        if let Some(embeddings) = embeddings.as_slice_mut() {
            return self.collective.all_reduce_sum(embeddings);
        }
        let mut copy: Vec<F> = embeddings.iter().copied().collect();
        self.collective.all_reduce_sum(&mut copy)?;
        let dims = embeddings.ncols();
        for (mut row, copy) in embeddings.rows_mut().into_iter().zip(copy.chunks_exact(dims)) {
            row.assign(&ArrayView1::from(copy));
        }
        Ok(())
    }
}

impl<F: Real, C: Collective<F>> Ranks<'_, F, C> {
    /// The three vectors behind loss and gradient: the largest negatives; their exponentials' sums
    /// and the target logits, these by their distance from the largest negative. Answers the first.
    fn negatives(&self, rows: usize, findings: &mut [Finding]) -> Result<Vec<F>, Error> {
        let mut maxima = vec![F::neg_infinity(); rows];
        for finding in findings.iter() {
            maxima[finding.row] = F::narrow(finding.negatives.max);
        }
        self.collective.all_reduce_max(&mut maxima)?;
        let mut sums = vec![F::zero(); 2 * rows];
        let (exponentials, targets) = sums.split_at_mut(rows);
        for Finding { row, negatives, own, .. } in findings.iter() {
            let max = maxima[*row].widen();
            if negatives.sum > 0.0 {
                exponentials[*row] = F::narrow(negatives.sum * (negatives.max - max).exp());
            }
            // Without a negative anywhere there is no loss, whatever the target logit.
            if let Some(own) = own.filter(|_| max.is_finite()) {
                targets[*row] = F::narrow(own.logit - max);
            }
        }
        self.collective.all_reduce_sum(&mut sums)?;
        for finding in findings {
            let max = maxima[finding.row].widen();
            finding.negatives = Negatives { max, sum: sums[finding.row].widen() };
            let logit = max + sums[rows + finding.row].widen();
            let angle = finding.own.map_or(0.0, |own| own.angle);
            finding.own = Some(Own { logit, angle });
        }
        Ok(maxima)
    }

    /// The two vectors that people look at: the angle, which the rank of the target knows, and the
    /// nearest class, which the rank that found the largest logit knows. Of several ranks the
    /// lowest class counts.
    fn look_around(&self, maxima: &[F], findings: &mut [Finding]) -> Result<(), Error> {
        let rows = maxima.len();
        let mut told = vec![F::neg_infinity(); 2 * rows];
        let (angles, nearest) = told.split_at_mut(rows);
        for finding in findings.iter() {
            let max = maxima[finding.row].widen();
            let Some(own) = finding.own else { continue };
            angles[finding.row] = F::narrow(own.angle);
            if finding.best > max {
                nearest[finding.row] = F::one();
            } else if finding.best == max && max.is_finite() {
                // The more negative, the higher the class.
                nearest[finding.row] = -F::from_index(finding.prediction as u64);
            }
        }
        self.collective.all_reduce_max(&mut told)?;
        for finding in findings {
            if let Some(own) = &mut finding.own {
                own.angle = told[finding.row].widen();
            }
            let nearest = told[rows + finding.row];
            finding.prediction =
                if nearest < F::zero() { (-nearest).to_index() as usize } else { finding.label };
        }
        Ok(())
    }
}
