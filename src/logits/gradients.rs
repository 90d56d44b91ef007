//! Gradients of the logits, and their propagation through the normalization.

use ndarray::{Array1, Array2, Axis};

use super::{NormalizedLogits, Source, SubCenters, for_workers, slice, slice_mut, units};
use crate::data::{Gradients, IGNORED, has_direction};
use crate::error::Error;
use crate::kernel::{self, Level, Mat, MatMut, Packed, Precision, Real};
use crate::math::Pair;
use crate::parallel::run_jobs;

/// Gradients with respect to what [`NormalizedLogits`] holds, each with all others held fixed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LogitGradients<F> {
    /// ∂L/∂c_ij (N, C). Always finite: where a margin has no derivative by the cosine (an embedding
    /// on its class, under ArcFace), the target's entry is 0.
    pub cosines: Array2<F>,
    /// ∂L/∂θ_iy (N), exact at every angle.
    pub target_angles: Array1<F>,
    /// ∂L/∂‖x_i‖ (N); 0 under a fixed scale, unless the loss itself depends on the norm.
    pub feature_norms: Array1<F>,
    /// ∂L/∂‖w_j‖ (C); 0 but for Softmax.
    pub weight_norms: Array1<F>,
    /// ∂L/∂b_j (C), where the logits have a bias.
    pub bias: Option<Array1<F>>,
    /// Under Softmax, of each embedding that is zero, or so short or so long that products of norms may
    /// leave the range of `F`: its row, and the gradients of its logits (C), from which its own
    /// gradient follows. Its entries in the fields above are not read.
    pub extreme_embeddings: Vec<(usize, Array1<F>)>,
    /// The same of class weights: the row, and the gradients of its logits (N). Ascending.
    pub extreme_weights: Vec<(usize, Array1<F>)>,
    labels: Option<Vec<usize>>,
    pub(crate) bias_gradient: Option<f64>,
}

impl<F: Real> LogitGradients<F> {
    /// Zeros in the shapes of `logits`. They hold no labels until
    /// [`MarginLoss::backward_into`](crate::MarginLoss::backward_into) or
    /// [`with_labels`](Self::with_labels) sets them.
    pub fn zeros_for(logits: &NormalizedLogits<F>) -> Self {
        let (n, c) = logits.cosines.dim();
        LogitGradients {
            cosines: Array2::zeros((n, c)),
            target_angles: Array1::zeros(n),
            feature_norms: Array1::zeros(n),
            weight_norms: Array1::zeros(logits.weight_norms.len()),
            bias: logits.bias.as_ref().map(|_| Array1::zeros(c)),
            extreme_embeddings: Vec::new(),
            extreme_weights: Vec::new(),
            labels: None,
            bias_gradient: None,
        }
    }

    /// Sets all but the gradients of the cosines to zeros, those of samples of these labels.
    pub(crate) fn clear(&mut self, labels: &[usize], logits: &NormalizedLogits<F>) {
        let LogitGradients { target_angles, feature_norms, weight_norms, bias, .. } = self;
        for vector in [target_angles, feature_norms, weight_norms].into_iter().chain(bias) {
            vector.fill(F::zero());
        }
        self.extreme_embeddings.clear();
        self.extreme_weights.clear();
        let own = self.labels.get_or_insert_default();
        let counts = |label: usize| if Some(label) == logits.ignored { IGNORED } else { label };
        own.clear();
        own.extend(labels.iter().map(|&label| counts(label)));
    }

    /// Keeps what is needed of the gradients of sample `i`'s logits.
    pub(crate) fn keep_extreme(&mut self, source: &Source<F>, i: usize, by_logit: &[f64]) {
        let [embeddings, weights] = &source.extreme;
        if embeddings[i] {
            let row = by_logit.iter().map(|&gradient| F::narrow(gradient)).collect();
            self.extreme_embeddings.push((i, row));
        }
        let columns = (0..weights.len()).filter(|&j| weights[j]);
        for (at, j) in columns.enumerate() {
            if at == self.extreme_weights.len() {
                self.extreme_weights.push((j, Array1::zeros(source.x.nrows())));
            }
            self.extreme_weights[at].1[i] = F::narrow(by_logit[j]);
        }
    }

    /// The same gradients, filled by hand, for samples of these classes: the target pair's share is
    /// read from `target_angles`, all other classes' from `cosines`. A sample labeled [`IGNORED`]
    /// has no target pair.
    ///
    /// ```
    /// use margin_softmax::{Error, LogitGradients, NormalizedLogits};
    /// use ndarray::array;
    ///
    /// let logits = NormalizedLogits::new(&array![[1.0, 0.0]], &array![[1.0, 0.0], [0.0, 2.0]])?;
    /// let mut gradients = LogitGradients::zeros_for(&logits);
    /// gradients.cosines[[0, 1]] = 3.0;
    /// assert!(matches!(logits.backward(&gradients), Err(Error::Unsupported(_))));
    /// let gradients = logits.backward(&gradients.with_labels(&[0])?)?;
    /// assert_eq!(gradients.embeddings, array![[0.0, 3.0]]);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Label`] where the labels do not fit the gradients.
    pub fn with_labels(self, labels: &[usize]) -> Result<Self, Error> {
        let (n, c) = self.cosines.dim();
        Error::check_shape("labels of the gradients", &[n], &[labels.len()])?;
        Error::check_labels(labels, c, Some(IGNORED))?;
        Ok(LogitGradients { labels: Some(labels.to_vec()), ..self })
    }

    /// The derivative by the bias of a binary loss, as
    /// [`Forward::bias_gradient`](crate::Forward::bias_gradient); `None` for any other loss.
    pub fn bias_gradient(&self) -> Option<f64> {
        self.bias_gradient
    }

    /// Refuses gradients that do not have the shapes of `logits`.
    pub(crate) fn check(&self, logits: &NormalizedLogits<F>) -> Result<(), Error> {
        let (n, c) = logits.cosines.dim();
        Error::check_shape("gradients of cosines", &[n, c], self.cosines.shape())?;
        Error::check_shape("gradients of target angles", &[n], self.target_angles.shape())?;
        Error::check_shape("gradients of feature norms", &[n], self.feature_norms.shape())?;
        let rows = logits.weight_norms.shape();
        Error::check_shape("gradients of weight norms", rows, self.weight_norms.shape())?;
        let shape = |bias: &Option<Array1<F>>| bias.iter().map(|b| b.len()).collect::<Vec<_>>();
        Error::check_shape("gradients of bias", &shape(&logits.bias), &shape(&self.bias))?;
        let (embeddings, weights) = (&self.extreme_embeddings, &self.extreme_weights);
        check_extreme("gradients of extreme embeddings", embeddings, (n, c))?;
        check_extreme("gradients of extreme class weights", weights, (logits.weight_norms.len(), n))
    }

    /// The class of each sample among those of `logits`; refused where there are none or others.
    pub(super) fn checked_labels(
        &self,
        logits: &NormalizedLogits<F>,
    ) -> Result<Vec<Option<usize>>, Error> {
        let unknown = Error::Unsupported(
            "these gradients hold no labels: take them from MarginLoss::backward, or set the labels \
             with LogitGradients::with_labels",
        );
        let labels = self.labels.as_ref().ok_or(unknown)?;
        let (n, c) = logits.cosines.dim();
        Error::check_shape("labels of the gradients", &[n], &[labels.len()])?;
        Error::check_labels(labels, c, Some(IGNORED))?;
        Ok(labels.iter().map(|&label| Some(label).filter(|&label| label != IGNORED)).collect())
    }
}

/// Refuses gradients of logits unless they are of distinct ascending rows, each of so many entries.
fn check_extreme<F: Real>(
    argument: &'static str,
    gradients: &[(usize, Array1<F>)],
    (rows, entries): (usize, usize),
) -> Result<(), Error> {
    let mut least = 0;
    for (position, (row, gradient)) in gradients.iter().enumerate() {
        if !(least..rows).contains(row) {
            return Err(Error::Rows { argument, position, row: *row, rows });
        }
        least = row + 1;
        Error::check_shape(argument, &[entries], gradient.shape())?;
    }
    Ok(())
}

/// The gradients of the logits of each row that has them.
fn by_row<F>(rows: usize, gradients: &[(usize, Array1<F>)]) -> Vec<Option<&Array1<F>>> {
    let mut all = vec![None; rows];
    gradients.iter().for_each(|(row, gradient)| all[*row] = Some(gradient));
    all
}

/// Classes or samples per block.
const BLOCK: usize = 64;
const FULL: Precision = Precision::Full;

/// The gradients of embeddings, class weights and bias, from those of the logits of samples of
/// these classes.
pub(super) fn through_normalization<F: Real>(
    source: &Source<F>,
    sub_centers: &SubCenters,
    gradients: &LogitGradients<F>,
    labels: &[Option<usize>],
) -> Gradients<F> {
    let count = sub_centers.count;
    let own_row = |(i, label): (usize, &Option<usize>)| {
        label.map(|label| source.nearest_row(i, label * count, count))
    };
    let own_rows: Vec<Option<usize>> = labels.iter().enumerate().map(own_row).collect();
    let pair = |(i, row): (usize, &Option<usize>)| {
        let y = (*row)?;
        let (r, q) = (source.x_norms[i], source.w_norms[y]);
        let directed = has_direction::<F>(r) && has_direction::<F>(q);
        directed.then(|| Pair::new(source.x(i), source.w(y), r, q))
    };
    let pairs: Vec<Option<Pair>> = own_rows.iter().enumerate().map(pair).collect();
    let (own_rows, pairs) = (&own_rows[..], &pairs[..]);
    let embeddings = by_row(source.x.nrows(), &gradients.extreme_embeddings);
    let weights = by_row(source.w.nrows(), &gradients.extreme_weights);
    let extreme = [&embeddings[..], &weights[..]];
    let backprop = Backprop { source, sub_centers, gradients, labels, own_rows, pairs, extreme };
    Gradients {
        embeddings: backprop.to_embeddings(),
        weights: backprop.to_weights(),
        bias: gradients.bias.clone(),
    }
}

/// The gradients of the logits of extreme vectors, by row.
type Extreme<'a, F> = &'a [Option<&'a Array1<F>>];

struct Backprop<'a, F> {
    source: &'a Source<F>,
    sub_centers: &'a SubCenters,
    gradients: &'a LogitGradients<F>,
    labels: &'a [Option<usize>],
    /// The nearest row of each sample's own class.
    own_rows: &'a [Option<usize>],
    pairs: &'a [Option<Pair>],
    /// Of embeddings and class weights.
    extreme: [Extreme<'a, F>; 2],
}

impl<F: Real> Backprop<'_, F> {
    /// The rows (I − uuᵀ)/r · Σ_{j≠y} ∂L/∂c_ij·v_j − ∂L/∂θ_i·tˣ/r + ∂L/∂r_i·u.
    fn to_embeddings(&self) -> Array2<F> {
        let (n, dims) = self.source.x.dim();
        let classes = self.source.w.nrows();
        let weights = slice(&self.source.w);
        let mut out = Array2::zeros((n, dims));
        let blocks = out.axis_chunks_iter_mut(Axis(0), BLOCK).enumerate();
        let level = Level::detect();
        run_jobs(blocks, &mut for_workers(), |packed: &mut Packed<F>, (block, mut out)| {
            let (first, rows) = (block * BLOCK, out.nrows());
            let out = slice_mut(&mut out);
            for tile in (0..classes).step_by(BLOCK) {
                let columns = BLOCK.min(classes - tile);
                let mut factors = Vec::with_capacity(rows * columns);
                for i in first..first + rows {
                    factors.extend((tile..tile + columns).map(|j| self.factor(i, j)));
                }
                let weights = &weights[tile * dims..(tile + columns) * dims];
                let factors = Mat::new(&factors, rows, columns);
                let weights = packed.pack(level, FULL, Mat::new(weights, columns, dims));
                kernel::gemm(MatMut::new(out, rows, dims, dims), tile > 0, factors, weights);
            }
            for (i, out) in (first..).zip(out.chunks_exact_mut(dims)) {
                self.finish(0, i, &[i], out);
            }
        });
        out
    }

    /// The derivative by the cosine with row `j` of the class weights, over the norm of the row; 0
    /// for the rows of the sample's own class, for those that are not the nearest of their class,
    /// for a row without a direction, and where the gradient of the logit counts.
    fn factor(&self, i: usize, j: usize) -> F {
        let norm = self.source.w_norms[j];
        let class = j / self.sub_centers.count;
        let counts = self.labels[i] != Some(class)
            && self.sub_centers.nearest(i, class) == j % self.sub_centers.count;
        let by_logit = self.extreme[0][i].is_some() || self.extreme[1][j].is_some();
        if !counts || by_logit || !has_direction::<F>(norm) {
            return F::zero();
        }
        F::narrow(self.gradients.cosines[[i, class]].widen() / norm)
    }

    /// Completes the gradient of a row, of an embedding (`side` 0) or a class weight (1), from the
    /// products in `out`, which the norm of a class weight has divided already: its projection, the
    /// target pairs of the `samples` that it is in, and its norm.
    fn finish(&self, side: usize, row: usize, samples: &[usize], out: &mut [F]) {
        let Backprop { source, gradients, extreme, .. } = self;
        let vector = |side, row| if side == 0 { source.x(row) } else { source.w(row) };
        let mut sum = vec![0.0; out.len()];
        if let Some(by_logit) = extreme[side][row] {
            for (other, gradient) in by_logit.iter().enumerate() {
                kernel::add_scaled(&mut sum, 1.0, vector(1 - side, other), gradient.widen());
            }
            return kernel::rounded(out, &sum);
        }
        let norm = [&source.x_norms, &source.w_norms][side][row];
        if !has_direction::<F>(norm) {
            return out.fill(F::zero()); // no sample counts that it is in; its entries are arbitrary
        }
        let inverse = norm.recip();
        kernel::add_scaled(&mut sum, 0.0, out, if side == 0 { inverse } else { 1.0 });
        let others = [&gradients.extreme_weights, &gradients.extreme_embeddings][side];
        for (other, by_logit) in others {
            kernel::add_scaled(&mut sum, 1.0, vector(1 - side, *other), by_logit[row].widen());
        }
        // With a unit row no step holds the square of the norm, which may be beyond any range.
        let unit: Vec<f64> = vector(side, row).iter().map(|v| v.widen() * inverse).collect();
        let along = kernel::dot(&sum, &unit);
        kernel::add_scaled(&mut sum, 1.0, &unit, -along);
        for &i in samples {
            let (Some(class), Some(pair)) = (self.own_rows[i], &self.pairs[i]) else { continue };
            if extreme[0][i].is_none() && extreme[1][class].is_none() {
                let gradient = gradients.target_angles[i].widen() * inverse;
                pair.add_tangent(&mut sum, side, [source.x(i), source.w(class)], -gradient);
            }
        }
        let by_norm = [&gradients.feature_norms, &gradients.weight_norms][side][row];
        kernel::add_scaled(&mut sum, 1.0, &unit, by_norm.widen());
        kernel::rounded(out, &sum);
    }

    /// The rows (I − vvᵀ)/q · Σ_{i: y_i≠j} ∂L/∂c_ij·u_i − Σ_{i: y_i=j} ∂L/∂θ_i·tʷ/q + ∂L/∂q_j·v.
    fn to_weights(&self) -> Array2<F> {
        let (classes, dims) = self.source.w.dim();
        let n = self.source.x.nrows();
        let units = units(&self.source.x, &self.source.x_norms);
        let (level, mut packed) = (Level::detect(), Packed::default());
        let units = packed.pack(level, FULL, Mat::new(&units, n, dims));
        let mut own = vec![Vec::new(); classes];
        for (i, row) in self.own_rows.iter().enumerate() {
            own[row.unwrap_or_default()].extend(row.map(|_| i));
        }
        let mut out = Array2::zeros((classes, dims));
        let blocks = out.axis_chunks_iter_mut(Axis(0), BLOCK).enumerate();
        run_jobs(blocks, &mut for_workers::<()>(), |(), (block, mut out)| {
            let (first, rows) = (block * BLOCK, out.nrows());
            let out = slice_mut(&mut out);
            let mut factors = vec![F::zero(); rows * n];
            for i in 0..n {
                for j in 0..rows {
                    factors[j * n + i] = self.factor(i, first + j);
                }
            }
            let factors = Mat::new(&factors, rows, n);
            kernel::gemm(MatMut::new(out, rows, dims, dims), false, factors, units);
            for (j, out) in (first..).zip(out.chunks_exact_mut(dims)) {
                self.finish(1, j, &own[j], out);
            }
        });
        out
    }
}
