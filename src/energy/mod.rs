//! Hyperspherical energy: how unevenly directions are spread over the sphere (SphereFace+).

mod tiles;

use ndarray::{Array2, ArrayRef2};

use crate::error::Error;
use crate::kernel::Real;
use tiles::{Law, Sphere};

/// How two directions repel each other: the Riesz kernel of the distance $d$ between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Riesz {
    /// $f_0(d) = -\ln d$, $s = 0$.
    Log,
    /// $f_1(d) = 1/d$, $s = 1$.
    One,
    /// $f_2(d) = 1/d^2$, $s = 2$.
    #[default]
    Two,
}

/// What repels a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Space {
    /// The other directions: for class weights, where $v$ and $-v$ are far apart.
    #[default]
    Full,
    /// The other directions and their opposites: for hidden layers, where $v$ and $-v$ say the
    /// same.
    Half,
}

impl Riesz {
    fn law<F: Real>(self, space: Space) -> Law<F> {
        match (self, space) {
            (Riesz::Log, Space::Full) => Law::new::<0, false>(),
            (Riesz::One, Space::Full) => Law::new::<1, false>(),
            (Riesz::Two, Space::Full) => Law::new::<2, false>(),
            (Riesz::Log, Space::Half) => Law::new::<0, true>(),
            (Riesz::One, Space::Half) => Law::new::<1, true>(),
            (Riesz::Two, Space::Half) => Law::new::<2, true>(),
        }
    }
}

/// The hyperspherical energy of the rows of `w`, and its gradient.
///
/// With unit vectors $v_j = w_j/\lVert w_j\rVert$, distances $d_{jk} = \lVert v_j - v_k\rVert$ and
/// $d^+_{jk} = \lVert v_j + v_k\rVert$,
///
/// $$ E_\text{full} = \frac{1}{C(C-1)}\sum_{j\ne k} f_s(d_{jk}), \qquad
/// E_\text{half} = \frac{2}{2C(2C-1)}\Big[\sum_{j\ne k}\big(f_s(d_{jk}) + f_s(d^+_{jk})\big) +
/// C f_s(2)\Big], $$
///
/// the second being the first for the $2C$ vectors $\lbrace v_j, -v_j\rbrace$. The less energy, the more
/// evenly the rows are spread. The norms do not matter, so the gradient is tangent to the sphere:
///
/// $$ \frac{\partial E_\text{full}}{\partial w_j} = \frac{2}{C(C-1)\lVert w_j\rVert}
/// (I - v_jv_j^\top)\sum_{k\ne j}\kappa_s d_{jk}^{-s-2}v_k, \qquad \kappa_0 = 1, \quad \kappa_s = s. $$
///
/// **Shapes**: `w` (C, D) in any layout, C ≥ 1; the gradient (C, D). At C = 1 there is no pair:
/// energy ($f_s(2)$ in half space) and gradient are what is left, the latter 0.
///
/// | parameter | default | range | purpose |
/// |---|---|---|---|
/// | `riesz` | `Two` | `Log`, `One`, `Two` | $f_s$: the higher $s$, the more the closest pairs count |
/// | `space` | `Full` | `Full`, `Half` | whether $-v$ repels like $v$ |
///
/// The time is that of two matrix products of size C × C × D; the C × C distances are never held.
/// For many classes, take the [energy of a batch](hyperspherical_energy_of_batch). The result
/// is the same, bit for bit, for any number of threads.
///
/// Pairs closer than 29° are taken from their difference in f64, so that energy and gradient are
/// accurate however close they are. They are few in high dimensions; rows that all lie in one
/// such cone take some ten times as long.
///
/// # Errors
/// [`Error::Pole`] where two rows point the same way (in half space, or opposite ways): their
/// energy is infinite. [`Error::Empty`], [`Error::NonFinite`], [`Error::DegenerateNorm`];
/// [`Error::Overflow`] where the gradient, which grows as $1/\lVert w_j\rVert$, leaves the range
/// of `F`.
///
/// ```
/// use margin_softmax::{Riesz, Space, hyperspherical_energy};
/// use ndarray::array;
///
/// // At right angles d² = 2, and the two push each other apart, along the circle.
/// let w = array![[1.0, 0.0], [0.0, 2.0]];
/// let (energy, gradient) = hyperspherical_energy(&w, Riesz::Two, Space::Full)?;
/// assert_eq!(energy, 0.5);
/// assert_eq!(gradient, array![[0.0, 0.5], [0.25, 0.0]]);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Liu et al., *Learning towards Minimum Hyperspherical Energy* (NeurIPS 2018,
/// arXiv 1805.09298), eq. 1 and "MHE in half space", normalised as a mean over the pairs.
pub fn hyperspherical_energy<F: Real>(
    w: &ArrayRef2<F>,
    riesz: Riesz,
    space: Space,
) -> Result<(F, Array2<F>), Error> {
    let law = riesz.law(space);
    let classes = w.nrows() as f64;
    let (scale, constant) = match space {
        Space::Full => (per_pair(classes, classes), 0.0),
        Space::Half => {
            let points = 2.0 * classes;
            (2.0 * per_pair(points, points), law.opposites() / (points - 1.0))
        }
    };
    let (energy, gradient) = Sphere::new(w, vec![1; w.nrows()], law)?.energy(scale)?;
    Ok((F::narrow(energy + constant), gradient))
}

/// The hyperspherical energy of a mini-batch, and its gradient: only the classes of the batch are
/// held against all others. This is what SphereFace+ adds to its loss.
///
/// $$ E_\text{batch} = \frac{1}{N(C-1)}\sum_{i=1}^{N}\sum_{k\ne y_i} f_s(d_{y_ik}) $$
///
/// Over batches that draw the classes evenly, its mean is the full energy of
/// [`hyperspherical_energy`]. A label that occurs twice counts twice. The gradient reaches every
/// row: the classes of the batch push all others away.
///
/// **Shapes**: `w` (C, D) in any layout, `labels` (N) below C; the gradient (C, D). At C = 1 energy
/// and gradient are 0.
///
/// | parameter | default | range | purpose |
/// |---|---|---|---|
/// | `riesz` | `Two` | `Log`, `One`, `Two` | $f_s$: the higher $s$, the more the closest pairs count |
///
/// The time is that of four matrix products of size N × C × D at most, as much as a step of the
/// loss; nothing of size N × C is held.
///
/// # Errors
/// As [`hyperspherical_energy`], though only pairs with a class of the batch have a pole;
/// [`Error::Empty`] without labels, [`Error::Label`] for a label ≥ C.
///
/// SphereFace+, $L = L_\text{SphereFace} + \lambda_M E_\text{batch}$:
/// ```
/// use margin_softmax::{
///     Batch, Gradients, Head, Reduction, Riesz, SphereFace, hyperspherical_energy_of_batch,
/// };
/// use ndarray::array;
///
/// let x = array![[0.9, 0.1], [-0.2, 0.8]];
/// let w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]];
/// let (labels, lambda_m) = ([0, 1], 0.1);
/// let batch = Batch::new(&x, &w, &labels)?;
/// let mut gradients = Gradients::zeros_for(&batch);
/// let mut head = Head::new(SphereFace::new(4)?);
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
/// arXiv 1805.09298), "mini-batch approximation". The authors' Caffe layer optimises another
/// quantity, the distance to the mean direction.
pub fn hyperspherical_energy_of_batch<F: Real>(
    w: &ArrayRef2<F>,
    labels: &[usize],
    riesz: Riesz,
) -> Result<(F, Array2<F>), Error> {
    Error::check_not_empty("labels", &[labels.len()])?;
    Error::check_labels(labels, w.nrows(), None)?;
    let mut counts = vec![0; w.nrows()];
    for &label in labels {
        counts[label] += 1;
    }
    let scale = per_pair(labels.len() as f64, w.nrows() as f64);
    let (energy, gradient) = Sphere::new(w, counts, riesz.law(Space::Full))?.energy(scale)?;
    Ok((F::narrow(energy), gradient))
}

/// The weight of one pair in the mean over `n` directions, each paired with all others of
/// `classes`. Without a pair nothing is weighted, and any finite number will do.
fn per_pair(n: f64, classes: f64) -> f64 {
    1.0 / (n * (classes - 1.0).max(1.0))
}
