//! Numbers that look random and are the same in every run.

use ndarray::{Array1, Array2};

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.bits() >> 11) as f64 * (-53.0_f64).exp2()
    }

    /// Between `low` and `high`, each decade as likely as another.
    pub fn decades(&mut self, low: f64, high: f64) -> f64 {
        self.uniform(low.ln(), high.ln()).exp()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub fn vector(&mut self, len: usize) -> Array1<f64> {
        Array1::from_shape_simple_fn(len, || self.uniform(-1.0, 1.0))
    }

    pub fn matrix(&mut self, rows: usize, columns: usize) -> Array2<f64> {
        Array2::from_shape_simple_fn((rows, columns), || self.uniform(-1.0, 1.0))
    }

    pub fn labels(&mut self, samples: usize, classes: usize) -> Vec<usize> {
        (0..samples).map(|_| self.below(classes)).collect()
    }

    /// A unit vector.
    pub fn unit(&mut self, len: usize) -> Array1<f64> {
        loop {
            let v = self.vector(len);
            let norm = v.dot(&v).sqrt();
            if norm > 0.1 {
                return v / norm;
            }
        }
    }

    /// A unit vector at right angles to the unit vector `v`, which has at least two entries.
    pub fn orthogonal(&mut self, v: &Array1<f64>) -> Array1<f64> {
        loop {
            let mut t = self.unit(v.len());
            for _ in 0..2 {
                let along = t.dot(v);
                t.scaled_add(-along, v);
            }
            let norm = t.dot(&t).sqrt();
            if norm > 0.1 {
                return t / norm;
            }
        }
    }

    /// A vector of length `norm` at the angle `theta` to `v`.
    pub fn at_angle(&mut self, v: &Array1<f64>, theta: f64, norm: f64) -> Array1<f64> {
        let unit = v / v.dot(v).sqrt();
        let mut out = &unit * (norm * theta.cos());
        out.scaled_add(norm * theta.sin(), &self.orthogonal(&unit));
        out
    }
}
