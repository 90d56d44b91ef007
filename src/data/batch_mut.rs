//! What goes into a step that moves the class parameters.

use ndarray::{ArrayRef1, ArrayRef2, ArrayView2, ArrayViewMut1, ArrayViewMut2};

use super::batch::{Batch, check_labels_of_sub_centers, check_slices, check_views};
use super::classes::ClassesMut;
use crate::error::Error;
use crate::kernel::Real;

/// A [`Batch`] whose class weights, and bias, a step updates:
/// [`Head::step`](crate::Head::step).
///
/// ```
/// use margin_softmax::BatchMut;
/// use ndarray::array;
///
/// let x = array![[1.0_f32, 2.0], [0.5, -1.0]];                  // (N, D)
/// let mut w = array![[1.0_f32, 0.0], [0.0, 1.0], [1.0, 1.0]];   // (C, D)
/// let mut b = array![0.0_f32, 0.0, 0.0];                        // (C)
/// assert!(BatchMut::new(&x, &mut w, &[2, 1])?.with_bias(&mut b).is_ok());
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchMut<'a, F> {
    pub(crate) embeddings: ArrayView2<'a, F>,
    pub(crate) weights: ArrayViewMut2<'a, F>,
    pub(crate) labels: &'a [usize],
    pub(crate) bias: Option<ArrayViewMut1<'a, F>>,
    pub(crate) ignored: Option<usize>,
    pub(crate) sub_centers: usize,
}

impl<'a, F: Real> BatchMut<'a, F> {
    /// A batch of N embeddings `x` (N, D) with `labels` (N) among C class weights `w` (C, D), which
    /// a step moves, in any layout.
    ///
    /// # Errors
    /// As [`Batch::new`].
    pub fn new(
        x: &'a ArrayRef2<F>,
        w: &'a mut ArrayRef2<F>,
        labels: &'a [usize],
    ) -> Result<Self, Error> {
        check_views(x, w, labels)?;
        Ok(Self::unchecked(x, w, labels))
    }

    /// A batch of which nothing is checked yet.
    pub(crate) fn unchecked(
        x: &'a ArrayRef2<F>,
        w: &'a mut ArrayRef2<F>,
        labels: &'a [usize],
    ) -> Self {
        let (embeddings, weights) = (x.view(), w.view_mut());
        BatchMut { embeddings, weights, labels, bias: None, ignored: None, sub_centers: 1 }
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
        check_views(&embeddings, &weights, labels)?;
        Ok(BatchMut { embeddings, weights, labels, bias: None, ignored: None, sub_centers: 1 })
    }

    /// The same batch with a bias `b` (C) for the logits of Softmax, which a step moves too.
    ///
    /// # Errors
    /// As [`Batch::with_bias`].
    pub fn with_bias(self, b: &'a mut ArrayRef1<F>) -> Result<Self, Error> {
        Error::check_shape("bias", &[self.weights.nrows()], b.shape())?;
        Ok(BatchMut { bias: Some(b.view_mut()), ..self })
    }

    /// As [`Batch::with_sub_centers`]: a step moves the rows that are a sample's nearest, and the
    /// others as rows without a gradient.
    ///
    /// # Errors
    /// As [`Batch::with_sub_centers`].
    pub fn with_sub_centers(self, k: usize) -> Result<Self, Error> {
        check_labels_of_sub_centers(self.labels, self.weights.nrows(), k)?;
        Ok(BatchMut { sub_centers: k, ..self })
    }

    /// As [`Batch::with_ignored_label`].
    pub fn with_ignored_label(self, label: usize) -> Self {
        BatchMut { ignored: Some(label), ..self }
    }
}

impl<F: Real> BatchMut<'_, F> {
    /// The batch as it is now, to be read.
    pub fn view(&self) -> Batch<'_, F> {
        Batch {
            embeddings: self.embeddings.view(),
            weights: self.weights.view(),
            labels: self.labels,
            bias: self.bias.as_ref().map(|bias| bias.view()),
            ignored: self.ignored,
            sub_centers: self.sub_centers,
        }
    }

    /// The class parameters: of all classes, or of the `selected`, with these `offsets` of their
    /// logits.
    pub(crate) fn classes<'s>(
        &'s mut self,
        selected: Option<&'s [usize]>,
        offsets: Option<&'s [F]>,
    ) -> ClassesMut<'s, F> {
        ClassesMut {
            weights: self.weights.view_mut(),
            bias: self.bias.as_mut().map(|bias| bias.view_mut()),
            selected,
            offsets,
            start: 0,
        }
    }
}
