//! Gradients of the logits, and their way on through the normalisation.

use ndarray::{Array1, Array2, Axis};

use super::{NormalizedLogits, Source, units, workers};
use crate::batch::Gradients;
use crate::error::Error;
use crate::geometry::Pair;
use crate::kernel::{self, Level, Mat, MatMut, Real};
use crate::parallel::work;

/// Gradients with respect to what [`NormalizedLogits`] holds, each with all others held fixed.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitGradients<F> {
    /// $\partial L/\partial c_{ij}$ (N, C). Always finite: where a margin has no derivative by the
    /// cosine (an embedding on its class, under ArcFace), the target's entry is 0.
    pub cosines: Array2<F>,
    /// $\partial L/\partial\theta_{iy}$ (N), exact at every angle.
    pub target_angles: Array1<F>,
    /// $\partial L/\partial\lVert x_i\rVert$ (N); 0 under a fixed scale.
    pub feature_norms: Array1<F>,
    /// $\partial L/\partial\lVert w_j\rVert$ (C); 0 but for Softmax.
    pub weight_norms: Array1<F>,
    /// $\partial L/\partial b_j$ (C), where the logits have a bias.
    pub bias: Option<Array1<F>>,
    pub(super) labels: Vec<usize>,
}

impl<F: Real> LogitGradients<F> {
    /// Zeros in the shapes of `logits`.
    pub fn zeros_for(logits: &NormalizedLogits<F>) -> Self {
        let (n, c) = logits.cosines.dim();
        LogitGradients {
            cosines: Array2::zeros((n, c)),
            target_angles: Array1::zeros(n),
            feature_norms: Array1::zeros(n),
            weight_norms: Array1::zeros(c),
            bias: logits.bias.as_ref().map(|_| Array1::zeros(c)),
            labels: vec![0; n],
        }
    }

    /// Refuses gradients that do not have the shapes of `logits`.
    pub(super) fn check(&self, logits: &NormalizedLogits<F>) -> Result<(), Error> {
        let (n, c) = logits.cosines.dim();
        Error::check_shape("gradients of cosines", &[n, c], self.cosines.shape())?;
        Error::check_shape("gradients of target angles", &[n], self.target_angles.shape())?;
        Error::check_shape("gradients of feature norms", &[n], self.feature_norms.shape())?;
        Error::check_shape("gradients of weight norms", &[c], self.weight_norms.shape())?;
        let shape = |bias: &Option<Array1<F>>| bias.iter().map(|b| b.len()).collect::<Vec<_>>();
        Error::check_shape("gradients of bias", &shape(&logits.bias), &shape(&self.bias))
    }

    /// Refuses gradients whose labels are those of other logits, whatever their shapes.
    pub(super) fn check_labels(&self, logits: &NormalizedLogits<F>) -> Result<(), Error> {
        let (n, c) = logits.cosines.dim();
        Error::check_shape("labels of the gradients", &[n], &[self.labels.len()])?;
        Error::check_labels(&self.labels, c)
    }
}

/// Classes or samples that are carried on together.
const BLOCK: usize = 64;

pub(super) fn through_normalisation<F: Real>(
    source: &Source<F>,
    gradients: &LogitGradients<F>,
) -> Gradients<F> {
    let pairs: Vec<Pair> = (gradients.labels.iter().enumerate())
        .map(|(i, &y)| Pair::new(source.x(i), source.w(y), source.x_norms[i], source.w_norms[y]))
        .collect();
    let carry = Carry { source, gradients, pairs: &pairs };
    Gradients {
        embeddings: carry.to_embeddings(),
        weights: carry.to_weights(),
        bias: gradients.bias.clone(),
    }
}

struct Carry<'a, F> {
    source: &'a Source<F>,
    gradients: &'a LogitGradients<F>,
    pairs: &'a [Pair],
}

impl<F: Real> Carry<'_, F> {
    /// $\frac1r[(I - uu^\top)\sum_{j\ne y}\frac{\partial L}{\partial c_{ij}}v_j
    /// - \frac{\partial L}{\partial\theta}t^x] + \frac{\partial L}{\partial r}u$.
    fn to_embeddings(&self) -> Array2<F> {
        let (n, dims) = self.source.x.dim();
        let classes = self.source.w.nrows();
        let weights = self.source.w.as_slice().unwrap_or_default();
        let mut out = Array2::zeros((n, dims));
        let blocks = out.axis_chunks_iter_mut(Axis(0), BLOCK).enumerate();
        work(blocks, &mut vec![(); workers()], |(), (block, mut out)| {
            let (first, rows) = (block * BLOCK, out.nrows());
            let out = out.as_slice_mut().unwrap_or_default();
            for tile in (0..classes).step_by(BLOCK) {
                let columns = BLOCK.min(classes - tile);
                let mut shares = Vec::with_capacity(rows * columns);
                for i in first..first + rows {
                    shares.extend((tile..tile + columns).map(|j| self.share(i, j)));
                }
                let weights = &weights[tile * dims..(tile + columns) * dims];
                let (shares, weights) =
                    (Mat::new(&shares, rows, columns), Mat::new(weights, columns, dims));
                kernel::gemm(
                    Level::detect(),
                    MatMut::new(out, rows, dims, dims),
                    tile > 0,
                    shares,
                    weights,
                );
            }
            for (i, out) in (first..).zip(out.chunks_exact_mut(dims)) {
                self.finish_embedding(i, out);
            }
        });
        out
    }

    /// A non-target share of sample `i` in class `j`, over the norm of the class.
    fn share(&self, i: usize, j: usize) -> F {
        if j == self.gradients.labels[i] {
            return F::zero();
        }
        F::narrow(self.gradients.cosines[[i, j]].widen() / self.source.w_norms[j])
    }

    fn finish_embedding(&self, i: usize, out: &mut [F]) {
        let label = self.gradients.labels[i];
        let (x, w, pair) = (self.source.x(i), self.source.w(label), &self.pairs[i]);
        // With a unit row nothing is of the square of the norm, which may be beyond any range.
        let unit: Vec<f64> = x.iter().map(|v| v.widen() * pair.inverse_x).collect();
        let mut sum: Vec<f64> = out.iter().map(|v| v.widen()).collect();
        let along = kernel::dot(&sum, &unit);
        kernel::add_scaled(&mut sum, 1.0, &unit, -along);
        pair.add_tangent_x(&mut sum, x, w, -self.gradients.target_angles[i].widen());
        let along_norm = self.gradients.feature_norms[i].widen();
        kernel::add_scaled(&mut sum, pair.inverse_x, &unit, along_norm);
        for (out, sum) in out.iter_mut().zip(sum) {
            *out = F::narrow(sum);
        }
    }

    /// $\frac1q[(I - vv^\top)\sum_{i: y_i\ne j}\frac{\partial L}{\partial c_{ij}}u_i
    /// - \sum_{i: y_i = j}\frac{\partial L}{\partial\theta_i}t^w_i] + \frac{\partial L}{\partial q}v$.
    fn to_weights(&self) -> Array2<F> {
        let (classes, dims) = self.source.w.dim();
        let n = self.source.x.nrows();
        let units = units(&self.source.x, &self.source.x_norms);
        let units = Mat::new(&units, n, dims);
        let mut own = vec![Vec::new(); classes];
        for (i, &label) in self.gradients.labels.iter().enumerate() {
            own[label].push(i);
        }
        let mut out = Array2::zeros((classes, dims));
        let blocks = out.axis_chunks_iter_mut(Axis(0), BLOCK).enumerate();
        work(blocks, &mut vec![(); workers()], |(), (block, mut out)| {
            let (first, rows) = (block * BLOCK, out.nrows());
            let out = out.as_slice_mut().unwrap_or_default();
            let mut shares = vec![F::zero(); rows * n];
            for i in 0..n {
                for j in 0..rows {
                    shares[j * n + i] = self.share(i, first + j);
                }
            }
            let shares = Mat::new(&shares, rows, n);
            kernel::gemm(Level::detect(), MatMut::new(out, rows, dims, dims), false, shares, units);
            for (j, out) in (first..).zip(out.chunks_exact_mut(dims)) {
                self.finish_weight(j, &own[j], out);
            }
        });
        out
    }

    fn finish_weight(&self, j: usize, own: &[usize], out: &mut [F]) {
        let w = self.source.w(j);
        let inverse = self.source.w_norms[j].recip();
        kernel::project(out, w, F::narrow(inverse));
        let mut sum: Vec<f64> = out.iter().map(|v| v.widen()).collect();
        for &i in own {
            let pull = self.gradients.target_angles[i].widen() * inverse;
            self.pairs[i].add_tangent_w(&mut sum, self.source.x(i), w, -pull);
        }
        let unit: Vec<f64> = w.iter().map(|v| v.widen() * inverse).collect();
        kernel::add_scaled(&mut sum, 1.0, &unit, self.gradients.weight_norms[j].widen());
        for (out, sum) in out.iter_mut().zip(sum) {
            *out = F::narrow(sum);
        }
    }
}
