//! The logits of a binary loss: a logistic for each pair.

use margin_softmax::offload::BinaryLogits;
use ndarray::Array2;
use num_traits::Float;

use crate::operations::{Binary, Map, Operations};
use crate::options::number;

/// Turns plain logits into those of a binary loss.
pub(crate) struct Logistic<D: Operations> {
    device: D,
    logits: BinaryLogits<D::Float>,
    /// A 0 for each sample (N, 1).
    zeros: D::Matrix,
}

impl<D: Operations> Logistic<D> {
    /// Of so many samples.
    pub fn new(
        device: &D,
        logits: BinaryLogits<D::Float>,
        samples: usize,
    ) -> Result<Self, D::Error> {
        let zeros = device.upload(Array2::zeros((samples, 1)))?;
        Ok(Logistic { device: device.clone(), logits, zeros })
    }

    /// The logits of plain ones, and their derivatives by these.
    pub fn logits(&self, plain: D::Matrix) -> Result<(D::Matrix, D::Matrix), D::Error> {
        let d = &self.device;
        let (s, t) = (number(self.logits.scale), number(self.logits.exponent));
        let (cosines, slopes) =
            self.turned(d.map(plain, Map::Affine(number(self.logits.cosine), 0.0))?)?;
        let u = d.map(d.map(cosines, Map::Affine(0.5, 0.5))?, Map::AtLeast(0.0))?;
        let power = self.power(u.clone(), t - 1.0)?;
        let z = d.combine(u, Binary::Multiply, &power)?;
        let z = d.map(z, Map::Affine(2.0 * s, number(self.logits.offset) - s))?;
        let slopes = d.combine(slopes, Binary::Multiply, &d.map(power, Map::Affine(t, 0.0))?)?;
        Ok((z, slopes))
    }

    /// u^t. A graphics card's power is less exact than the few products of a small integer.
    fn power(&self, u: D::Matrix, t: f64) -> Result<D::Matrix, D::Error> {
        let d = &self.device;
        if t.fract() != 0.0 || !(1.0..8.0).contains(&t) {
            return d.map(u, Map::Power(t));
        }
        (1..t as usize).try_fold(u.clone(), |power, _| d.combine(power, Binary::Multiply, &u))
    }

    /// cos(θ − m) of cos θ, and its derivative.
    fn turned(&self, c: D::Matrix) -> Result<(D::Matrix, D::Matrix), D::Error> {
        let d = &self.device;
        let [cos, sin] = self.logits.margin.map(number);
        if sin == 0.0 {
            let ones = d.map(c.clone(), Map::Affine(0.0, 1.0))?;
            return Ok((c, ones));
        }
        let below = d.map(c.clone(), Map::Affine(-1.0, 1.0))?;
        let square =
            d.combine(below, Binary::Multiply, &d.map(c.clone(), Map::Affine(1.0, 1.0))?)?;
        // At θ = 0 and π, and where rounding left |c| > 1, the angle has no derivative by the cosine.
        let tiny = number(D::Float::min_positive_value());
        let none = d.above(&d.map(square.clone(), Map::Affine(-1.0, tiny))?, &self.zeros)?;
        let sine = d.map(d.map(square, Map::AtLeast(tiny))?, Map::Root)?;
        let across = d.combine(c.clone(), Binary::Divide, &sine)?;
        let across = d.map(d.fill(across, &none, 0.0)?, Map::Affine(-sin, cos))?;
        let sine = d.map(d.fill(sine, &none, 0.0)?, Map::Affine(sin, 0.0))?;
        Ok((d.combine(d.map(c, Map::Affine(cos, 0.0))?, Binary::Add, &sine)?, across))
    }

    /// e^−|z|.
    fn small(&self, z: D::Matrix) -> Result<D::Matrix, D::Error> {
        let d = &self.device;
        d.map(d.map(d.map(z, Map::Abs)?, Map::Affine(-1.0, 0.0))?, Map::Exp)
    }

    /// 1/(1 + e^−z).
    pub fn sigmoid(&self, z: D::Matrix) -> Result<D::Matrix, D::Error> {
        let (d, e) = (&self.device, self.small(z.clone())?);
        let share = d.map(d.map(e.clone(), Map::Affine(1.0, 1.0))?, Map::Reciprocal)?;
        let small = d.combine(e, Binary::Multiply, &share)?;
        d.replace(small, &d.above(&z, &self.zeros)?, &share)
    }

    /// log(1 + e^z).
    pub fn softplus(&self, z: D::Matrix) -> Result<D::Matrix, D::Error> {
        let (d, e) = (&self.device, self.small(z.clone())?);
        d.combine(d.map(z, Map::AtLeast(0.0))?, Binary::Add, &self.ln_1p(e)?)
    }

    /// log(1 + e) for e in [0, 1] as 2·artanh(e/(2 + e)), by its series, as the core has it: frameworks
    /// lack a function for it.
    fn ln_1p(&self, e: D::Matrix) -> Result<D::Matrix, D::Error> {
        let d = &self.device;
        let terms = if size_of::<D::Float>() == size_of::<f32>() { 8 } else { 16 };
        let half = d.combine(e.clone(), Binary::Divide, &d.map(e, Map::Affine(1.0, 2.0))?)?;
        let square = d.map(half.clone(), Map::Square)?;
        let mut sum = d.map(half.clone(), Map::Affine(0.0, 0.0))?;
        for k in (0..terms).rev() {
            sum = d.combine(sum, Binary::Multiply, &square)?;
            sum = d.map(sum, Map::Affine(1.0, f64::from(2 * k + 1).recip()))?;
        }
        d.combine(sum, Binary::Multiply, &d.map(half, Map::Affine(2.0, 0.0))?)
    }
}
