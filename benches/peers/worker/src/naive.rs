//! The step as one would first write it with ndarray: every intermediate array made in full.

use ndarray::{Array1, Array2, ArrayView2, Axis, Zip};

use crate::{Competitor, Data, MARGIN, Result, SCALE, normalize, write_gradients};

pub struct Naive {
    data: Data<f32>,
    dx: Array2<f32>,
    dw: Array2<f32>,
}

impl Naive {
    pub fn new(data: Data<f32>) -> Self {
        let (dx, dw) = (Array2::zeros(data.x.dim()), Array2::zeros(data.w.dim()));
        Self { data, dx, dw }
    }
}

/// The gradient with respect to the rows, from that with respect to their directions.
fn through_norm(grad: Array2<f32>, unit: ArrayView2<f32>, norms: &[f32]) -> Array2<f32> {
    let mut grad = grad;
    Zip::from(grad.rows_mut()).and(unit.rows()).and(norms).for_each(|mut grad, unit, &norm| {
        let radial = grad.dot(&unit);
        grad.scaled_add(-radial, &unit);
        grad /= norm;
    });
    grad
}

impl Competitor for Naive {
    fn step(&mut self) -> Result<f64> {
        let (scale, sin_m, cos_m) = (SCALE as f32, MARGIN.sin() as f32, MARGIN.cos() as f32);
        let samples = self.data.labels.len() as f32;
        let (x, x_norms) = normalize(self.data.x.view());
        let (w, w_norms) = normalize(self.data.w.view());

        let cos = x.dot(&w.t());
        let mut logits = &cos * scale;
        let mut slopes = Vec::with_capacity(self.data.labels.len());
        for (i, &y) in self.data.labels.iter().enumerate() {
            let cos = cos[[i, y]];
            let sin = (1.0 - cos * cos).sqrt();
            logits[[i, y]] = scale * (cos * cos_m - sin * sin_m);
            slopes.push(cos_m + sin_m * cos / sin);
        }

        let max = logits.map_axis(Axis(1), |row| row.fold(f32::MIN, |a, &b| a.max(b)));
        let exp = (&logits - &max.view().insert_axis(Axis(1))).mapv(f32::exp);
        let sum = exp.sum_axis(Axis(1));
        let targets: Array1<f32> =
            self.data.labels.iter().enumerate().map(|(i, &y)| logits[[i, y]]).collect();
        let losses = &max + &sum.mapv(f32::ln) - targets;

        let mut grad = exp / sum.insert_axis(Axis(1));
        for (i, (&y, slope)) in self.data.labels.iter().zip(slopes).enumerate() {
            grad[[i, y]] = (grad[[i, y]] - 1.0) * slope;
        }
        grad *= scale / samples;

        self.dx = through_norm(grad.dot(&w), x.view(), &x_norms);
        self.dw = through_norm(grad.t().dot(&x), w.view(), &w_norms);
        Ok(f64::from(losses.sum() / samples))
    }

    fn save(&self, prefix: &str) -> Result<()> {
        write_gradients(prefix, &self.dx, &self.dw)
    }
}
