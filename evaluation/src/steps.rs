//! Genuine and impostor pairs counted by score: what every figure is computed from.
//!
//! A step is a set of pairs that are accepted together. It holds either all pairs of one score, or,
//! in large sets, those of one bin of a histogram, which may have several scores. Counts at the ends
//! of a step are exact in both cases: a bin's lower edge is a threshold like any other.

use std::cmp::Ordering;

use crate::error::Error;

/// The pairs that are accepted once the threshold falls to `threshold`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    pub threshold: f64,
    pub genuine: u64,
    pub impostors: u64,
    /// Whether the step may hold several scores: it is a bin.
    pub coarse: bool,
}

/// How many pairs a threshold accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Accepted {
    pub genuine: u64,
    pub impostors: u64,
}

/// A step with what is accepted above it and with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walked {
    pub index: usize,
    pub step: Step,
    pub before: Accepted,
    pub after: Accepted,
}

/// All pairs, by descending score.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Steps {
    steps: Vec<Step>,
    genuine: u64,
    impostors: u64,
    /// False accepts that a FAR must let one expect.
    minimum_false_accepts: f64,
}

/// The default: `impostors · FAR ≥ 10`.
pub(crate) const MINIMUM_FALSE_ACCEPTS: f64 = 10.0;

impl Steps {
    /// The steps in descending order; refused without a genuine or without an impostor pair.
    pub fn new(steps: Vec<Step>) -> Result<Self, Error> {
        let genuine: u64 = steps.iter().map(|step| step.genuine).sum();
        let impostors: u64 = steps.iter().map(|step| step.impostors).sum();
        match (genuine, impostors) {
            (0, pairs) => Err(Error::NoGenuinePair { pairs }),
            (pairs, 0) => Err(Error::NoImpostorPair { pairs }),
            _ => Ok(Steps {
                steps,
                genuine,
                impostors,
                minimum_false_accepts: MINIMUM_FALSE_ACCEPTS,
            }),
        }
    }

    /// The steps of searches, with `known` probes; no threshold accepts those of another rank.
    pub fn of_searches(steps: Vec<Step>, known: u64) -> Self {
        let impostors = steps.iter().map(|step| step.impostors).sum();
        let minimum_false_accepts = MINIMUM_FALSE_ACCEPTS;
        Steps { steps, genuine: known, impostors, minimum_false_accepts }
    }

    /// Sets how many false accepts a FAR must let one expect.
    pub fn with_minimum_false_accepts(self, minimum_false_accepts: f64) -> Self {
        Steps { minimum_false_accepts, ..self }
    }

    pub fn minimum_false_accepts(&self) -> f64 {
        self.minimum_false_accepts
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub fn genuine(&self) -> u64 {
        self.genuine
    }

    pub fn impostors(&self) -> u64 {
        self.impostors
    }

    pub fn coarse(&self) -> bool {
        self.steps.iter().any(|step| step.coarse)
    }

    /// The first step: there is one, since there are pairs.
    pub fn first(&self) -> Walked {
        let step = self.steps[0];
        let after = Accepted { genuine: step.genuine, impostors: step.impostors };
        Walked { index: 0, step, before: Accepted::default(), after }
    }

    /// The steps from the highest score to the lowest.
    pub fn walk(&self) -> impl Iterator<Item = Walked> {
        self.steps.iter().enumerate().scan(Accepted::default(), |accepted, (index, &step)| {
            let before = *accepted;
            accepted.genuine += step.genuine;
            accepted.impostors += step.impostors;
            Some(Walked { index, step, before, after: *accepted })
        })
    }

    pub fn far(&self, accepted: Accepted) -> f64 {
        accepted.impostors as f64 / self.impostors as f64
    }

    pub fn tar(&self, accepted: Accepted) -> f64 {
        accepted.genuine as f64 / self.genuine as f64
    }

    pub fn frr(&self, accepted: Accepted) -> f64 {
        (self.genuine - accepted.genuine) as f64 / self.genuine as f64
    }
}

/// One step per distinct score. The scores, and whether each is genuine, must be in the order of
/// [`descending`].
pub(crate) fn distinct(pairs: impl Iterator<Item = (f64, bool)>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (score, genuine) in pairs {
        // Zeros of both signs are one score; `+ 0.0` makes the negative one positive.
        let threshold = score + 0.0;
        if steps.last().is_none_or(|last| last.threshold != threshold) {
            steps.push(Step { threshold, genuine: 0, impostors: 0, coarse: false });
        }
        if let Some(last) = steps.last_mut() {
            last.genuine += u64::from(genuine);
            last.impostors += u64::from(!genuine);
        }
    }
    steps
}

/// The order of finite scores from high to low; zeros of both signs are equal.
pub(crate) fn descending(a: f64, b: f64) -> Ordering {
    (b + 0.0).total_cmp(&(a + 0.0))
}
