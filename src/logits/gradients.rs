//! Gradients of the logits, and their propagation through the normalization.

use std::ops::Range;

use ndarray::{Array1, Array2, Axis};

use super::{NormalizedLogits, Source, for_workers, slice, slice_mut, units};
use crate::data::{Gradients, IGNORED, has_direction};
use crate::error::Error;
use crate::kernel::{self, Level, Mat, Packed, Precision, Real};
use crate::math::{CLASS_WEIGHT, EMBEDDING, Pair};
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
        let counts =
            |label: usize| if Some(label) == logits.samples.ignored { IGNORED } else { label };
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
                self.extreme_weights.push((j, Array1::zeros(embeddings.len())));
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

    /// The class of each sample among those of `logits`, or [`IGNORED`]; refused where there are none
    /// or others.
    fn checked_labels(&self, logits: &NormalizedLogits<F>) -> Result<&[usize], Error> {
        let unknown = Error::Unsupported(
            "these gradients hold no labels: take them from MarginLoss::backward, or set the labels \
             with LogitGradients::with_labels",
        );
        let labels = self.labels.as_ref().ok_or(unknown)?;
        let (n, c) = logits.cosines.dim();
        Error::check_shape("labels of the gradients", &[n], &[labels.len()])?;
        Error::check_labels(labels, c, Some(IGNORED))?;
        Ok(labels)
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

/// Rows per block.
const BLOCK: usize = 64;

/// The gradients of the logits of extreme vectors, by row.
type Extreme<'a, F> = Vec<Option<&'a Array1<F>>>;

/// The gradients of the logits of each row that has them.
fn by_row<F>(rows: usize, gradients: &[(usize, Array1<F>)]) -> Extreme<'_, F> {
    let mut all = vec![None; rows];
    gradients.iter().for_each(|(row, gradient)| all[*row] = Some(gradient));
    all
}

/// Arrays hold what embeddings have, then what class weights have.
pub(super) struct Backprop<'a, F> {
    logits: &'a NormalizedLogits<F>,
    source: &'a Source<F>,
    gradients: &'a LogitGradients<F>,
    labels: &'a [usize],
    extreme: [Extreme<'a, F>; 2],
    /// The nearest row of each sample's own class and their pair, where the gradient of the target
    /// logit passes through their angle.
    targets: Vec<Option<(usize, Pair)>>,
    /// The samples whose targets each row of class weights is in.
    samples: Vec<Vec<usize>>,
}

impl<'a, F: Real> Backprop<'a, F> {
    /// Refuses `gradients` that are not those of the `logits` of these vectors.
    pub fn new(
        logits: &'a NormalizedLogits<F>,
        source: &'a Source<F>,
        gradients: &'a LogitGradients<F>,
    ) -> Result<Self, Error> {
        gradients.check(logits)?;
        let labels = gradients.checked_labels(logits)?;
        let [x, w] = &source.vectors;
        let extreme = [
            by_row(x.nrows(), &gradients.extreme_embeddings),
            by_row(w.nrows(), &gradients.extreme_weights),
        ];
        let target = |(i, &label): (usize, &usize)| {
            let count = logits.samples.sub_centers;
            let first = Some(label).filter(|&label| label != IGNORED)? * count;
            let y = source.nearest_row(i, first, count);
            let [r, q] = [source.norms[EMBEDDING][i], source.norms[CLASS_WEIGHT][y]];
            let by_logit = extreme[EMBEDDING][i].is_some() || extreme[CLASS_WEIGHT][y].is_some();
            let by_angle = !by_logit && has_direction::<F>(r) && has_direction::<F>(q);
            by_angle.then(|| (y, source.pair(i, y)))
        };
        let targets: Vec<_> = labels.iter().enumerate().map(target).collect();
        let mut samples = vec![Vec::new(); w.nrows()];
        for (i, target) in targets.iter().enumerate() {
            target.iter().for_each(|&(y, _)| samples[y].push(i));
        }
        Ok(Backprop { logits, source, gradients, labels, extreme, targets, samples })
    }

    pub fn run(&self) -> Gradients<F> {
        let [x, w] = &self.source.vectors;
        let units = units(x, &self.source.norms[EMBEDDING]);
        Gradients {
            embeddings: self.side(EMBEDDING, slice(w), BLOCK),
            weights: self.side(CLASS_WEIGHT, &units, x.nrows()),
            bias: self.gradients.bias.clone(),
        }
    }

    /// The gradients of the embeddings or the class weights, from the vectors of the `others`, of
    /// which so many go into a product:
    ///
    /// ```text
    /// (I − uuᵀ)/r · Σ_{j≠y} ∂L/∂c_ij·v_j − ∂L/∂θ_i·tˣ/r + ∂L/∂r_i·u
    /// (I − vvᵀ)/q · Σ_{i: y_i≠j} ∂L/∂c_ij·u_i − Σ_{i: y_i=j} ∂L/∂θ_i·tʷ/q + ∂L/∂q_j·v
    /// ```
    fn side(&self, side: usize, others: &[F], most: usize) -> Array2<F> {
        let mut out = Array2::zeros(self.source.vectors[side].dim());
        let (dims, level) = (out.ncols(), Level::detect());
        let blocks = out.axis_chunks_iter_mut(Axis(0), BLOCK).enumerate();
        // Each worker packs others only where they are not those of its last product.
        let mut workers = for_workers::<(Option<usize>, Packed<F>)>();
        run_jobs(blocks, &mut workers, |(last, packed), (block, mut out)| {
            let rows = block * BLOCK..block * BLOCK + out.nrows();
            let out = slice_mut(&mut out);
            for (tile, others) in others.chunks(most * dims).enumerate() {
                let depth = others.len() / dims;
                let columns = tile * most..tile * most + depth;
                if last.replace(tile) != Some(tile) {
                    packed.pack(level, Precision::Full, Mat::new(others, depth, dims));
                }
                // Sample by sample on either side, as the cosines lie in memory.
                let (samples, classes) = if side == EMBEDDING {
                    (rows.clone(), columns)
                } else {
                    (columns, rows.clone())
                };
                let factors = self.factors(samples.clone(), classes.clone());
                let factors = Mat::new(&factors, samples.len(), classes.len());
                let factors = if side == EMBEDDING { factors } else { factors.t() };
                kernel::gemm(out, tile > 0, factors, packed);
            }
            for (row, out) in rows.zip(out.chunks_exact_mut(dims)) {
                self.finish(side, row, out);
            }
        });
        out
    }

    /// The derivatives by the cosines of some samples with some rows of the class weights, over the
    /// norms of these; 0 for the rows of a sample's own class, for those that are not the nearest of
    /// their class, for a row without a direction, and where the gradient of the logit counts.
    fn factors(&self, samples: Range<usize>, rows: Range<usize>) -> Vec<F> {
        let count = self.logits.samples.sub_centers;
        let factor = |i: usize, j: usize| {
            let (class, norm) = (j / count, self.source.norms[CLASS_WEIGHT][j]);
            let counts = self.labels[i] != class && self.logits.nearest(i, class) == j % count;
            let by_logit =
                self.extreme[EMBEDDING][i].is_some() || self.extreme[CLASS_WEIGHT][j].is_some();
            if !counts || by_logit || !has_direction::<F>(norm) {
                return F::zero();
            }
            F::narrow(self.gradients.cosines[[i, class]].widen() / norm)
        };
        let mut factors = Vec::with_capacity(samples.len() * rows.len());
        samples.for_each(|i| factors.extend(rows.clone().map(|j| factor(i, j))));
        factors
    }

    /// Completes the gradient of a row, of an embedding or a class weight, from the products in
    /// `out`, which the norm of a class weight has divided already: its projection, the target pairs
    /// that it is in, and its norm.
    fn finish(&self, side: usize, row: usize, out: &mut [F]) {
        let Backprop { source, gradients, .. } = self;
        let mut sum = vec![0.0; out.len()];
        if let Some(by_logit) = self.extreme[side][row] {
            for (other, gradient) in by_logit.iter().enumerate() {
                kernel::add_scaled(&mut sum, 1.0, source.row(1 - side, other), gradient.widen());
            }
            return kernel::rounded(out, &sum);
        }
        let norm = source.norms[side][row];
        if !has_direction::<F>(norm) {
            return out.fill(F::zero()); // no sample counts that it is in; its entries are arbitrary
        }
        let inverse = norm.recip();
        kernel::add_scaled(&mut sum, 0.0, out, if side == EMBEDDING { inverse } else { 1.0 });
        let others = [&gradients.extreme_weights, &gradients.extreme_embeddings][side];
        for (other, by_logit) in others {
            kernel::add_scaled(&mut sum, 1.0, source.row(1 - side, *other), by_logit[row].widen());
        }
        // With a unit row no step holds the square of the norm, which may be beyond any range.
        let unit: Vec<f64> = source.row(side, row).iter().map(|v| v.widen() * inverse).collect();
        let along = kernel::dot(&sum, &unit);
        kernel::add_scaled(&mut sum, 1.0, &unit, -along);
        let samples = if side == EMBEDDING { &[row][..] } else { &self.samples[row] };
        for &i in samples {
            let Some((y, pair)) = &self.targets[i] else { continue };
            let vectors = [source.row(EMBEDDING, i), source.row(CLASS_WEIGHT, *y)];
            let gradient = gradients.target_angles[i].widen() * inverse;
            pair.add_tangent(&mut sum, side, vectors, -gradient);
        }
        let by_norm = [&gradients.feature_norms, &gradients.weight_norms][side][row];
        kernel::add_scaled(&mut sum, 1.0, &unit, by_norm.widen());
        kernel::rounded(out, &sum);
    }
}
