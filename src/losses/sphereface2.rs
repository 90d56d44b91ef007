use super::*;

hyper_parameters! {
    /// SphereFace2: one logistic loss for each pair of an embedding and a class, in place of a softmax
    /// over the classes.
    ///
    /// ```text
    /// L_i = λ·log(1 + e^{−(s·f(θ_iy) + b)}) + (1 − λ)·Σ_{j≠y} log(1 + e^{s·h(θ_ij) + b})
    ///
    /// f = g(cos θ) − m          h = g(cos θ) + m           `new`, type C
    /// f = g(ψ(θ + m))           h = g(cos(θ − m))          `angular`, type A
    /// g(c) = 2·((1 + c)/2)^t − 1
    /// ```
    ///
    /// ψ is the [monotone cosine](crate::losses::Continuation::Monotone); where it is below −1, g stays
    /// at −1. Every pair is judged by itself, as verification does it: no class has to win over all
    /// others, and a wrong label disturbs two pairs, not a whole softmax.
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct SphereFace2 {
        kind: MarginKind = MarginKind::Cosine, any, "kind of margin", "`Cosine` is C, `Angular` A";
        s: f64 = 32.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        m: f64 = 0.2, [kind] of "scale s, then margin m", "margin m", "0.3 in fine-tuning";
        lambda: f64 = 0.7, ("in (0, 1)", |x| x > 0.0 && x < 1.0),
            "weight lambda of the own class", "that of the others is 1 − λ" => with_lambda;
        t: f64 = 3.0, "finite and >= 1", "exponent t",
            "spreads the similarities; 1 leaves them" => with_t;
        b: f64 = 0.0, "finite", "bias b", "one number for all classes, learned" => with_bias;
    }
    /// Begin with `b` = [`starting_bias`](Self::starting_bias) and learn it with the derivative
    /// [`Forward::bias_gradient`](crate::Forward::bias_gradient), or keep it.
    /// [`Head::forward_backward`](crate::Head::forward_backward) reads the class weights once: there is
    /// no sum over the classes to wait for. [`Head::step`](crate::Head::step) reads them twice, and
    /// updates them the second time. Negatives of type A at a small angle θ
    /// to the embedding have gradients that are right to ε/θ² of their bound, for the cosine, in `F`, no
    /// longer holds the angle.
    ///
    /// Neither label smoothing nor a filter can be around it, and a sample of classes has no correction:
    /// a step is refused with [`Error::Unsupported`].
    ///
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{Batch, Head, SphereFace2};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[3.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let loss = SphereFace2::new(8.0, 0.2)?.with_bias(1.0)?;
    /// let forward = Head::new(loss).forward(&Batch::new(&x, &w, &[0]))?;
    /// // g(1) = 1 and g(0) = −0.75
    /// let expected = 0.7 * (-7.4_f64).exp().ln_1p() + 0.3 * (-3.4_f64).exp().ln_1p();
    /// approx::assert_relative_eq!(forward.losses[0], expected, epsilon = 1e-15);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Wen et al., *SphereFace2: Binary Classification is All You Need for Deep Face
    /// Recognition* (ICLR 2022, arXiv 2108.01513), eq. 5; s, m, λ and t as in WeSpeaker.
}

impl SphereFace2 {
    /// Type C with scale `s` and cosine margin `m`, and λ = 0.7, t = 3, b = 0.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` in (−2, 2).
    pub fn new(s: f64, m: f64) -> Result<Self, Error> {
        SphereFace2 { s, m, ..Self::default() }.checked()
    }

    /// Type A with scale `s` and angular margin `m` in radians, usually 0.15.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` in [0, π).
    pub fn angular(s: f64, m: f64) -> Result<Self, Error> {
        SphereFace2 { kind: MarginKind::Angular, s, m, ..Self::default() }.checked()
    }

    /// The b to begin with: that of the smallest loss where all cosines are 0. Of fewer than two
    /// classes there is none: ∞.
    ///
    /// ```text
    /// z = λ/((1 − λ)(C − 1))     b = log 2z − s·h − log(1 − z + √((1 − z)² + 4z·e^{s·(f − h)}))
    /// ```
    ///
    /// ```
    /// use margin_softmax::SphereFace2;
    ///
    /// let b = SphereFace2::default().starting_bias(5);
    /// approx::assert_relative_eq!(b, 17.9364629605544, max_relative = 1e-14);
    /// ```
    pub fn starting_bias(&self, classes: usize) -> f64 {
        if classes < 2 {
            return f64::INFINITY;
        }
        let right = Angle::RIGHT;
        let own = self.s * self.target(&right).value;
        let other = self.s * self.form().negative(&right);
        let z = self.lambda / ((1.0 - self.lambda) * (classes - 1) as f64);
        let product = 4.0 * z * (own - other).exp();
        let root = (1.0 - z).hypot(product.sqrt());
        if z <= 1.0 {
            return (2.0 * z).ln() - other - (1.0 - z + root).ln();
        }
        // The same without the cancellation: 1 − z + root = 4z·e^{own − other}/(root + z − 1).
        (root + z - 1.0).ln() - 2.0_f64.ln() - own
    }

    fn form(&self) -> BinaryForm {
        let (angle, shift) = self.kind.margins(self.m);
        BinaryForm::new(self.lambda, 1.0 - self.lambda, self.b).with_negatives(self.t, angle, shift)
    }
}

impl MarginLoss for SphereFace2 {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    fn target(&self, angle: &Angle) -> Target {
        let (angular, cosine) = self.kind.margins(self.m);
        let target = stretched(with_margins(angle, angular, 0.0), self.t);
        Target { value: target.value - cosine, ..target }
    }

    fn binary(&self) -> Option<BinaryForm> {
        Some(self.form())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starting_bias_has_the_smallest_loss_at_right_angles() {
        let loss = SphereFace2::new(40.0, 0.4).unwrap();
        let expected = 5.58136511498732;
        assert!((loss.starting_bias(10575) / expected - 1.0).abs() < 1e-13);
        for loss in [SphereFace2::default(), SphereFace2::angular(8.0, 0.15).unwrap()] {
            for classes in [2, 3, 5, 100_000] {
                let b = loss.starting_bias(classes);
                let form = loss.clone().with_bias(b).unwrap().form();
                let logit = |value: f64| loss.s * value + b;
                let [own, other] =
                    [loss.target(&Angle::RIGHT).value, form.negative(&Angle::RIGHT)].map(logit);
                let sigmoid = 1.0 / (1.0 + (-other).exp());
                let sum = sigmoid * (classes - 1) as f64;
                let own = loss.lambda / (1.0 + own.exp());
                assert!((form.weights().1 * sum / own - 1.0).abs() < 1e-11, "{loss:?}");
            }
        }
        assert_eq!(loss.starting_bias(1), f64::INFINITY);
    }
}
