//! The figures, computed from the steps.
//!
//! Inside a coarse step the ROC is unknown, but it rises monotonically from the point above the step
//! to the point below. Each bound is the largest distance that this leaves.

use crate::cost::DetectionCost;
use crate::error::Error;
use crate::estimate::{EqualError, Estimate, MinimumCost, OperatingPoint};
use crate::steps::{Accepted, Steps, Walked};
use crate::threshold::Threshold;

/// Refuses a number of false accepts that cannot be expected.
pub(crate) fn check_minimum_false_accepts(minimum: f64) -> Result<f64, Error> {
    let valid = minimum.is_finite() && minimum >= 0.0;
    Error::check_parameter("minimum false accepts", minimum, "finite and at least 0", valid)
}

/// The least number of impostors that let one expect so many false accepts, and 1 at least.
fn required_impostors(far: f64, minimum: f64) -> u64 {
    // The quotient of 10 and a decimal FAR may round up past the integer that it stands for. That of
    // a FAR of 0 is infinite, and becomes the largest integer; that of 0 and 0 is NaN, and becomes 0.
    ((minimum / far * (1.0 - 1e-12)).ceil() as u64).max(1)
}

impl Steps {
    /// A figure with the numbers of pairs that it rests on.
    pub fn estimate(&self, value: f64, bound: f64) -> Estimate {
        Estimate { value, bound, genuine: self.genuine(), impostors: self.impostors() }
    }

    /// Area under the ROC: the chance that a genuine pair scores higher than an impostor pair, a tie
    /// counting ½. All ties inside a coarse step may be wins, or losses.
    pub fn auc(&self) -> Estimate {
        let (mut twice, mut unordered) = (0_u128, 0_u128);
        for Walked { step, before, after, .. } in self.walk() {
            twice += u128::from(step.impostors) * u128::from(before.genuine + after.genuine);
            if step.coarse {
                unordered += u128::from(step.impostors) * u128::from(step.genuine);
            }
        }
        let all = 2.0 * (u128::from(self.genuine()) * u128::from(self.impostors())) as f64;
        self.estimate(twice as f64 / all, unordered as f64 / all)
    }

    /// The equal error rate, and the step in which the error rates cross.
    pub fn equal_error(&self) -> (EqualError, usize) {
        // The last step accepts all pairs, where FAR = 1 and FRR = 0: one is always found.
        let found = self.walk().find(|walked| self.gap(walked.after) <= 0);
        let walked = found.unwrap_or_else(|| self.first());
        (self.crossing(&walked), walked.index)
    }

    /// FRR − FAR, times both numbers of pairs: exact in integers. The last step makes it negative.
    fn gap(&self, at: Accepted) -> i128 {
        let (genuine, impostors) = (i128::from(self.genuine()), i128::from(self.impostors()));
        (genuine - i128::from(at.genuine)) * impostors - i128::from(at.impostors) * genuine
    }

    /// Where the line through a step has FAR = FRR.
    fn crossing(&self, &Walked { step, before, after, .. }: &Walked) -> EqualError {
        let (above, below) = (self.gap(before) as f64, -self.gap(after) as f64);
        let share = above / (above + below);
        let rate = self.far(before) + share * (self.far(after) - self.far(before));
        let lowest = self.far(before).max(self.frr(after));
        let highest = self.far(after).min(self.frr(before));
        let bound = if step.coarse { (highest - rate).max(rate - lowest).max(0.0) } else { 0.0 };
        let threshold = Threshold::from_cosine(step.threshold);
        let (far, frr) = (self.far(after), self.frr(after));
        let (genuine, impostors) = (self.genuine(), self.impostors());
        EqualError { rate, bound, threshold, far, frr, genuine, impostors }
    }

    /// Refuses a FAR outside [0, 1] and one that so few impostors cannot show.
    pub fn check_far(&self, far: f64) -> Result<(), Error> {
        Error::check_parameter("FAR", far, "in [0, 1]", (0.0..=1.0).contains(&far))?;
        let required = required_impostors(far, self.minimum_false_accepts());
        if self.impostors() < required {
            return Err(Error::TooFewImpostors { far, impostors: self.impostors(), required });
        }
        Ok(())
    }

    /// The point of the lowest threshold with at most this FAR, and the steps on both sides of it.
    pub fn operating_point(&self, far: f64) -> (OperatingPoint, Vec<usize>) {
        let allowed = self.allowed(far);
        let (mut at, mut threshold, mut next) = (Accepted::default(), Threshold::REJECT_ALL, None);
        let mut around = Vec::new();
        for walked in self.walk() {
            if walked.after.impostors > allowed {
                next = Some(walked);
                around.push(walked.index);
                break;
            }
            at = walked.after;
            around.clear();
            around.push(walked.index);
            threshold = Threshold::from_cosine(walked.step.threshold);
        }
        let hidden = next.filter(|next| next.step.coarse).map_or(0, |next| next.step.genuine);
        (self.point(threshold, at, hidden), around)
    }

    /// The point of a threshold of any other pairs; the steps are single scores.
    pub fn at(&self, threshold: Threshold) -> OperatingPoint {
        let accepts = |walked: &Walked| threshold.accepts(walked.step.threshold);
        let accepted = self.walk().take_while(accepts).last().map(|walked| walked.after);
        self.point(threshold, accepted.unwrap_or_default(), 0)
    }

    fn point(&self, threshold: Threshold, at: Accepted, hidden: u64) -> OperatingPoint {
        OperatingPoint {
            threshold,
            far: self.far(at),
            tar: self.tar(at),
            tar_bound: hidden as f64 / self.genuine() as f64,
            false_accepts: at.impostors,
            genuine: self.genuine(),
            impostors: self.impostors(),
        }
    }

    /// The largest number of false accepts whose rate, as a rounded quotient, is at most `far`.
    fn allowed(&self, far: f64) -> u64 {
        let rate = |false_accepts: u64| false_accepts as f64 / self.impostors() as f64;
        let mut allowed = (far * self.impostors() as f64) as u64;
        while allowed < self.impostors() && rate(allowed + 1) <= far {
            allowed += 1;
        }
        while allowed > 0 && rate(allowed) > far {
            allowed -= 1;
        }
        allowed
    }

    /// The least cost over all thresholds, and the steps that it and its threshold rest on.
    ///
    /// `cost(missed, false_accepts)` must grow with both.
    pub fn least_cost(&self, cost: impl Fn(u64, u64) -> f64) -> (MinimumCost, Vec<usize>) {
        let at = |point: Accepted| cost(self.genuine() - point.genuine, point.impostors);
        let mut least = MinimumCost {
            cost: at(Accepted::default()),
            bound: 0.0,
            threshold: Threshold::REJECT_ALL,
            far: 0.0,
            frr: 1.0,
            genuine: self.genuine(),
            impostors: self.impostors(),
        };
        let mut steps = Vec::new();
        for Walked { index, step, after, .. } in self.walk() {
            if at(after) < least.cost {
                steps = vec![index];
                let threshold = Threshold::from_cosine(step.threshold);
                let (far, frr) = (self.far(after), self.frr(after));
                least = MinimumCost { cost: at(after), threshold, far, frr, ..least };
            }
        }
        // No threshold inside a step misses less than its lower end or accepts less than its upper.
        for Walked { index, step, before, after } in self.walk().filter(|w| w.step.coarse) {
            let lowest = cost(self.genuine() - after.genuine, before.impostors);
            if lowest < least.cost && step.genuine > 0 && step.impostors > 0 {
                steps.push(index);
                least.bound = least.bound.max(least.cost - lowest);
            }
        }
        (least, steps)
    }

    pub fn min_dcf(&self, detection: &DetectionCost) -> (MinimumCost, Vec<usize>) {
        let (genuine, impostors) = (self.genuine() as f64, self.impostors() as f64);
        self.least_cost(|missed, false_accepts| {
            detection.normalized(missed as f64 / genuine, false_accepts as f64 / impostors)
        })
    }

    /// The least share of wrong decisions over all thresholds.
    pub fn least_error(&self) -> (MinimumCost, Vec<usize>) {
        let pairs = (self.genuine() + self.impostors()) as f64;
        self.least_cost(|missed, false_accepts| (missed + false_accepts) as f64 / pairs)
    }
}
