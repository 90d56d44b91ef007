//! What goes into a step that updates the class parameters.

use ndarray::{ArrayRef1, ArrayRef2, ArrayView2, ArrayViewMut1, ArrayViewMut2, aview2};

use super::batch::{Batch, Samples, check_slices};
use super::classes::{Classes, ClassesMut};
use super::rows::{View1, View2};
use super::sample::ClassSample;
use crate::error::Error;
use crate::kernel::Real;

/// A [`Batch`] whose class weights, and bias, a step updates: [`Head::step`](crate::Head::step).
///
/// ```
/// use margin_softmax::{BatchMut, Head, Reduction, Sgd, Softmax};
/// use ndarray::{Array2, array};
///
/// let x = array![[1.0_f32, 2.0], [0.5, -1.0]];                  // (N, D)
/// let mut w = array![[1.0_f32, 0.0], [0.0, 1.0], [1.0, 1.0]];   // (C, D)
/// let mut b = array![0.0_f32, 0.0, 0.0];                        // (C)
/// let mut batch = BatchMut::new(&x, &mut w, &[2, 1]).with_bias(&mut b);
/// let (mut sgd, mut dx) = (Sgd::new(0.1)?, Array2::zeros((2, 2)));
/// Head::new(Softmax).step(&mut batch, Reduction::Mean, &mut sgd, &mut dx)?;
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchMut<'a, F> {
    pub(crate) embeddings: View2<'a, F>,
    pub(crate) weights: ArrayViewMut2<'a, F>,
    pub(crate) bias: Option<ArrayViewMut1<'a, F>>,
    pub(crate) log_prior: Option<View1<'a, F>>,
    pub(crate) samples: Samples<'a>,
}

impl<'a, F: Real> BatchMut<'a, F> {
    /// A batch of N embeddings `x` (N, D) with `labels` (N) among C classes of weights `w` (C, D),
    /// which a step updates, in any layout; otherwise as [`Batch::new`].
    pub fn new(x: &'a ArrayRef2<F>, w: &'a mut ArrayRef2<F>, labels: &'a [usize]) -> Self {
        let (embeddings, weights) = (x.view(), w.view_mut());
        let samples = Samples::new(Some(labels));
        BatchMut { embeddings, weights, bias: None, log_prior: None, samples }
    }

    /// A batch from plain slices, as [`Batch::from_slices`].
    ///
    /// # Errors
    /// As [`Batch::from_slices`].
    pub fn from_slices(
        x: &'a [F],
        w: &'a mut [F],
        labels: &'a [usize],
        dims: usize,
    ) -> Result<Self, Error> {
        let [of_x, of_w] = check_slices(x.len(), w.len(), labels.len(), dims)?;
        let checked = "the length has been checked";
        let embeddings = ArrayView2::from_shape(of_x, x).expect(checked);
        let weights = ArrayViewMut2::from_shape(of_w, w).expect(checked);
        let samples = Samples::new(Some(labels));
        Ok(BatchMut { embeddings, weights, bias: None, log_prior: None, samples })
    }

    /// As [`Batch::with_bias`]; the bias is updated, too.
    pub fn with_bias(self, b: &'a mut ArrayRef1<F>) -> Self {
        BatchMut { bias: Some(b.view_mut()), ..self }
    }

    /// As [`Batch::with_log_prior`].
    pub fn with_log_prior(self, p: &'a ArrayRef1<F>) -> Self {
        BatchMut { log_prior: Some(p.view()), ..self }
    }

    /// As [`Batch::with_sub_centers`].
    pub fn with_sub_centers(self, k: usize) -> Self {
        BatchMut { samples: Samples { sub_centers: k, ..self.samples }, ..self }
    }

    /// As [`Batch::with_ignored_label`].
    pub fn with_ignored_label(self, label: usize) -> Self {
        BatchMut { samples: Samples { ignored: Some(label), ..self.samples }, ..self }
    }

    /// As [`Batch::with_first_row`].
    pub fn with_first_row(self, first: usize) -> Self {
        BatchMut { samples: Samples { first_row: first, ..self.samples }, ..self }
    }

    /// As [`Batch::with_sample`]: only the rows that were drawn are updated; the others keep their
    /// weights and their state, bit for bit.
    pub fn with_sample(self, sample: &'a ClassSample) -> Self {
        BatchMut { samples: Samples { sample: Some(sample), ..self.samples }, ..self }
    }
}

impl<F: Real> BatchMut<'_, F> {
    /// The batch as it is now, to be read.
    pub fn view(&self) -> Batch<'_, F> {
        Batch {
            embeddings: self.embeddings.view(),
            weights: self.weights.view(),
            bias: self.bias.as_ref().map(|bias| bias.view()),
            log_prior: self.log_prior,
            samples: self.samples,
        }
    }

    /// The class parameters: of all classes, or of the `selected`, with these `offsets` of their
    /// logits.
    pub(crate) fn classes<'s>(
        &'s mut self,
        selected: Option<&'s [usize]>,
        offsets: Option<&'s [F]>,
    ) -> ClassesMut<'s, F> {
        let BatchMut { log_prior, samples: Samples { sub_centers, .. }, .. } = *self;
        let known = Classes::all(aview2::<F, 0>(&[]), None);
        let known = Classes { selected, offsets, log_prior, sub_centers, ..known };
        let bias = self.bias.as_mut().map(|bias| bias.view_mut());
        ClassesMut { weights: self.weights.view_mut(), bias, known }
    }
}
