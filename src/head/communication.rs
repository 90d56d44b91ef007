//! Between the sweeps: what is known of each sample on this rank, completed by the other ranks
//! where the classes are split.

use ndarray::ArrayViewMut2;

use crate::data::Outcome;
use crate::error::Error;
use crate::kernel::{Precision, Real};
use crate::loss::MarginLoss;
use crate::math::LogSumExp;

/// What the first sweep finds for one sample among the classes of this rank.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SampleStats {
    /// Its row in the batch.
    pub row: usize,
    pub label: usize,
    /// |x_i|.
    pub norm: f64,
    pub negatives: LogSumExp,
    /// The negatives' share of the mean of all logits; 0 unless labels are smoothed.
    pub mean_share: f64,
    /// Its target logit, on the rank that holds its class.
    pub target: Option<TargetLogit>,
    /// The label of the nearest class without margin.
    pub prediction: usize,
    /// The logit of that class without margin; −∞ where this rank holds no class.
    pub best: f64,
}

/// The logit of a sample for its own class.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetLogit {
    /// z_iy, margin included.
    pub logit: f64,
    /// z_iy without margin.
    pub margin_free: f64,
    /// θ_iy.
    pub angle: f64,
}

impl SampleStats {
    /// What the sample contributes to [`Forward`](crate::Forward), once its target is known.
    pub fn outcome(&self) -> Option<Outcome> {
        let target = self.target?;
        Some(Outcome {
            negatives: self.negatives,
            target_logit: target.logit,
            margin_free_logit: target.margin_free,
            target_angle: target.angle,
            norm: self.norm,
            prediction: self.prediction,
            mean_share: self.mean_share,
        })
    }
}

/// What a rank reports of its step before any data is exchanged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepReport {
    /// How many samples count.
    pub counted: usize,
    /// How many classes of this rank take part.
    pub classes: usize,
    /// Whether the gradient of the embeddings is asked for.
    pub embeddings: bool,
    /// What the factors of the products are rounded to.
    pub precision: Precision,
}

/// How a step exchanges numbers with the ranks that hold the other classes.
pub(crate) trait Communication<F: Real> {
    /// Whether the inputs are valid and the same on every rank: the loss and the report of this
    /// one, or why it refuses its inputs. Every rank returns the same, before anything is written:
    /// how many classes take part on all ranks together.
    fn agree<L: MarginLoss>(
        &self,
        loss: &L,
        report: Result<StepReport, Error>,
    ) -> Result<usize, Error>;

    /// Completes the stats of all samples; the batch has `rows`. `smoothed`: whether labels are.
    fn complete(&self, rows: usize, smoothed: bool, stats: &mut [SampleStats])
    -> Result<(), Error>;

    /// Sums the ranks' gradients of the embeddings.
    fn sum_embeddings(&self, embeddings: ArrayViewMut2<'_, F>) -> Result<(), Error>;
}

/// All classes are on one rank.
pub(crate) struct SingleRank;

impl<F: Real> Communication<F> for SingleRank {
    fn agree<L: MarginLoss>(
        &self,
        _: &L,
        report: Result<StepReport, Error>,
    ) -> Result<usize, Error> {
        report.map(|report| report.classes)
    }

    fn complete(&self, _: usize, _: bool, _: &mut [SampleStats]) -> Result<(), Error> {
        Ok(())
    }

    fn sum_embeddings(&self, _: ArrayViewMut2<'_, F>) -> Result<(), Error> {
        Ok(())
    }
}
