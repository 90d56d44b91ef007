//! Hyperspherical energy: a measure of how unevenly directions are spread over the sphere
//! (SphereFace+).

mod tiles;

use ndarray::{Array2, ArrayRef2};

use crate::error::Error;
use crate::kernel::{Real, job, riesz_pair};
use tiles::PairSums;

/// The Riesz kernel f_s(d): the energy of a pair of unit vectors at distance d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Riesz {
    /// `f_0(d) = −ln d`, s = 0.
    Log,
    /// `f_1(d) = 1/d`, s = 1.
    One,
    /// `f_2(d) = 1/d²`, s = 2.
    #[default]
    Two,
}

/// Which vectors repel a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Space {
    /// The other directions. For class weights, where v and −v are far apart.
    #[default]
    Full,
    /// The other directions and their opposites. For hidden layers, where v and −v are redundant.
    Half,
}

/// The hyperspherical energy of the rows of `w`, and its gradient. The lower the energy, the more
/// evenly the rows are spread over the sphere.
///
/// ```text
/// v_j = w_j / ‖w_j‖,   d_jk = ‖v_j − v_k‖,   d⁺_jk = ‖v_j + v_k‖
///
/// E_full = 1 / (C·(C − 1)) · Σ_{j≠k} f_s(d_jk)
/// E_half = 2 / (2C·(2C − 1)) · [ Σ_{j≠k} (f_s(d_jk) + f_s(d⁺_jk)) + C·f_s(2) ]
///
/// ∂E_full/∂w_j = 2 / (C·(C − 1)·‖w_j‖) · (I − v_j·v_jᵀ) · Σ_{k≠j} κ_s · d_jk^(−s−2) · v_k
///
/// κ_0 = 1,   κ_s = s
/// ```
///
/// `E_half` is `E_full` of the 2C vectors v_j and −v_j. The norms of the rows have no effect on the
/// energy, so the gradient is tangent to the sphere.
///
/// **Shapes**: `w` (C, D) with any strides, C ≥ 1; the gradient is (C, D). At C = 1 there are no
/// pairs: the gradient is 0 and the energy is 0 in full space, `f_s(2)` in half space.
///
/// | parameter | default | range | purpose |
/// |---|---|---|---|
/// | `riesz` | `Two` | `Log`, `One`, `Two` | f_s: the larger s, the more the closest pairs count |
/// | `space` | `Full` | `Full`, `Half` | whether −v_k repels like v_k |
///
/// The time is that of two matrix products of size C × C × D. The C × C distances are never
/// stored. For many classes use [`hyperspherical_energy_of_batch`]. The result is bit-identical for
/// any number of threads.
///
/// Pairs closer than 29° are computed in f64, to a relative 10⁻¹¹ at any distance, for `f32` too. In
/// high dimensions such pairs are rare. If all rows lie in one narrow cone, the call takes about ten
/// times as long.
///
/// # Errors
/// - [`Error::Pole`] if two rows point the same way (in half space, also opposite ways): their
///   energy is infinite.
/// - [`Error::Empty`], [`Error::NonFinite`], [`Error::DegenerateNorm`] for `w`.
/// - [`Error::Overflow`] if the gradient, which grows as `1/‖w_j‖`, exceeds the range of `F`.
///
/// ```
/// use margin_softmax::energy::{Riesz, Space, hyperspherical_energy};
/// use ndarray::array;
///
/// // d² = 2 at right angles. Descent turns the two vectors away from each other.
/// let w = array![[1.0, 0.0], [0.0, 2.0]];
/// let (energy, gradient) = hyperspherical_energy(&w, Riesz::Two, Space::Full)?;
/// assert_eq!(energy, 0.5);
/// assert_eq!(gradient, array![[0.0, 0.5], [0.25, 0.0]]);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Liu et al., *Learning towards Minimum Hyperspherical Energy* (NeurIPS 2018,
/// arXiv 1805.09298), eq. 1 and "MHE in half space", divided by the number of pairs.
pub fn hyperspherical_energy<F: Real>(
    w: &ArrayRef2<F>,
    riesz: Riesz,
    space: Space,
) -> Result<(F, Array2<F>), Error> {
    energy(w, None, riesz, space)
}

/// The hyperspherical energy of a mini-batch, and its gradient: the pairs of a class of the batch
/// with any other class. SphereFace+ adds it to its loss.
///
/// ```text
/// E_batch = 1 / (N·(C − 1)) · Σ_i Σ_{k≠y_i} f_s(d_jk),   j = y_i
/// ```
///
/// If the batches sample the classes uniformly, the mean of `E_batch` over the batches is the
/// `E_full` of [`hyperspherical_energy`]. A label that occurs twice counts twice. The gradient of
/// every row is non-zero in general: the classes of the batch repel all others.
///
/// **Shapes**: `w` (C, D) with any strides, `labels` (N), each below C; the gradient is (C, D). At
/// C = 1 energy and gradient are 0.
///
/// | parameter | default | range | purpose |
/// |---|---|---|---|
/// | `riesz` | `Two` | `Log`, `One`, `Two` | f_s: the larger s, the more the closest pairs count |
///
/// The time is at most that of four matrix products of size N × C × D, about that of a training
/// step. Nothing of size N × C is stored.
///
/// # Errors
/// Those of [`hyperspherical_energy`], except that [`Error::Pole`] is returned only for pairs with
/// a class of the batch; [`Error::Empty`] without labels, [`Error::Label`] for a label ≥ C.
///
/// SphereFace+, `L = L_SphereFace + λ_M · E_batch`:
///
/// ```
/// use margin_softmax::{Batch, Gradients, Head, Reduction, SphereFace};
/// use margin_softmax::energy::{Riesz, hyperspherical_energy_of_batch};
/// use ndarray::array;
///
/// let x = array![[0.9, 0.1], [-0.2, 0.8]];
/// let w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]];
/// let (labels, lambda_m) = ([0, 1], 0.1);
/// let batch = Batch::new(&x, &w, &labels);
/// let mut gradients = Gradients::zeros_for(&batch);
/// let head = Head::new(SphereFace::new(4)?);
/// let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
///
/// let (energy, gradient) = hyperspherical_energy_of_batch(&w, &labels, Riesz::Two)?;
/// gradients.weights.scaled_add(lambda_m, &gradient);
/// let objective = forward.mean() + lambda_m * energy;
/// # assert!(objective > forward.mean());
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Liu et al., *Learning towards Minimum Hyperspherical Energy* (NeurIPS 2018,
/// arXiv 1805.09298), "mini-batch approximation". The authors' Caffe layer optimizes a different
/// quantity, the distance to the mean direction.
pub fn hyperspherical_energy_of_batch<F: Real>(
    w: &ArrayRef2<F>,
    labels: &[usize],
    riesz: Riesz,
) -> Result<(F, Array2<F>), Error> {
    energy(w, Some(labels), riesz, Space::Full)
}

job!(
    /// The energy of all classes, or of those of a batch with these labels. Its loops are compiled
    /// for each exponent in each space.
    fn energy<'a>(
        w: &'a ArrayRef2<F>,
        labels: Option<&'a [usize]>,
        riesz: Riesz,
        space: Space,
    ) -> Result<(F, Array2<F>), Error> {
        match (riesz, space) {
            (Riesz::Log, Space::Full) => energy_of::<F, 0, false>(w, labels),
            (Riesz::One, Space::Full) => energy_of::<F, 1, false>(w, labels),
            (Riesz::Two, Space::Full) => energy_of::<F, 2, false>(w, labels),
            (Riesz::Log, Space::Half) => energy_of::<F, 0, true>(w, labels),
            (Riesz::One, Space::Half) => energy_of::<F, 1, true>(w, labels),
            (Riesz::Two, Space::Half) => energy_of::<F, 2, true>(w, labels),
        }
    }
);

fn energy_of<F: Real, const S: u8, const HALF: bool>(
    w: &ArrayRef2<F>,
    labels: Option<&[usize]>,
) -> Result<(F, Array2<F>), Error> {
    let mut counts = vec![usize::from(labels.is_none()); w.nrows()];
    if let Some(labels) = labels {
        Error::check_not_empty("labels", &[labels.len()])?;
        Error::check_labels(labels, w.nrows(), None)?;
        labels.iter().for_each(|&label| counts[label] += 1);
    }
    let classes = w.nrows() as f64;
    let (scale, constant) = if HALF {
        // f_s(2): the energy of a direction and its opposite.
        let ((antipodal, _), points) = (riesz_pair::<S, false>(4.0, 0.0), 2.0 * classes);
        (2.0 * per_pair(points, points), antipodal / (points - 1.0))
    } else {
        (per_pair(labels.map_or(w.nrows(), <[_]>::len) as f64, classes), 0.0)
    };
    let (energy, gradient) = PairSums::<F, S, HALF>::new(w, counts)?.energy(scale)?;
    Ok((F::narrow(energy + constant), gradient))
}

/// The weight of one pair in the mean over `n` directions, each paired with the other `classes −
/// 1`. With a single class there are no pairs: the sum is 0, and any finite weight is right.
fn per_pair(n: f64, classes: f64) -> f64 {
    1.0 / (n * (classes - 1.0).max(1.0))
}
