use ndarray::ArrayView2;

use super::optimizer::optimizer;
use super::rules::{Adam, Rule};
use super::state::State;
use crate::error::Error;
use crate::kernel::Real;

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
/// **Rows that are not active** keep weights, moments and counter. What is exact: a step in which all
/// rows are active is the dense step, and a row's sequence of values is that of a dense optimizer
/// which sees only the steps in which the row is active, with its corrections 1 − β^t for a young
/// row however late it is drawn first. What differs from a dense optimizer which sees a zero
/// gradient in the others: it would decay the row by 1 − r·d, move it on by its moments, shrink
/// them by β₁ and β₂, and count the step.
///
/// **Errors**: constructors return [`Error::Parameter`] for a value outside its range; the updates
/// return those of [`WeightUpdate`](crate::update::WeightUpdate).
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
    pub(super) rule: Adam,
    pub(super) state: State<F>,
}

optimizer!(AdamW);

impl<F: Real> AdamW<F> {
    /// The update with learning rate `rate` and the default betas, ε and weight decay.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `rate` is finite and ≥ 0.
    pub fn new(rate: f64) -> Result<Self, Error> {
        AdamW { rule: Adam { rate, ..Adam::DEFAULT }, state: State::NONE }.checked()
    }

    /// The same update with these shares of the first and the second moment.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless both are in [0, 1).
    pub fn with_betas(mut self, first: f64, second: f64) -> Result<Self, Error> {
        self.rule.betas = (first, second);
        self.checked()
    }

    /// The same update with this ε.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `eps` is finite and > 0.
    pub fn with_eps(mut self, eps: f64) -> Result<Self, Error> {
        self.rule.eps = eps;
        self.checked()
    }

    /// The shares (β₁, β₂) of the moments.
    pub fn betas(&self) -> (f64, f64) {
        self.rule.betas
    }

    /// ε.
    pub fn eps(&self) -> f64 {
        self.rule.eps
    }

    /// How often each row of the class weights was updated (C), from their first step on. The count
    /// stops at 2^53, the largest that is read from a file.
    pub fn steps(&self) -> Option<&[u64]> {
        Some(&self.state.weights()?.steps)
    }

    /// The first moments of the class weights (C, D), from their first step on.
    pub fn first_moments(&self) -> Option<ArrayView2<'_, F>> {
        self.state.weights().map(|state| state.moment(0))
    }

    /// The second moments of the class weights (C, D), from their first step on.
    pub fn second_moments(&self) -> Option<ArrayView2<'_, F>> {
        self.state.weights().map(|state| state.moment(1))
    }
}
