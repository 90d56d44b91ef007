//! The formulas of the updates, entry by entry, and bounds on their results.

use super::Magnitudes;
use crate::error::{Error, in_range};
use crate::kernel::{self, Level, Real, UpdateEntry};

/// The hyper-parameters of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    Sgd(Descent),
    AdamW(Adam),
}

impl Rule {
    /// How many numbers of state a weight has.
    pub fn moments(self) -> usize {
        match self {
            Rule::Sgd(rule) => usize::from(rule.momentum > 0.0),
            Rule::AdamW(_) => 2,
        }
    }

    /// Whether a row's update depends on how often the row was updated.
    pub fn counts_steps(self) -> bool {
        matches!(self, Rule::AdamW(_))
    }

    /// The update of the entries of a row that is updated for the `step`-th time.
    pub fn entry(self, step: u64) -> Entry {
        match self {
            Rule::Sgd(rule) if rule.momentum > 0.0 => Entry::Momentum(rule),
            Rule::Sgd(rule) => Entry::Plain(rule),
            Rule::AdamW(rule) => Entry::Adam(rule.entry(step)),
        }
    }

    /// Bounds on value and state after an update, from those before.
    pub fn bounds(self, before: Magnitudes, state: [f64; 2]) -> (f64, [f64; 2]) {
        match self {
            Rule::Sgd(Descent { rate, momentum, weight_decay, nesterov }) => {
                let gradient = before.gradient + weight_decay * before.value;
                let buffer = momentum * state[0] + gradient;
                let ahead = if nesterov { gradient + momentum * buffer } else { buffer };
                (before.value + rate * ahead, [buffer, 0.0])
            }
            Rule::AdamW(Adam { rate, betas, eps, weight_decay }) => {
                let first = state[0].max(before.gradient);
                let second = state[1].max(before.gradient * before.gradient);
                // 1 − β₁ is the least correction, ε the least denominator.
                let step = rate / (1.0 - betas.0) * (first / eps);
                let kept = (1.0 - rate * weight_decay).abs();
                (kept * before.value + step, [first, second])
            }
        }
    }

    /// Refuses the first hyper-parameter that is out of its range.
    pub fn check(self) -> Result<(), Error> {
        let mut parameters = self.parameters().into_iter();
        parameters.try_for_each(|(parameter, value, range)| {
            Error::check_parameter(parameter, value, range, in_range(value, range)).map(drop)
        })
    }

    /// Refuses a part of another rule than this one, the first part's.
    pub fn check_same(self, other: Rule) -> Result<(), Error> {
        let mut pairs = self.parameters().into_iter().zip(other.parameters());
        pairs.try_for_each(|((parameter, first, _), (_, value, _))| {
            let expected = "that of the first part";
            Error::check_parameter(parameter, value, expected, value == first).map(drop)
        })
    }

    /// The name, the value and the range of each hyper-parameter.
    fn parameters(self) -> Vec<(&'static str, f64, &'static str)> {
        match self {
            Rule::Sgd(rule) => vec![
                ("learning rate", rule.rate, "finite and >= 0"),
                ("momentum", rule.momentum, "in [0, 1)"),
                ("weight decay", rule.weight_decay, "finite and >= 0"),
                ("nesterov", f64::from(u8::from(rule.nesterov)), "in [0, 1]"),
            ],
            Rule::AdamW(rule) => vec![
                ("learning rate", rule.rate, "finite and >= 0"),
                ("first beta", rule.betas.0, "in [0, 1)"),
                ("second beta", rule.betas.1, "in [0, 1)"),
                ("eps", rule.eps, "finite and > 0"),
                ("weight decay", rule.weight_decay, "finite and >= 0"),
            ],
        }
    }
}

/// The update of the entries of one row.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    /// Without momentum: no state.
    Plain(Descent),
    Momentum(Descent),
    Adam(AdamEntry),
}

impl Entry {
    /// Updates `values` by their `gradient`; `moments` are those of the row.
    pub fn update<'m, F: Real>(
        self,
        values: &mut [F],
        gradient: &[F],
        mut moments: impl Iterator<Item = &'m mut [F]>,
    ) {
        let mut next = || moments.next().unwrap_or_default();
        match self {
            Entry::Plain(rule) => kernel::update_row(Level::detect(), rule, values, gradient, []),
            Entry::Momentum(rule) => {
                kernel::update_row(Level::detect(), rule, values, gradient, [next()])
            }
            Entry::Adam(entry) => {
                kernel::update_row(Level::detect(), entry, values, gradient, [next(), next()])
            }
        }
    }
}

/// Gradient descent, with momentum unless it is 0.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Descent {
    pub rate: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
}

impl UpdateEntry<0> for Descent {
    #[inline(always)]
    fn next(self, value: f64, gradient: f64, []: [f64; 0]) -> (f64, [f64; 0]) {
        (value - self.rate * (gradient + self.weight_decay * value), [])
    }
}

impl UpdateEntry<1> for Descent {
    #[inline(always)]
    fn next(self, value: f64, gradient: f64, [buffer]: [f64; 1]) -> (f64, [f64; 1]) {
        let gradient = gradient + self.weight_decay * value;
        let buffer = self.momentum * buffer + gradient;
        // The value moves along g + m·b, or along b. Factors, not a branch for each entry.
        let (along_gradient, along_buffer) =
            if self.nesterov { (1.0, self.momentum) } else { (0.0, 1.0) };
        let along = along_gradient * gradient + along_buffer * buffer;
        (value - self.rate * along, [buffer])
    }
}

/// Adam with decoupled weight decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Adam {
    pub rate: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
}

impl Adam {
    /// The defaults of torch, all but the rate.
    pub const DEFAULT: Self =
        Adam { rate: 0.0, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 };

    fn entry(self, step: u64) -> AdamEntry {
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        AdamEntry {
            rule: self,
            kept: 1.0 - self.rate * self.weight_decay,
            rate: self.rate / correction(self.betas.0),
            inverse_root: correction(self.betas.1).sqrt().recip(),
        }
    }
}

/// [`Adam`] at one step of a row.
#[derive(Clone, Copy)]
pub(super) struct AdamEntry {
    rule: Adam,
    /// 1 − r·d.
    kept: f64,
    /// r / (1 − β₁^t).
    rate: f64,
    /// 1 / √(1 − β₂^t).
    inverse_root: f64,
}

impl UpdateEntry<2> for AdamEntry {
    #[inline(always)]
    fn next(self, value: f64, gradient: f64, [first, second]: [f64; 2]) -> (f64, [f64; 2]) {
        let (beta, gamma) = self.rule.betas;
        let first = beta * first + (1.0 - beta) * gradient;
        let second = gamma * second + (1.0 - gamma) * (gradient * gradient);
        let denominator = second.sqrt() * self.inverse_root + self.rule.eps;
        (self.kept * value - self.rate * first / denominator, [first, second])
    }
}
