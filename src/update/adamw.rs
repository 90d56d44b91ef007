use std::ops::Range;

use ndarray::ArrayView2;

use super::state::{Rule, State};
use super::{Magnitudes, RowUpdate, UpdateStep, WeightUpdate, same};
use crate::error::Error;
use crate::kernel::{Real, UpdateEntry, job};

/// Adam with decoupled weight decay.
///
/// ```text
/// g = ∂L/∂w_j
/// t_j ← t_j + 1                           how often row j was updated
/// m_j ← β₁·m_j + (1 − β₁)·g               the first moment, first 0
/// v_j ← β₂·v_j + (1 − β₂)·g²              the second moment, first 0
/// w_j ← (1 − r·d)·w_j − r·m̂ / (√v̂ + ε)    m̂ = m_j / (1 − β₁^t_j), v̂ = v_j / (1 − β₂^t_j)
/// ```
///
/// **Shapes**: class weights and gradient (C, D), both moments (C, D), a counter t_j per row; the
/// same for a bias (C).
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `rate` | none; 1e-3 in torch | finite, ≥ 0 | learning rate r |
/// | `betas` | (0.9, 0.999) | each in [0, 1) | shares β₁ and β₂ of the moments that stay |
/// | `eps` | 1e-8 | finite, > 0 | ε, against division by zero |
/// | `weight_decay` | 0.01 | finite, ≥ 0 | decay d; it multiplies the weights, not the gradient |
///
/// [`set_rate`](Self::set_rate) follows a schedule. With the feature `serde`, hyper-parameters and
/// state are written and read, bit for bit and checked on reading; a hyper-parameter that is
/// missing gets its default.
///
/// **Rows that take no part** keep weights, moments and counter. What is exact: a step in which all
/// rows take part is the dense step, and a row's sequence of values is that of a dense optimiser
/// which sees only the steps in which the row takes part, with its corrections 1 − β^t for a young
/// row however late it is drawn first. What differs from a dense optimiser which sees a zero
/// gradient in the others: it would decay the row by 1 − r·d, move it on by its moments, shrink
/// them by β₁ and β₂, and count the step.
///
/// **Errors**: constructors return [`Error::Parameter`] for a value outside its range; the updates
/// return those of [`WeightUpdate`].
///
/// ```
/// use margin_softmax::AdamW;
/// use margin_softmax::update::WeightUpdate;
/// use ndarray::array;
///
/// let mut update = AdamW::new(0.1)?.with_weight_decay(0.0)?;
/// let mut w = array![[1.0, 0.0], [0.0, 1.0]];
/// // A first step has the length of the rate, whatever the length of the gradient.
/// update.apply(&mut w, &array![[20.0, -0.5], [0.0, 0.0]])?;
/// approx::assert_abs_diff_eq!(w, array![[0.9, 0.1], [0.0, 1.0]], epsilon = 1e-8);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Loshchilov and Hutter, *Decoupled Weight Decay Regularization* (ICLR 2019),
/// algorithm 2, in the convention of `torch.optim.AdamW` without AMSGrad: the rate multiplies the
/// decay too, which the paper multiplies by the schedule η alone.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW<F> {
    rule: Adam,
    pub(super) state: State<F, u64, 2>,
}

impl<F: Real> AdamW<F> {
    /// Betas, ε and weight decay.
    pub(crate) const DEFAULTS: ((f64, f64), f64, f64) = ((0.9, 0.999), 1e-8, 0.01);

    /// The update with learning rate `rate` and the default betas, ε and weight decay.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `rate` is finite and ≥ 0.
    pub fn new(rate: f64) -> Result<Self, Error> {
        let rate = super::check_rate(rate)?;
        let (betas, eps, weight_decay) = Self::DEFAULTS;
        let rule = Adam { rate, betas, eps, weight_decay };
        Ok(AdamW { rule, state: State::NONE })
    }

    /// The same update with these shares of the first and the second moment.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless both are in [0, 1).
    pub fn with_betas(self, first: f64, second: f64) -> Result<Self, Error> {
        let check = |parameter, beta| {
            Error::check_parameter(parameter, beta, "in [0, 1)", (0.0..1.0).contains(&beta))
        };
        let betas = (check("first beta", first)?, check("second beta", second)?);
        Ok(AdamW { rule: Adam { betas, ..self.rule }, ..self })
    }

    /// The same update with this ε.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `eps` is finite and > 0.
    pub fn with_eps(self, eps: f64) -> Result<Self, Error> {
        let valid = eps.is_finite() && eps > 0.0;
        Error::check_parameter("eps", eps, "finite and > 0", valid)?;
        Ok(AdamW { rule: Adam { eps, ..self.rule }, ..self })
    }

    /// The same update with this decoupled weight decay.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `weight_decay` is finite and ≥ 0.
    pub fn with_weight_decay(self, weight_decay: f64) -> Result<Self, Error> {
        let weight_decay = super::check_weight_decay(weight_decay)?;
        Ok(AdamW { rule: Adam { weight_decay, ..self.rule }, ..self })
    }

    /// Sets the learning rate of the steps to come.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `rate` is finite and ≥ 0; the rate stays as it was then.
    pub fn set_rate(&mut self, rate: f64) -> Result<(), Error> {
        self.rule.rate = super::check_rate(rate)?;
        Ok(())
    }

    /// The learning rate.
    pub fn rate(&self) -> f64 {
        self.rule.rate
    }

    /// The shares (β₁, β₂) of the moments.
    pub fn betas(&self) -> (f64, f64) {
        self.rule.betas
    }

    /// ε.
    pub fn eps(&self) -> f64 {
        self.rule.eps
    }

    /// The weight decay d.
    pub fn weight_decay(&self) -> f64 {
        self.rule.weight_decay
    }

    /// How often each row of the class weights was updated (C), from their first step on.
    pub fn steps(&self) -> Option<&[u64]> {
        self.state.weights.as_ref().map(|state| state.counters())
    }

    /// The first moments of the class weights (C, D), from their first step on.
    pub fn first_moments(&self) -> Option<ArrayView2<'_, F>> {
        self.state.weights.as_ref().map(|state| state.moment(0))
    }

    /// The second moments of the class weights (C, D), from their first step on.
    pub fn second_moments(&self) -> Option<ArrayView2<'_, F>> {
        self.state.weights.as_ref().map(|state| state.moment(1))
    }

    /// Adds `rows` rows without a past at the end: classes that were added to the class weights.
    pub fn extend(&mut self, rows: usize) {
        self.state.extend(rows);
    }

    /// The same update for a range of its rows: those that one of several ranks holds.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a range that ends before it starts, [`Error::Rows`] for one that
    /// ends after the last row.
    pub fn rows(&self, range: Range<usize>) -> Result<Self, Error> {
        Ok(AdamW { rule: self.rule, state: self.state.cut(range)? })
    }

    /// The update of the rows of all parts, one after the other.
    ///
    /// # Errors
    /// [`Error::Empty`] for no part, [`Error::Parameter`] for parts of different hyper-parameters,
    /// [`Error::Shape`] for rows of different lengths and for parts of which only some have made a
    /// step.
    pub fn concatenate(parts: &[Self]) -> Result<Self, Error> {
        Error::check_not_empty("parts", &[parts.len()])?;
        let rule = parts[0].rule;
        for AdamW { rule: other, .. } in parts {
            same("rate of the parts", rule.rate, other.rate)?;
            same("first beta of the parts", rule.betas.0, other.betas.0)?;
            same("second beta of the parts", rule.betas.1, other.betas.1)?;
            same("eps of the parts", rule.eps, other.eps)?;
            same("weight decay of the parts", rule.weight_decay, other.weight_decay)?;
        }
        Ok(AdamW { rule, state: State::join(parts.iter().map(|part| &part.state))? })
    }
}

impl<F: Real> WeightUpdate<F> for AdamW<F> {
    fn check(&self, step: &UpdateStep<'_>) -> Result<(), Error> {
        F::run::<Check<'_, '_>>((self, step))
    }

    fn begin<'s>(
        &'s mut self,
        step: &UpdateStep<'_>,
    ) -> Result<Vec<Box<dyn RowUpdate<F> + 's>>, Error> {
        F::run::<Begin<'_, '_, '_>>((self, step))
    }
}

job!(Check<'a, 's: 'a>, (&'a AdamW<F>, &'a UpdateStep<'s>) => Result<(), Error>, check);

fn check<F: Real>((update, step): (&AdamW<F>, &UpdateStep<'_>)) -> Result<(), Error> {
    update.check_step(step)
}

job!(
    Begin<'a, 'b, 's: 'b>,
    (&'a mut AdamW<F>, &'b UpdateStep<'s>) => Result<Vec<Box<dyn RowUpdate<F> + 'a>>, Error>,
    begin
);

fn begin<'a, F: Real>(
    (update, step): (&'a mut AdamW<F>, &UpdateStep<'_>),
) -> Result<Vec<Box<dyn RowUpdate<F> + 'a>>, Error> {
    update.begin_step(step)
}

impl<F: Real> AdamW<F> {
    fn check_step(&self, step: &UpdateStep<'_>) -> Result<(), Error> {
        self.state.check(self.rule, step).map(drop)
    }

    fn begin_step<'s>(
        &'s mut self,
        step: &UpdateStep<'_>,
    ) -> Result<Vec<Box<dyn RowUpdate<F> + 's>>, Error> {
        self.state.begin(self.rule, step)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Adam {
    rate: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
}

impl Rule<u64, 2> for Adam {
    type Entry = AdamEntry;

    fn entry(&self, step: u64) -> AdamEntry {
        let &Adam { rate, betas, eps, weight_decay } = self;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        AdamEntry {
            kept: 1.0 - rate * weight_decay,
            rate: rate / correction(betas.0),
            inverse_root: correction(betas.1).sqrt().recip(),
            betas,
            eps,
        }
    }

    fn bounds(&self, before: Magnitudes, [first, second]: [f64; 2]) -> (f64, [f64; 2]) {
        let &Adam { rate, betas, eps, weight_decay } = self;
        let first = first.max(before.gradient);
        // 1 − β₁ is the least correction, ε the least denominator.
        let step = rate / (1.0 - betas.0) * (first / eps);
        let kept = (1.0 - rate * weight_decay).abs();
        let second = second.max(before.gradient * before.gradient);
        (kept * before.value + step, [first, second])
    }
}

/// The update of a row's entries in one step.
#[derive(Clone, Copy)]
struct AdamEntry {
    /// 1 − r·d.
    kept: f64,
    /// r / (1 − β₁^t).
    rate: f64,
    /// 1 / √(1 − β₂^t).
    inverse_root: f64,
    betas: (f64, f64),
    eps: f64,
}

impl UpdateEntry<2> for AdamEntry {
    #[inline(always)]
    fn next(self, value: f64, gradient: f64, [first, second]: [f64; 2]) -> (f64, [f64; 2]) {
        let (beta, gamma) = self.betas;
        let first = beta * first + (1.0 - beta) * gradient;
        let second = gamma * second + (1.0 - gamma) * (gradient * gradient);
        let denominator = second.sqrt() * self.inverse_root + self.eps;
        (self.kept * value - self.rate * first / denominator, [first, second])
    }
}
