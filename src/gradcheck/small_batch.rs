//! The batch that losses are differenced on, and losses under another scale.

use ndarray::{Array2, array};

use crate::data::{Batch, Scale};
use crate::error::Error;
use crate::head::Head;
use crate::loss::{MarginLoss, forward};
use crate::math::{Angle, BinaryForm, HardNegatives, Sample, SampleTarget, Target, TopMargin};

/// The classes, and samples, of the batch.
pub(super) const CLASSES: usize = 3;

/// One sample of each of three classes.
#[derive(Clone)]
pub(super) struct SmallBatch {
    /// The angle of the first sample to its class.
    pub theta: f64,
    /// About the norm of the embeddings.
    pub size: f64,
    /// The embeddings and the class weights.
    pub sides: [Array2<f64>; 2],
}

impl SmallBatch {
    const LABELS: [usize; CLASSES] = [0, 1, 2];

    /// The batch whose first sample lies at `theta` from its class, with norms of about `size`.
    pub fn new(theta: f64, size: f64) -> Self {
        let x = array![[1.3, 0.0, 0.0, 0.0], [0.4, -0.9, 0.7, 0.2], [-0.5, 0.3, 1.1, -0.8]];
        let w = array![
            [0.8 * theta.cos(), 0.8 * theta.sin(), 0.0, 0.0],
            [0.5, -0.6, 0.9, -0.3],
            [-0.4, 0.7, 0.2, 1.1],
        ];
        SmallBatch { theta, size, sides: [x * size, w] }
    }

    /// The batch as a head takes it.
    pub fn batch(&self) -> Batch<'_, f64> {
        Batch::new(&self.sides[0], &self.sides[1], &Self::LABELS)
    }

    /// The norms of the embeddings.
    pub fn norms(&self) -> [f64; CLASSES] {
        std::array::from_fn(|row| self.sides[0].row(row).iter().map(|x| x * x).sum::<f64>().sqrt())
    }

    /// The sum of the losses with one number of a side changed.
    pub fn moved<L: MarginLoss>(
        &self,
        head: &Head<L>,
        side: usize,
        place: (usize, usize),
        by: f64,
    ) -> Result<f64, Error> {
        let mut moved = self.clone();
        moved.sides[side][place] += by;
        Ok(head.forward(&moved.batch())?.sum())
    }
}

/// The margin of one loss under another scale.
#[derive(Debug)]
pub(super) struct Rescaled<'a, L> {
    pub loss: &'a L,
    pub scale: Scale,
    /// The norms that the target is computed for, by row, where those of the batch may change and
    /// the margin may not.
    pub held: Option<[f64; CLASSES]>,
}

impl<L: MarginLoss> MarginLoss for Rescaled<'_, L> {
    fn scale(&self) -> Scale {
        self.scale
    }

    forward! { self => self.loss;
        target hard_negatives top_negatives binary check_classes label_smoothing
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let target = self.loss.target_of(sample);
        let Some(norms) = self.held else { return target };
        let held = self.loss.target_of(&Sample { norm: norms[sample.row], ..*sample });
        held.with_penalty(target.penalty, target.penalty_slope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArcFace, CurricularFace, InterclassFilter, MvSoftmax};

    #[test]
    fn the_batch_has_negatives_on_both_sides_of_the_threshold() {
        let losses: [Box<dyn MarginLoss>; 3] = [
            Box::new(CurricularFace::default()),
            Box::new(MvSoftmax::default()),
            Box::new(InterclassFilter::new(ArcFace::default(), 0.2).unwrap()),
        ];
        for loss in losses {
            let rule = loss.hard_negatives().unwrap();
            let small = SmallBatch::new(1.1, 1.0);
            let logits = crate::NormalizedLogits::new(&small.sides[0], &small.sides[1]).unwrap();
            let cosines = logits.cosines();
            let threshold = rule.threshold(loss.target(&Angle::from_theta(1.1)).value);
            assert!(cosines[[0, 1]] > threshold && cosines[[0, 2]] < threshold, "{loss:?}");
        }
    }
}
