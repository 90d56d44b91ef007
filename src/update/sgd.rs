use ndarray::ArrayView2;

use super::optimizer::optimizer;
use super::rules::{Descent, Rule};
use super::state::State;
use crate::error::Error;
use crate::kernel::Real;

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
/// **Rows that are not active** keep weights and momentum. What is exact: a step in which all rows
/// are active is the dense step, and a row's sequence of values is that of a dense optimizer which
/// sees only the steps in which the row is active. What differs from a dense optimizer which sees
/// a zero gradient in the others: its momentum becomes m·b_j + d·w_j, and moves the row on. Without
/// momentum and weight decay both are the same.
///
/// **Errors**: constructors return [`Error::Parameter`] for a value outside its range; the updates
/// return those of [`WeightUpdate`](crate::update::WeightUpdate).
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
/// learning* (ICML 2013), section 2, in the convention of `torch.optim.SGD` without dampening: the
/// rate multiplies the momentum, not the gradient, so that a change of the rate acts at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Sgd<F> {
    pub(super) rule: Descent,
    pub(super) state: State<F>,
}

optimizer!(Sgd);

impl<F: Real> Sgd<F> {
    /// Plain gradient descent with learning rate `rate`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `rate` is finite and ≥ 0.
    pub fn new(rate: f64) -> Result<Self, Error> {
        Sgd { rule: Descent { rate, ..Descent::default() }, state: State::NONE }.checked()
    }

    /// The same update with this momentum. Without momentum, what the rows had is dropped.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `momentum` is in [0, 1).
    pub fn with_momentum(mut self, momentum: f64) -> Result<Self, Error> {
        self.rule.momentum = momentum;
        if momentum == 0.0 {
            self.state = State::NONE;
        }
        self.checked()
    }

    /// The same update with Nesterov's momentum or without.
    pub fn with_nesterov(mut self, nesterov: bool) -> Self {
        self.rule.nesterov = nesterov;
        self
    }

    /// The momentum m.
    pub fn momentum(&self) -> f64 {
        self.rule.momentum
    }

    /// Whether the momentum is Nesterov's.
    pub fn nesterov(&self) -> bool {
        self.rule.nesterov
    }

    /// The momentum of the class weights (C, D), from their first step on.
    pub fn momentum_buffer(&self) -> Option<ArrayView2<'_, F>> {
        self.state.weights().map(|state| state.moment(0))
    }
}
