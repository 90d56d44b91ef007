use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1};

use super::state::{Rule, State, in_one_piece};
use super::{Magnitudes, RowUpdate, UpdateStep, WeightUpdate, check_bound, same};
use crate::error::Error;
use crate::kernel::{self, Level, Real, UpdateEntry, job};

/// Stochastic gradient descent, with momentum, Nesterov's momentum and weight decay.
///
/// ```text
/// g = ∂L/∂w_j + d·w_j
/// b_j ← m·b_j + g                        the momentum of row j, first 0
/// w_j ← w_j − r·b_j                      or, with Nesterov's momentum, w_j − r·(g + m·b_j)
/// ```
///
/// **Shapes**: class weights and gradient (C, D), momentum (C, D); the same for a bias (C). Without
/// momentum there is no state at all.
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `rate` | none | finite, ≥ 0 | learning rate r |
/// | `momentum` | 0 | [0, 1) | share m of the momentum that stays |
/// | `weight_decay` | 0 | finite, ≥ 0 | L2 penalty d, added to the gradient |
/// | `nesterov` | off | on, off | looks one step ahead; nothing changes where m = 0 |
///
/// [`set_rate`](Self::set_rate) follows a schedule. With the feature `serde`, hyper-parameters and
/// state are written and read, bit for bit and checked on reading; a hyper-parameter that is
/// missing gets its default.
///
/// **Rows that take no part** keep weights and momentum. What is exact: a step in which all rows
/// take part is the dense step, and a row's sequence of values is that of a dense optimiser which
/// sees only the steps in which the row takes part. What differs from a dense optimiser which sees
/// a zero gradient in the others: its momentum becomes m·b_j + d·w_j, and moves the row on. Without
/// momentum and weight decay both are the same.
///
/// **Errors**: constructors return [`Error::Parameter`] for a value outside its range; the updates
/// return those of [`WeightUpdate`].
///
/// ```
/// use margin_softmax::Sgd;
/// use margin_softmax::update::WeightUpdate;
/// use ndarray::array;
///
/// let mut update = Sgd::new(0.1)?.with_momentum(0.9)?.with_weight_decay(5e-4)?;
/// let mut w = array![[1.0_f32, 0.0], [0.0, 1.0]];
/// update.apply(&mut w, &array![[0.5, 0.5], [0.0, -1.0]])?;
/// assert_eq!(w, array![[0.94995, -0.05], [0.0, 1.09995]]);
/// update.set_rate(0.01)?;
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Sutskever et al., *On the importance of initialization and momentum in deep
/// learning* (ICML 2013), section 2, in the convention of `torch.optim.SGD` without dampening: the rate
/// multiplies the momentum, not the gradient, so that a change of the rate acts at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Sgd<F> {
    rule: Momentum,
    pub(super) state: State<F, (), 1>,
}

impl<F: Real> Sgd<F> {
    /// Plain gradient descent with learning rate `rate`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `rate` is finite and ≥ 0.
    pub fn new(rate: f64) -> Result<Self, Error> {
        let rate = super::check_rate(rate)?;
        let rule = Momentum { rate, momentum: 0.0, weight_decay: 0.0, nesterov: false };
        Ok(Sgd { rule, state: State::NONE })
    }

    /// The same update with this momentum. Without momentum, what the rows had is dropped.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `momentum` is in [0, 1).
    pub fn with_momentum(self, momentum: f64) -> Result<Self, Error> {
        let valid = (0.0..1.0).contains(&momentum);
        Error::check_parameter("momentum", momentum, "in [0, 1)", valid)?;
        let state = if momentum == 0.0 { State::NONE } else { self.state };
        Ok(Sgd { rule: Momentum { momentum, ..self.rule }, state })
    }

    /// The same update with this weight decay, an L2 penalty.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `weight_decay` is finite and ≥ 0.
    pub fn with_weight_decay(self, weight_decay: f64) -> Result<Self, Error> {
        let weight_decay = super::check_weight_decay(weight_decay)?;
        Ok(Sgd { rule: Momentum { weight_decay, ..self.rule }, ..self })
    }

    /// The same update with Nesterov's momentum or without.
    pub fn with_nesterov(self, nesterov: bool) -> Self {
        Sgd { rule: Momentum { nesterov, ..self.rule }, ..self }
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

    /// The momentum m.
    pub fn momentum(&self) -> f64 {
        self.rule.momentum
    }

    /// The weight decay d.
    pub fn weight_decay(&self) -> f64 {
        self.rule.weight_decay
    }

    /// Whether the momentum is Nesterov's.
    pub fn nesterov(&self) -> bool {
        self.rule.nesterov
    }

    /// The momentum of the class weights (C, D), from their first step on.
    pub fn momentum_buffer(&self) -> Option<ArrayView2<'_, F>> {
        self.state.weights.as_ref().map(|state| state.moment(0))
    }

    /// Adds `rows` rows without momentum at the end: classes that were added to the class weights.
    pub fn extend(&mut self, rows: usize) {
        self.state.extend(rows);
    }

    /// The same update for a range of its rows: those that one of several ranks holds.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a range that ends before it starts, [`Error::Rows`] for one that
    /// ends after the last row.
    pub fn rows(&self, range: Range<usize>) -> Result<Self, Error> {
        Ok(Sgd { rule: self.rule, state: self.state.cut(range)? })
    }

    /// The update of the rows of all parts, one after the other.
    ///
    /// # Errors
    /// [`Error::Empty`] for no part, [`Error::Parameter`] for parts of different hyper-parameters,
    /// [`Error::Shape`] for rows of different lengths and for parts of which only some have made a
    /// step with momentum.
    pub fn concatenate(parts: &[Self]) -> Result<Self, Error> {
        Error::check_not_empty("parts", &[parts.len()])?;
        let rule = parts[0].rule;
        for Sgd { rule: other, .. } in parts {
            same("rate of the parts", rule.rate, other.rate)?;
            same("momentum of the parts", rule.momentum, other.momentum)?;
            same("weight decay of the parts", rule.weight_decay, other.weight_decay)?;
            let nesterov = [rule.nesterov, other.nesterov].map(|on| f64::from(u8::from(on)));
            same("nesterov of the parts", nesterov[0], nesterov[1])?;
        }
        Ok(Sgd { rule, state: State::join(parts.iter().map(|part| &part.state))? })
    }
}

impl<F: Real> WeightUpdate<F> for Sgd<F> {
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

job!(Check<'a, 's: 'a>, (&'a Sgd<F>, &'a UpdateStep<'s>) => Result<(), Error>, check);

fn check<F: Real>((update, step): (&Sgd<F>, &UpdateStep<'_>)) -> Result<(), Error> {
    update.check_step(step)
}

job!(
    Begin<'a, 'b, 's: 'b>,
    (&'a mut Sgd<F>, &'b UpdateStep<'s>) => Result<Vec<Box<dyn RowUpdate<F> + 'a>>, Error>,
    begin
);

fn begin<'a, F: Real>(
    (update, step): (&'a mut Sgd<F>, &UpdateStep<'_>),
) -> Result<Vec<Box<dyn RowUpdate<F> + 'a>>, Error> {
    update.begin_step(step)
}

impl<F: Real> Sgd<F> {
    fn check_step(&self, step: &UpdateStep<'_>) -> Result<(), Error> {
        if self.rule.momentum > 0.0 {
            return self.state.check(self.rule, step).map(drop);
        }
        step.check()?;
        let Momentum { rate, weight_decay, .. } = self.rule;
        let bound = |before: Magnitudes| {
            before.value + rate * (before.gradient + weight_decay * before.value)
        };
        step.weights.map_or(Ok(()), |before| check_bound::<F>("a class weight", bound(before)))?;
        step.bias.map_or(Ok(()), |before| check_bound::<F>("the bias", bound(before)))
    }

    fn begin_step<'s>(
        &'s mut self,
        step: &UpdateStep<'_>,
    ) -> Result<Vec<Box<dyn RowUpdate<F> + 's>>, Error> {
        if self.rule.momentum > 0.0 {
            return self.state.begin(self.rule, step);
        }
        self.check_step(step)?;
        let Momentum { rate, weight_decay, .. } = self.rule;
        let rule = Plain { rate, weight_decay };
        let updater = || Box::new(Stateless { rule, buffers: Default::default() });
        Ok(step.chunks.iter().map(|_| updater() as Box<dyn RowUpdate<F> + 's>).collect())
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Momentum {
    rate: f64,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
}

impl Rule<(), 1> for Momentum {
    type Entry = MomentumEntry;

    fn entry(&self, (): ()) -> MomentumEntry {
        let &Momentum { rate, momentum, weight_decay, nesterov } = self;
        let (gradient, buffer) = if nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        MomentumEntry { rate, momentum, weight_decay, gradient, buffer }
    }

    fn bounds(&self, before: Magnitudes, [buffer]: [f64; 1]) -> (f64, [f64; 1]) {
        let gradient = before.gradient + self.weight_decay * before.value;
        let buffer = self.momentum * buffer + gradient;
        let ahead = if self.nesterov { gradient + self.momentum * buffer } else { buffer };
        (before.value + self.rate * ahead, [buffer])
    }
}

/// The value moves along `gradient`·g + `buffer`·b: g + m·b, or b.
#[derive(Clone, Copy)]
struct MomentumEntry {
    rate: f64,
    momentum: f64,
    weight_decay: f64,
    gradient: f64,
    buffer: f64,
}

impl UpdateEntry<1> for MomentumEntry {
    #[inline(always)]
    fn next(self, value: f64, gradient: f64, [buffer]: [f64; 1]) -> (f64, [f64; 1]) {
        let gradient = gradient + self.weight_decay * value;
        let buffer = self.momentum * buffer + gradient;
        let along = self.gradient * gradient + self.buffer * buffer;
        (value - self.rate * along, [buffer])
    }
}

/// Without momentum: no state.
#[derive(Clone, Copy)]
struct Plain {
    rate: f64,
    weight_decay: f64,
}

impl UpdateEntry<0> for Plain {
    #[inline(always)]
    fn next(self, value: f64, gradient: f64, []: [f64; 0]) -> (f64, [f64; 0]) {
        (value - self.rate * (gradient + self.weight_decay * value), [])
    }
}

/// Updates any rows.
struct Stateless<F> {
    rule: Plain,
    buffers: [Vec<F>; 2],
}

impl<F: Real> RowUpdate<F> for Stateless<F> {
    fn update_row(&mut self, _: usize, weights: ArrayViewMut1<'_, F>, gradient: ArrayView1<'_, F>) {
        in_one_piece(weights, gradient, &mut self.buffers, |weights, gradient| {
            kernel::update_row(Level::detect(), self.rule, weights, gradient, []);
        });
    }

    fn update_bias(&mut self, _: usize, bias: &mut F, gradient: F) {
        let (bias, rule) = (std::slice::from_mut(bias), self.rule);
        kernel::update_row(Level::detect(), rule, bias, &[gradient], []);
    }
}
