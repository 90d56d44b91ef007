use crate::error::Error;

/// The costs of a detector's errors, as speaker recognition evaluations set them.
///
/// ```text
/// DCF(t) = c_miss·p_target·FRR(t) + c_fa·(1 − p_target)·FAR(t)
/// normalized: divided by min(c_miss·p_target, c_fa·(1 − p_target))
/// ```
///
/// The divisor is the cost of the better of the two detectors that do not look at the score: the
/// one that accepts all pairs and the one that rejects all.
///
/// | parameter | default | range | purpose |
/// |---|---|---|---|
/// | `p_target` | 0.01 | in (0, 1) | prior probability of a genuine pair |
/// | `c_miss` | 1 | finite, > 0 | cost of a rejected genuine pair |
/// | `c_fa` | 1 | finite, > 0 | cost of an accepted impostor pair |
///
/// ```
/// use margin_softmax_evaluation::DetectionCost;
///
/// let cost = DetectionCost::default();
/// assert_eq!(cost, DetectionCost::new(0.01, 1.0, 1.0)?);
/// assert!(DetectionCost::new(1.0, 1.0, 1.0).is_err());
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
///
/// **Source**: NIST 2016 Speaker Recognition Evaluation Plan; the default is one of its two priors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetectionCost {
    p_target: f64,
    c_miss: f64,
    c_fa: f64,
}

impl DetectionCost {
    /// The costs with these parameters.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a parameter outside its range, or where the two weights differ by
    /// so much that their quotient is not finite.
    pub fn new(p_target: f64, c_miss: f64, c_fa: f64) -> Result<Self, Error> {
        let prior = p_target > 0.0 && p_target < 1.0;
        Error::check_parameter("p_target", p_target, "in (0, 1)", prior)?;
        for (name, cost) in [("c_miss", c_miss), ("c_fa", c_fa)] {
            let valid = cost.is_finite() && cost > 0.0;
            Error::check_parameter(name, cost, "finite and > 0", valid)?;
        }
        let ratio = c_miss * p_target / (c_fa * (1.0 - p_target));
        let valid = ratio.is_normal() && ratio.recip().is_normal();
        let expected = "such that c_miss·p_target / (c_fa·(1 − p_target)) is a normal number";
        Error::check_parameter("c_miss", c_miss, expected, valid)?;
        Ok(DetectionCost { p_target, c_miss, c_fa })
    }

    /// The prior probability of a genuine pair.
    pub fn p_target(&self) -> f64 {
        self.p_target
    }

    /// The cost of a rejected genuine pair.
    pub fn c_miss(&self) -> f64 {
        self.c_miss
    }

    /// The cost of an accepted impostor pair.
    pub fn c_fa(&self) -> f64 {
        self.c_fa
    }

    /// The normalized cost of these error rates.
    ///
    /// ```
    /// use margin_softmax_evaluation::DetectionCost;
    ///
    /// assert_eq!(DetectionCost::default().normalized(1.0, 0.0), 1.0); // rejects all
    /// ```
    pub fn normalized(&self, frr: f64, far: f64) -> f64 {
        let ratio = self.c_miss * self.p_target / (self.c_fa * (1.0 - self.p_target));
        if ratio <= 1.0 { frr + far / ratio } else { ratio * frr + far }
    }
}

impl Default for DetectionCost {
    fn default() -> Self {
        DetectionCost { p_target: 0.01, c_miss: 1.0, c_fa: 1.0 }
    }
}
