use super::*;

hyper_parameters! {
    /// MagFace: an angular margin that grows with the norm of the embedding, and a penalty that
    /// makes large norms worth having: the norm becomes a measure of quality.
    ///
    /// ```text
    /// z_iy  = s · ψ(θ_iy + m(a_i))                                own class y
    /// z_ij  = s · cos θ_ij                                        every other class j
    /// L_i   = log(1 + e^{S_i − z_iy}) + λ_g · (a_i / u_a² + 1 / a_i)
    /// m(a)  = l_m + (u_m − l_m) · (a − l_a) / (u_a − l_a)     a_i = ‖x_i‖ clipped to [l_a, u_a]
    /// ```
    ///
    /// ψ is the cosine up to π and continues beyond π as the [`Continuation`] sets. The gradient
    /// flows through margin and penalty to the norm, where it lies in [l_a, u_a].
    ///
    /// Take it when the norm of an embedding shall tell how good its image is, to sort out the
    /// worst or to weigh them when templates are pooled.
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct MagFace {
        s: f64 = 64.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        norms: (f64, f64) = (10.0, 110.0), (check_norms "finite, 0 < l_a < u_a"),
            "norms (l_a, u_a)", "between them the margin grows";
        margins: (f64, f64) = (0.45, 0.8), (check_margins "in [0, π) radians, l_m ≤ u_m"),
            "margins (l_m, u_m)", "those at these norms";
        lambda_g: f64 = 35.0, "finite and >= 0", "penalty lambda_g", "the weight of the penalty";
        continuation: Continuation = Continuation::Monotone, any, "continuation where `θ + m > π`"
            => with_continuation;
    }
    /// The penalty has to outweigh the margin: the loss has a single best norm if λ_g is at least
    /// [`smallest_lambda`](Self::smallest_lambda), 22.6 at the defaults. A smaller one is accepted.
    ///
    /// The published code has the easy margin on by default, no margin where cos θ ≤ 0, which jumps
    /// there: [`Continuation::EasyMargin`]. It clips cosines to [−1, 1] only.
    ///
    /// **Errors**: [`new`](Self::new) returns [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{MagFace, MarginLoss};
    /// use margin_softmax::custom::{Angle, Sample};
    ///
    /// let loss = MagFace::new(64.0, (10.0, 110.0), (0.45, 0.8), 35.0)?;
    /// assert_eq!(loss, MagFace::default());
    /// assert!(loss.lambda_g() > loss.smallest_lambda());
    /// let at_norm = |norm| loss.target_of(&Sample::new(Angle::from_theta(0.5), norm, 0, 0));
    /// approx::assert_relative_eq!(at_norm(5.0).value, 0.95_f64.cos(), epsilon = 1e-15);
    /// approx::assert_relative_eq!(at_norm(60.0).value, 1.125_f64.cos(), epsilon = 1e-15);
    /// assert!(at_norm(60.0).norm_slope < 0.0 && at_norm(5.0).norm_slope == 0.0);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Meng et al., *MagFace: A Universal Representation for Face Recognition and
    /// Quality Assessment* (CVPR 2021), section 3 and the appendix on convergence; the defaults are
    /// those of the authors' code.
}

impl MagFace {
    /// The loss with scale `s`, whose margin grows over `norms` from the first to the second of
    /// `margins`, in radians, and whose penalty has the weight `lambda_g`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0, the norms are finite, positive and
    /// ascending, the margins in [0, π) and in order, and `lambda_g` is finite and ≥ 0.
    pub fn new(
        s: f64,
        norms: (f64, f64),
        margins: (f64, f64),
        lambda_g: f64,
    ) -> Result<Self, Error> {
        MagFace { s, norms, margins, lambda_g, ..Self::default() }.checked()
    }

    fn check_norms(&self) -> Result<f64, Error> {
        let (low, high) = self.norms;
        check!("smallest norm l_a", low, "finite and > 0")?;
        let valid = high.is_finite() && high > low;
        let expected = "finite and above the smallest norm l_a";
        Error::check_parameter("largest norm u_a", high, expected, valid)
    }

    fn check_margins(&self) -> Result<f64, Error> {
        let check =
            |name, m| check!(name, m, "in [0, π) radians", "scale s, then norms, then margins");
        let (low, high) = self.margins;
        check("smallest margin l_m", low)?;
        check("largest margin u_m", high)?;
        let expected = "no less than the smallest margin l_m";
        Error::check_parameter("largest margin u_m", high, expected, low <= high)
    }

    /// The smallest λ_g for which the paper proves that the loss has a single best norm:
    /// `s · K · u_a² · l_a² / (u_a² − l_a²)` with `K = (u_m − l_m) / (u_a − l_a)`.
    pub fn smallest_lambda(&self) -> f64 {
        let (low, high) = self.norms;
        let (margin, ratio, gap) = (self.margins.1 - self.margins.0, low / high, high - low);
        // u_a²·l_a²/(u_a² − l_a²)/(u_a − l_a) from ratios: no norm is squared.
        let growth = ratio / (gap / high).powi(2) / (1.0 + ratio);
        self.s * margin * growth * low
    }
}

impl MarginLoss for MagFace {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    /// That of a sample whose norm is in the middle.
    fn target(&self, angle: &Angle) -> Target {
        self.continuation.target(angle, 1.0, 0.5 * (self.margins.0 + self.margins.1))
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let (low, high) = self.norms;
        let norm = sample.norm.clamp(low, high);
        let (rise, width) = (self.margins.1 - self.margins.0, high - low);
        let margin = self.margins.0 + rise * ((norm - low) / width);
        let target: SampleTarget = self.continuation.target(&sample.angle, 1.0, margin).into();
        let penalty = self.lambda_g * (norm / high) / high + self.lambda_g / norm;
        if norm != sample.norm {
            return target.with_penalty(penalty, 0.0);
        }
        let by_margin = self.continuation.slope_by_margin(&sample.angle, margin);
        // 1/u_a² − 1/a², without the square of a norm that may be beyond any range.
        let fall = (high - norm) / high * (1.0 + norm / high);
        let penalty_slope = -(self.lambda_g * fall / norm) / norm;
        target.with_norm_slope(by_margin * rise / width).with_penalty(penalty, penalty_slope)
    }
}
