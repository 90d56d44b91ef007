use super::*;

/// Keeps the division defined where all norms of a batch are equal; the published value.
const EPSILON: f64 = 1e-3;
/// Norms are read as if they lay between these; the published values.
const NORMS: (f64, f64) = (1e-3, 100.0);

hyper_parameters! {
    /// AdaFace: a margin that follows the quality of the image, read from the norm of its
    /// embedding: angular for small norms, in the cosine for large ones.
    ///
    /// ```text
    /// z_iy = s · (ψ(θ_iy − m·k_i) − m − m·k_i)               own class y
    /// z_ij = s · cos θ_ij                                    every other class j
    /// k_i  = clip(h · (‖x_i‖ − μ) / (σ + 0.001), −1, 1)      ‖x_i‖ clipped to [0.001, 100]
    /// ```
    ///
    /// ψ is the [monotone cosine](crate::losses::Continuation::Monotone). At k = −1 the loss is ArcFace, at
    /// k = 0 CosFace; at k = 1 the angular margin is negative and the cosine margin twice as large.
    /// A negative h is for embeddings whose norm grows as their image gets worse. As published, no
    /// gradient flows through k. μ and σ are running statistics of the norms,
    /// which [`observe`](Self::observe) moves and nothing else: a step leaves the loss as it is.
    ///
    /// Take it when the images are of mixed quality and the worst of them cannot be recognized at
    /// all: the loss then leans on the good ones.
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct AdaFace {
        s: f64 = 64.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        m: f64 = 0.4, ("in [0, 1): the cosine margin reaches 2m", |m| (0.0..1.0).contains(&m))
            of "scale s, then margin m, then concentration h", "margin m", "up to m in the angle";
        h: f64 = 0.333, "in [-1, 1]", "concentration h", "growth with the norm; 0 is CosFace";
        mean: f64 = 20.0, "finite and >= 0", "mean of the norms", "the running μ, a state";
        std: f64 = 100.0, "finite and >= 0", "std of the norms", "the running σ, a state";
        rate: f64 = 0.01, "in (0, 1]", "rate of the statistics", "the share of a batch in them"
            => with_rate;
    }
    /// The published class starts from the rate 1 (the statistics are those of the batch) and the
    /// published configuration sets 0.01. The published code clips cosines and angles to within
    /// 0.001 of their ends, which stops the gradient there; this crate does not.
    ///
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range, and
    /// [`observe`](Self::observe) refuses what is no norm.
    ///
    /// ```
    /// use margin_softmax::{AdaFace, Batch, Head};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[30.0, 4.0], [1.0, 9.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let mut head = Head::new(AdaFace::new(64.0, 0.4, 0.333)?.with_rate(0.5)?);
    /// let forward = head.forward(&Batch::new(&x, &w, &[0, 1]))?;
    /// // The next step measures norms by these too.
    /// head.loss_mut().observe(&forward.counted_norms())?;
    /// assert!(head.loss().std() < 100.0);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Kim et al., *AdaFace: Quality Adaptive Margin for Face Recognition* (CVPR 2022),
    /// section 3; μ and σ at the start and all constants are those of the authors' code.
}

impl AdaFace {
    /// The loss with scale `s`, margin `m` and concentration `h`, before any batch was observed.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0, `m` in [0, 1) and `h` in [-1, 1].
    pub fn new(s: f64, m: f64, h: f64) -> Result<Self, Error> {
        AdaFace { s, m, h, ..Self::default() }.checked()
    }

    /// Sets the running mean and standard deviation of the norms.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless both are finite and ≥ 0.
    pub fn with_statistics(self, mean: f64, std: f64) -> Result<Self, Error> {
        AdaFace { mean, std, ..self }.checked()
    }

    /// Moves the statistics towards those of a batch: μ ← rate·μ_batch + (1 − rate)·μ, and σ with
    /// the unbiased standard deviation; a single norm has none, so σ stays, and no norms change
    /// nothing. The published code does this before the step. On every rank of a class-parallel
    /// step, give the norms of the whole batch.
    ///
    /// Norms are clipped as in the loss. Those to observe are
    /// [`Forward::counted_norms`](crate::Forward::counted_norms), without samples that do not count.
    ///
    /// # Errors
    /// [`Error::NonFinite`] and [`Error::DegenerateNorm`] for a norm that is not finite, or
    /// negative; the statistics are then as they were.
    pub fn observe<F: Real>(&mut self, norms: &[F]) -> Result<(), Error> {
        check_finite("norms", &norms.into())?;
        if let Some(row) = norms.iter().position(|norm| *norm < F::zero()) {
            let (argument, norm) = ("norms", norms[row].widen());
            let (minimum, maximum) = (0.0, F::MAX);
            return Err(Error::DegenerateNorm { argument, row, norm, minimum, maximum });
        }
        if norms.is_empty() {
            return Ok(());
        }
        let clipped = || norms.iter().map(|norm| clip(norm.widen()));
        let count = norms.len() as f64;
        let mean = clipped().sum::<f64>() / count;
        if norms.len() > 1 {
            let squares: f64 = clipped().map(|norm| (norm - mean).powi(2)).sum();
            self.std = mixed(self.std, (squares / (count - 1.0)).sqrt(), self.rate);
        }
        self.mean = mixed(self.mean, mean, self.rate);
        Ok(())
    }

    /// The target of a sample of quality k.
    fn target_at(&self, angle: &Angle, k: f64) -> Target {
        with_margins(angle, -self.m * k, self.m + self.m * k)
    }
}

fn clip(norm: f64) -> f64 {
    norm.clamp(NORMS.0, NORMS.1)
}

impl MarginLoss for AdaFace {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    /// That of a sample whose norm is the mean: k = 0.
    fn target(&self, angle: &Angle) -> Target {
        self.target_at(angle, 0.0)
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let quality = self.h * (clip(sample.norm) - self.mean) / (self.std + EPSILON);
        self.target_at(&sample.angle, quality.clamp(-1.0, 1.0)).into()
    }
}
