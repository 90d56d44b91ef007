//! Between the sweeps: what is known of each sample on this rank, completed by the other ranks
//! where the classes are split.

use ndarray::ArrayViewMut2;

use super::collective::SingleProcess;
use super::input::StepInput;
use crate::data::SampleStats;
use crate::error::Error;
use crate::kernel::{Precision, Real};
use crate::loss::MarginLoss;

/// What a rank reports of its step before any data is exchanged, and what the reports of all ranks
/// come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepReport {
    /// How many samples count.
    pub counted: usize,
    /// How many classes are active.
    pub classes: usize,
    /// Whether the loss of any sample has a penalty.
    pub penalised: bool,
    /// Rows of each class.
    pub sub_centers: usize,
    /// Whether the gradient of the embeddings is requested.
    pub embeddings: bool,
    /// What the factors of the products are rounded to.
    pub precision: Precision,
}

impl StepReport {
    /// Of a step without losses.
    pub fn of<F: Real>(input: &StepInput<'_, F>) -> Self {
        StepReport {
            counted: 0,
            classes: input.classes.labels(),
            sub_centers: input.classes.sub_centers,
            embeddings: false,
            precision: input.settings.precision,
            penalised: false,
        }
    }
}

/// What the ranks share of each sample beyond what every loss needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared {
    /// The mean of the logits, where labels are smoothed; of the sigmoids of a binary loss.
    pub smoothed: bool,
    /// The penalty.
    pub penalised: bool,
    /// The nearest class, where it is not that of the largest logit: some negatives count by another
    /// number than their cosine, or have a class prior.
    pub changed: bool,
    /// The negatives without class prior, where there is one.
    pub log_prior: bool,
    /// Which row of its class is the nearest, where a class has several.
    pub sub_centers: bool,
}

/// How a step exchanges numbers with the ranks that hold the other classes.
pub(crate) trait Communication<F: Real> {
    /// Asks a loss whether it takes the classes of all ranks, before it is asked of any of them.
    fn check_classes(&self, loss: &dyn MarginLoss, input: &StepInput<'_, F>) -> Result<(), Error>;

    /// Whether the inputs are valid and the same on every rank: the loss and the report of this
    /// one, or why it refuses its inputs. Every rank returns the same, before anything is written.
    fn agree(
        &self,
        loss: &dyn MarginLoss,
        input: &StepInput<'_, F>,
        report: Result<StepReport, Error>,
    ) -> Result<StepReport, Error>;

    /// Sums over the ranks what each sample's target adds, one number for each row of the batch: 0
    /// on every rank but that of its class.
    fn sum_targets(&self, targets: &mut [F]) -> Result<(), Error>;

    /// Of each row of the batch the nearest class of all ranks, by its logit and number.
    fn nearest(&self, logits: &mut [F], classes: &mut [usize]) -> Result<(), Error>;

    /// The largest number of all ranks for each row.
    fn largest(&self, numbers: &mut [F]) -> Result<(), Error>;

    /// Whether there is no other rank.
    fn is_alone(&self) -> bool {
        false
    }

    /// Every rank's numbers, one rank's after the other's.
    fn all(&self, numbers: Vec<F>) -> Result<Vec<F>, Error>;

    /// Completes the stats of all samples; the batch has `rows`.
    fn complete(&self, rows: usize, shared: Shared, stats: &mut [SampleStats])
    -> Result<(), Error>;

    /// Sums the ranks' gradients of the embeddings.
    fn sum_embeddings(&self, embeddings: ArrayViewMut2<'_, F>) -> Result<(), Error>;
}

impl<F: Real> Communication<F> for SingleProcess {
    fn check_classes(&self, _: &dyn MarginLoss, _: &StepInput<'_, F>) -> Result<(), Error> {
        Ok(())
    }

    fn agree(
        &self,
        _: &dyn MarginLoss,
        _: &StepInput<'_, F>,
        report: Result<StepReport, Error>,
    ) -> Result<StepReport, Error> {
        report
    }

    fn is_alone(&self) -> bool {
        true
    }

    fn sum_targets(&self, _: &mut [F]) -> Result<(), Error> {
        Ok(())
    }

    fn complete(&self, _: usize, _: Shared, _: &mut [SampleStats]) -> Result<(), Error> {
        Ok(())
    }

    fn sum_embeddings(&self, _: ArrayViewMut2<'_, F>) -> Result<(), Error> {
        Ok(())
    }

    fn nearest(&self, _: &mut [F], _: &mut [usize]) -> Result<(), Error> {
        Ok(())
    }

    fn largest(&self, _: &mut [F]) -> Result<(), Error> {
        Ok(())
    }

    fn all(&self, numbers: Vec<F>) -> Result<Vec<F>, Error> {
        Ok(numbers)
    }
}
