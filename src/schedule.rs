//! How hyper-parameters change as training goes on, and the scale that follows from the number of
//! classes.
//!
//! A schedule is a plain value and a pure function of the step number: a run that is resumed asks
//! for its step and goes on as if it had never stopped.

use std::f64::consts::SQRT_2;

use crate::error::Error;

/// The annealing of A-Softmax: training starts almost without margin, and gains it step by step.
///
/// $$ \lambda_t = \max\big(\lambda_{\min},\ base\cdot(1 + \gamma t)^{-power}\big) $$
///
/// The target logit is $(\lambda\cos\theta + \psi)/(1 + \lambda)$, so the share of the margin in it
/// grows from $1/(1 + base)$ to $1/(1 + \lambda_{\min})$. For
/// [`SphereFace`](crate::SphereFace::with_annealing),
/// [`FNormSphereFace`](crate::FNormSphereFace::with_annealing) and
/// [`Generalized`](crate::Generalized::with_annealing).
///
/// | parameter | default | range | purpose |
/// |---|---|---|---|
/// | `base` | 1000 | finite, ≥ 0 | $\lambda$ at step 0 |
/// | `gamma` | 0.12 | finite, ≥ 0 | how fast it falls, per step |
/// | `power` | 1 | finite, ≥ 0 | the exponent by which it falls |
/// | `minimum` | 5 | finite, ≥ 0 | where it stops; 0 is the margin alone |
///
/// ```
/// use margin_softmax::{Head, LambdaAnnealing, SphereFace};
///
/// let annealing = LambdaAnnealing::default();
/// let mut head = Head::new(SphereFace::new(4)?);
/// for step in 0..3 {
///     *head.loss_mut() = SphereFace::new(4)?.with_annealing(annealing.at(step))?;
///     // and a step of training with this head
/// }
/// assert_eq!(annealing.at(0), 1000.0);
/// assert_eq!(annealing.at(100), 1000.0 / 13.0);
/// assert_eq!(annealing.at(10_000), 5.0);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: the code of Liu et al., *SphereFace* (CVPR 2017), with its four values; it counts
/// its first step as $t = 1$.
#[derive(Debug, Clone, PartialEq)]
pub struct LambdaAnnealing {
    base: f64,
    gamma: f64,
    power: f64,
    minimum: f64,
}

impl LambdaAnnealing {
    /// The annealing from `base` down to `minimum`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for the first that is not finite and ≥ 0.
    pub fn new(base: f64, gamma: f64, power: f64, minimum: f64) -> Result<Self, Error> {
        let check = |parameter, value: f64| {
            let valid = value.is_finite() && value >= 0.0;
            Error::check_parameter(parameter, value, "finite and >= 0", valid)
        };
        Ok(LambdaAnnealing {
            base: check("annealing base", base)?,
            gamma: check("annealing gamma", gamma)?,
            power: check("annealing power", power)?,
            minimum: check("annealing minimum", minimum)?,
        })
    }

    /// $\lambda_t$ at a step; the first is 0.
    pub fn at(&self, step: usize) -> f64 {
        // What overflows here is a divisor, and leaves the minimum.
        let fallen = (1.0 + self.gamma * step as f64).powf(self.power);
        (self.base / fallen).max(self.minimum)
    }

    /// $\lambda$ at step 0.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// How fast $\lambda$ falls, per step.
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// The exponent by which $\lambda$ falls.
    pub fn power(&self) -> f64 {
        self.power
    }

    /// Where $\lambda$ stops.
    pub fn minimum(&self) -> f64 {
        self.minimum
    }
}

impl Default for LambdaAnnealing {
    fn default() -> Self {
        LambdaAnnealing { base: 1000.0, gamma: 0.12, power: 1.0, minimum: 5.0 }
    }
}

/// A margin that grows to its value while the network learns to tell the classes apart at all.
///
/// $$ m_t = m_{start} + (m - m_{start})\cdot
///    \min\Big(1, \max\Big(0, \frac{t - delay}{steps}\Big)\Big) $$
///
/// For every margin that is a real number: of [`ArcFace`](crate::ArcFace) and
/// [`CosFace`](crate::CosFace), and $m_0$ (from 1), $m_1$, $m_2$ of
/// [`Generalized`](crate::Generalized). The integer $m$ of the SphereFaces cannot grow bit by bit:
/// anneal them by [`LambdaAnnealing`], or warm up the $m_0$ of a `Generalized`.
///
/// | parameter | default | range | purpose |
/// |---|---|---|---|
/// | `margin` | none | finite | the margin that is reached |
/// | `steps` | none | any; 0 is a jump | how long it grows |
/// | `start` | 0 | finite | the margin that it grows from: 1 for the factor $m_0$ |
/// | `delay` | 0 | any | how many steps it stays at `start` first |
///
/// ```
/// use margin_softmax::{ArcFace, Head, MarginWarmup};
///
/// let warmup = MarginWarmup::new(0.5, 1000)?;
/// let mut head = Head::new(ArcFace::default());
/// for step in 0..3 {
///     *head.loss_mut() = ArcFace::new(64.0, warmup.at(step))?;
///     // and a step of training with this head
/// }
/// assert_eq!([warmup.at(0), warmup.at(500), warmup.at(1000)], [0.0, 0.25, 0.5]);
///
/// let factor = MarginWarmup::new(4.0, 300)?.with_start(1.0)?.with_delay(100);
/// assert_eq!([factor.at(100), factor.at(200), factor.at(400)], [1.0, 2.0, 4.0]);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: practice in speaker verification: the linear `MarginScheduler` of WeSpeaker (Wang
/// et al., ICASSP 2023) holds the margin, raises it, and fixes it.
#[derive(Debug, Clone, PartialEq)]
pub struct MarginWarmup {
    margin: f64,
    steps: usize,
    start: f64,
    delay: usize,
}

impl MarginWarmup {
    /// The warm-up from 0 to `margin` in the first `steps` steps.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `margin` is finite.
    pub fn new(margin: f64, steps: usize) -> Result<Self, Error> {
        let margin = Error::check_parameter("margin", margin, "finite", margin.is_finite())?;
        Ok(MarginWarmup { margin, steps, start: 0.0, delay: 0 })
    }

    /// The same warm-up from another margin than 0.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `start` and its distance from the margin are finite.
    pub fn with_start(self, start: f64) -> Result<Self, Error> {
        let valid = start.is_finite() && (self.margin - start).is_finite();
        let expected = "finite, and so its distance from the margin";
        let start = Error::check_parameter("start of the margin", start, expected, valid)?;
        Ok(MarginWarmup { start, ..self })
    }

    /// The same warm-up, begun `delay` steps later.
    pub fn with_delay(self, delay: usize) -> Self {
        MarginWarmup { delay, ..self }
    }

    /// The margin $m_t$ at a step; the first is 0.
    pub fn at(&self, step: usize) -> f64 {
        match step.checked_sub(self.delay) {
            None => self.start,
            Some(grown) if grown >= self.steps => self.margin,
            Some(grown) => {
                self.start + (self.margin - self.start) * (grown as f64 / self.steps as f64)
            }
        }
    }

    /// The margin that is reached.
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// How many steps it grows.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The margin that it grows from.
    pub fn start(&self) -> f64 {
        self.start
    }

    /// How many steps it stays at the start.
    pub fn delay(&self) -> usize {
        self.delay
    }
}

/// The scale that suits a number of classes: AdaCos with a fixed scale.
///
/// $$ s = \sqrt2 \log(C - 1) $$
///
/// With it a sample half a right angle from its class, and at right angles to all others, has
/// probability 1/2 without a margin: training pulls hardest there. 10,000 classes ask for 13.0, far
/// less than the customary 64.
///
/// ```
/// use margin_softmax::{ArcFace, adacos_scale};
///
/// let s = adacos_scale(10_000)?;
/// assert_eq!((s * 10.0).round(), 130.0);
/// let loss = ArcFace::new(s, 0.5)?;
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// # Errors
/// [`Error::Parameter`] for fewer than 3 classes: the formula has no positive answer there.
///
/// **Source**: Zhang et al., *AdaCos* (CVPR 2019), the fixed scale.
pub fn adacos_scale(classes: usize) -> Result<f64, Error> {
    let others = classes.saturating_sub(1) as f64;
    Error::check_parameter("number of classes", classes as f64, ">= 3", classes >= 3)?;
    Ok(SQRT_2 * others.ln())
}
