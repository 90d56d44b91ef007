//! Which sub-centers the samples choose, and the class weights that are left when each class keeps
//! its dominant one.

use ndarray::{Array2, ArrayRef2, ArrayView1, Axis};

use crate::data::{Forward, IGNORED, check_sub_centers, room_for};
use crate::error::Error;
use crate::kernel::Real;

/// Counts how many samples of each class choose each of its K sub-centers, to find wrong labels.
///
/// After some epochs with [`Batch::with_sub_centers`](crate::Batch::with_sub_centers) the clean
/// samples of a class gather at one of its sub-centers, the *dominant* one, and wrong or hard ones
/// at the others. The paper cleans data in this way:
///
/// 1. count the choices of all samples ([`add`](Self::add), batch by batch),
/// 2. keep the dominant sub-center of each class ([`dominant_weights`](Self::dominant_weights)),
/// 3. drop the samples whose angle to it exceeds 75°
///    ([`Head::target_angles`](crate::Head::target_angles)),
/// 4. train again on the rest, with K = 1.
///
/// ```
/// use margin_softmax::{ArcFace, Batch, Head};
/// use margin_softmax::sub_centers::SubCenterUsage;
/// use ndarray::array;
///
/// // Two classes with K = 2 sub-centers; the last sample of class 0 lies far from the others.
/// let w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];
/// let x = array![[3.0, 0.1], [2.0, -0.3], [-0.2, 1.0], [-1.0, 0.1]];
/// let labels = [0, 0, 0, 1];
/// let head = Head::new(ArcFace::default());
/// let mut usage = SubCenterUsage::new(2, 2)?;
/// let batch = Batch::new(&x, &w, &labels).with_sub_centers(2);
/// usage.add(&labels, &head.forward(&batch)?)?;
/// assert_eq!(usage.counts(), array![[2, 1], [1, 0]]);
///
/// let dominant = usage.dominant_weights(&w)?;
/// assert_eq!(dominant, array![[1.0, 0.0], [-1.0, 0.0]]);
/// let angles = head.target_angles(&Batch::new(&x, &dominant, &labels))?;
/// let suspect: Vec<bool> = angles.iter().map(|angle: &f64| angle.to_degrees() > 75.0).collect();
/// assert_eq!(suspect, [false, false, true, false]);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Deng et al., *Sub-center ArcFace* (ECCV 2020), section 3.3, with K = 3 and 75°.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubCenterUsage {
    counts: Array2<usize>,
}

impl SubCenterUsage {
    /// No sample yet, of so many `classes` with `k` sub-centers each.
    ///
    /// # Errors
    /// [`Error::Empty`] for no class, [`Error::Parameter`] for K = 0 and for more sub-centers than
    /// fit into memory.
    pub fn new(classes: usize, k: usize) -> Result<Self, Error> {
        Error::check_not_empty("classes", &[classes])?;
        let all = classes.saturating_mul(check_sub_centers(k)?);
        let mut counts = room_for("number of sub-centers", all)?;
        counts.resize(all, 0);
        let counts = Array2::from_shape_vec((classes, k), counts).expect("one for each sub-center");
        Ok(SubCenterUsage { counts })
    }

    /// Counts the samples of a batch with these `labels`, whose forward pass found their nearest
    /// sub-centers. Samples that were left out are not counted.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Label`] where labels, classes and sub-centers do not fit;
    /// nothing is counted then.
    pub fn add<F: Real>(&mut self, labels: &[usize], forward: &Forward<F>) -> Result<(), Error> {
        let chosen = forward.sub_centers();
        Error::check_shape("labels", &[chosen.len()], &[labels.len()])?;
        let (classes, k) = self.counts.dim();
        let counted = || labels.iter().zip(chosen).filter(|&(_, &chosen)| chosen != IGNORED);
        let most = counted().map(|(_, &chosen)| chosen + 1).max().unwrap_or(0);
        if most > k {
            let (expected, actual) = (vec![k], vec![most]);
            return Err(Error::Shape { argument: "sub-centers per class", expected, actual });
        }
        for (row, (&label, &chosen)) in labels.iter().zip(chosen).enumerate() {
            if chosen != IGNORED && label >= classes {
                return Err(Error::Label { row, label, classes });
            }
        }
        for (&label, &chosen) in counted() {
            self.counts[[label, chosen]] += 1;
        }
        Ok(())
    }

    /// How many samples chose each sub-center (C, K).
    pub fn counts(&self) -> &Array2<usize> {
        &self.counts
    }

    /// The sub-center of each class that most of its samples chose (C): the first of equals, and 0
    /// for a class without samples.
    pub fn dominant(&self) -> Vec<usize> {
        // Of equals the last is the largest, hence from behind.
        let dominant = |counts: ArrayView1<'_, usize>| {
            (0..counts.len()).rev().max_by_key(|&at| counts[at]).unwrap_or(0)
        };
        self.counts.rows().into_iter().map(dominant).collect()
    }

    /// The rows of class weights `w` (C·K, D) that belong to the dominant sub-centers (C, D): class
    /// weights for a head without sub-centers.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `w` has C·K rows.
    pub fn dominant_weights<F: Real>(&self, w: &ArrayRef2<F>) -> Result<Array2<F>, Error> {
        let k = self.counts.ncols();
        Error::check_shape("class weights", &[self.counts.len(), w.ncols()], w.shape())?;
        let rows = self.dominant().into_iter().enumerate().map(|(class, at)| class * k + at);
        Ok(w.select(Axis(0), &rows.collect::<Vec<_>>()))
    }
}
