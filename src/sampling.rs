//! Partial FC: a step over the classes of the batch and a random part of the others.

use std::ops::Range;

use ndarray::{Array1, Array2};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::batch::Batch;
use crate::error::Error;
use crate::head::{ELSEWHERE, Output, here};
use crate::kernel::Real;

/// Draws the classes that take part in a step: all classes of the batch, and others, each equally
/// likely, until $\lfloor rate\cdot C\rfloor$ are together. More classes in the batch than that
/// are all kept.
///
/// $$ J = \lbrace y_i\rbrace \cup \text{a uniform draw from the others}, \qquad
///    L_i = \log\Big(1 + \sum_{j\in J, j\ne y_i} e^{z_{ij} - z_{iy}}\Big) $$
///
/// The gradient is that of the sampled loss, exactly; of the full loss it is an estimate that is
/// biased downwards, since negatives are missing. [`with_correction`](Self::with_correction) adds
/// $\log(n/k)$ to the logit of each of the $k$ classes that were drawn from the $n$ outside the
/// batch, which makes $\sum_j e^{z_{ij}}$ unbiased (its logarithm stays biased downwards, by
/// Jensen's inequality). Off by default, as published.
///
/// A draw takes time and memory in proportion to what is sampled, whatever the number of classes.
///
/// | parameter | default | range | purpose |
/// |---|---|---|---|
/// | `rate` | none; 0.1 in the paper | (0, 1] | share of the classes in a step |
/// | `seed` | none | any | where the random numbers begin |
/// | correction | off | on, off | unbiased sum of exponentials |
///
/// A run that is resumed draws on as if it had never stopped: keep [`state`](Self::state), plain
/// numbers and switches, and go on [`from_state`](Self::from_state). With the feature `serde` the
/// sampler itself is written, as its state, and checked on reading.
///
/// ```
/// use margin_softmax::ClassSampler;
///
/// let mut sampler = ClassSampler::new(1000, 0.02, 7)?;
/// let sample = sampler.sample(&[500, 3, 500])?;
/// assert_eq!(sample.classes.len(), 20);
/// assert!(sample.classes.is_sorted());
/// let of_class = |i: usize| sample.classes[sample.labels[i]];
/// assert_eq!([of_class(0), of_class(1), of_class(2)], [500, 3, 500]);
///
/// let mut resumed = ClassSampler::from_state(sampler.state())?;
/// assert_eq!(resumed.sample(&[1, 2])?, sampler.sample(&[1, 2])?);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: An et al., *Partial FC* (ICCV Workshops 2021), section 3.3; *Killing Two Birds with
/// One Stone* (CVPR 2022), section 3.
#[derive(Debug, Clone)]
pub struct ClassSampler {
    range: Range<usize>,
    rate: f64,
    correction: bool,
    whole: bool,
    rng: Pcg64Mcg,
}

/// All that a [`ClassSampler`] is, to be written down and read again.
///
/// With the feature `serde` it is written as it stands, `random` as 32 hexadecimal digits: few
/// formats have numbers of 128 bits.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct SamplerState {
    /// The classes that it draws from.
    pub range: Range<usize>,
    /// Whether labels outside the range are refused, as beyond all classes.
    pub whole: bool,
    /// The share of the classes in a step.
    pub rate: f64,
    /// Whether samples carry the correction.
    pub correction: bool,
    /// Where the random numbers stand: an odd number.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::hexadecimal"))]
    pub random: u128,
}

impl ClassSampler {
    /// A sampler of `classes` classes.
    ///
    /// # Errors
    /// [`Error::Empty`] for no class, [`Error::Parameter`] unless `rate` is in (0, 1].
    pub fn new(classes: usize, rate: f64, seed: u64) -> Result<Self, Error> {
        Error::check_not_empty("classes", &[classes])?;
        Ok(ClassSampler { whole: true, ..Self::for_range(0..classes, rate, seed)? })
    }

    /// A sampler of the classes that one rank of a [`ClassParallel`](crate::ClassParallel) step
    /// holds: any, even none. Labels elsewhere are passed over. Samplers of different ranges with
    /// the same seed draw independently.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `rate` is in (0, 1].
    pub fn for_range(range: Range<usize>, rate: f64, seed: u64) -> Result<Self, Error> {
        let rate = check_rate(rate)?;
        let rng = Pcg64Mcg::seed_from_u64(seed.wrapping_add(range.start as u64));
        Ok(ClassSampler { range, rate, correction: false, whole: false, rng })
    }

    /// The same sampler, whose samples carry the correction or not. With it, accuracy and
    /// predictions are of the corrected logits, which favour classes outside the batch.
    pub fn with_correction(self, correction: bool) -> Self {
        ClassSampler { correction, ..self }
    }

    /// The sampler that goes on where `state` was taken.
    ///
    /// # Errors
    /// [`Error::Parameter`] for what no sampler's state is: a rate outside (0, 1], a range that
    /// ends before it starts or, where it is of all classes, does not start at 0 or is empty, and
    /// an even `random`.
    pub fn from_state(state: SamplerState) -> Result<Self, Error> {
        let SamplerState { range, whole, rate, correction, random } = state;
        let rate = check_rate(rate)?;
        check_range(&range, whole)?;
        let odd = random % 2 == 1;
        Error::check_parameter("random state of the sampler", random as f64, "odd", odd)?;
        Ok(ClassSampler { range, rate, correction, whole, rng: Pcg64Mcg::new(random) })
    }

    /// Where this sampler stands.
    pub fn state(&self) -> SamplerState {
        SamplerState {
            range: self.range.clone(),
            whole: self.whole,
            rate: self.rate,
            correction: self.correction,
            random: self.rng.state(),
        }
    }

    /// The classes that it draws from.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The share of the classes in a step.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Draws the classes of one step, for a batch with these labels.
    ///
    /// # Errors
    /// [`Error::Label`] for a label that is no class; nothing is drawn then.
    pub fn sample(&mut self, labels: &[usize]) -> Result<ClassSample, Error> {
        if self.whole {
            Error::check_labels(labels, self.range.end)?;
        }
        let rows: Vec<usize> = labels.iter().map(|&label| here(label, &self.range)).collect();
        let mut positives: Vec<usize> =
            rows.iter().copied().filter(|&row| row != ELSEWHERE).collect();
        positives.sort_unstable();
        positives.dedup();
        // The product may fall short of an integer by its last bit: 0.29 · 100 < 29.
        let quota = self.range.len() as f64 * self.rate * (1.0 + f64::EPSILON);
        let others = self.range.len() - positives.len();
        let drawn = (quota as usize).saturating_sub(positives.len()).min(others);
        let ranks = self.distinct(drawn, others);
        let classes = merged(&positives, &ranks);
        let find = |row: usize| classes.binary_search(&row).unwrap_or(ELSEWHERE);
        let labels = rows.into_iter().map(find).collect();
        let correction =
            if self.correction && drawn > 0 { (others as f64 / drawn as f64).ln() } else { 0.0 };
        Ok(ClassSample { classes, labels, correction })
    }

    /// `count` distinct numbers below `below`, ascending; every set of them is equally likely.
    fn distinct(&mut self, count: usize, below: usize) -> Vec<usize> {
        if count > below / 2 {
            return all_but(&self.distinct(below - count, below), below);
        }
        // Each round draws as many as are missing, so the set of distinct numbers is that of
        // drawing one by one until there are enough.
        let mut numbers = Vec::with_capacity(count);
        while numbers.len() < count {
            for _ in numbers.len()..count {
                numbers.push(self.below(below));
            }
            // Stable: it knows the ascending part for what it is.
            numbers.sort();
            numbers.dedup();
        }
        numbers
    }

    /// A number below `below`, each equally likely: Lemire's method.
    fn below(&mut self, below: usize) -> usize {
        let below = below as u64;
        let threshold = below.wrapping_neg() % below;
        loop {
            let product = u128::from(self.rng.next_u64()) * u128::from(below);
            if product as u64 >= threshold {
                return (product >> 64) as usize;
            }
        }
    }
}

fn check_rate(rate: f64) -> Result<f64, Error> {
    Error::check_parameter("sampling rate", rate, "in (0, 1]", rate > 0.0 && rate <= 1.0)
}

/// A range that is the `whole` of the classes starts at the first, and there are some.
fn check_range(range: &Range<usize>, whole: bool) -> Result<(), Error> {
    let (start, end) = (range.start as f64, range.end as f64);
    let valid = !whole || range.start == 0;
    Error::check_parameter("range start of all classes", start, "0", valid)?;
    let valid = range.start <= range.end && !(whole && range.end == 0);
    let expected = "no less than its start, and > 0 for all classes";
    Error::check_parameter("range end of the sampler", end, expected, valid)?;
    Ok(())
}

/// The numbers below `below` that are not in `except`, which is ascending.
fn all_but(except: &[usize], below: usize) -> Vec<usize> {
    let mut except = except.iter().copied().peekable();
    (0..below).filter(|number| except.next_if_eq(number).is_none()).collect()
}

/// `positives` together with the others of these `ranks` among all that are not positive; all
/// three ascending.
fn merged(positives: &[usize], ranks: &[usize]) -> Vec<usize> {
    let mut classes = Vec::with_capacity(positives.len() + ranks.len());
    let mut before = positives.iter().copied().peekable();
    let mut passed = 0;
    for rank in ranks {
        while let Some(positive) = before.next_if(|positive| *positive <= rank + passed) {
            classes.push(positive);
            passed += 1;
        }
        classes.push(rank + passed);
    }
    classes.extend(before);
    classes
}

/// The classes of one step and the labels among them.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassSample {
    /// The rows that take part (S), ascending.
    pub classes: Vec<usize>,
    /// For each sample the place of its class in `classes` (N); [`ELSEWHERE`](Self::ELSEWHERE)
    /// where another rank has it.
    pub labels: Vec<usize>,
    correction: f64,
}

impl ClassSample {
    /// The label of a sample whose class another rank holds.
    pub const ELSEWHERE: usize = ELSEWHERE;

    /// What is added to the logit of each class that is not in the batch; 0 without correction.
    pub fn correction(&self) -> f64 {
        self.correction
    }

    /// Refuses a sample that was not drawn for these labels of classes in `range`.
    pub(crate) fn check(&self, labels: &[usize], range: Range<usize>) -> Result<(), Error> {
        Error::check_shape("labels of the class sample", &[labels.len()], &[self.labels.len()])?;
        let bad = |field, position| Err(Error::Sample { field, position });
        let mut next = 0;
        for (position, &class) in self.classes.iter().enumerate() {
            if class < next || class >= range.len() {
                return bad("classes", position);
            }
            next = class + 1;
        }
        for (row, (&label, &place)) in labels.iter().zip(&self.labels).enumerate() {
            let class = self.classes.get(place).copied().unwrap_or(ELSEWHERE);
            if class != here(label, &range) || (class == ELSEWHERE && place != ELSEWHERE) {
                return bad("labels", row);
            }
        }
        Ok(())
    }

    /// What is added to the logit of each sampled class, where anything is.
    pub(crate) fn offsets<F: Real>(&self) -> Option<Vec<F>> {
        if self.correction == 0.0 {
            return None;
        }
        let mut offsets = vec![F::narrow(self.correction); self.classes.len()];
        for &place in &self.labels {
            if let Some(offset) = offsets.get_mut(place) {
                *offset = F::zero();
            }
        }
        Some(offsets)
    }
}

/// Gradients of a step over sampled classes; the step gives them their shapes and overwrites
/// them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SampledGradients<F> {
    /// With respect to the embeddings (N, D).
    pub embeddings: Array2<F>,
    /// With respect to the rows [`ClassSample::classes`] of the class weights (S, D).
    pub weights: Array2<F>,
    /// With respect to the bias of the same classes (S), where the batch has one.
    pub bias: Option<Array1<F>>,
}

impl<F: Real> SampledGradients<F> {
    /// Zeros in the shapes of `batch` and `sample`.
    pub fn zeros_for(batch: &Batch<'_, F>, sample: &ClassSample) -> Self {
        let (samples, dims) = batch.embeddings.dim();
        let classes = sample.classes.len();
        SampledGradients {
            embeddings: Array2::zeros((samples, dims)),
            weights: Array2::zeros((classes, dims)),
            bias: batch.bias.map(|_| Array1::zeros(classes)),
        }
    }

    /// Zeros to be written instead, where these have other shapes.
    pub(crate) fn fresh_unless_fit(
        &self,
        batch: &Batch<'_, F>,
        sample: Option<&ClassSample>,
    ) -> Option<Self> {
        let sample = sample?;
        let classes = sample.classes.len();
        let fit = self.embeddings.dim() == batch.embeddings.dim()
            && self.weights.dim() == (classes, batch.embeddings.ncols())
            && self.bias.as_ref().map(Array1::len) == batch.bias.map(|_| classes);
        if fit { None } else { Some(Self::zeros_for(batch, sample)) }
    }

    /// Where a step writes.
    pub(crate) fn output(&mut self) -> Output<'_, F> {
        Output {
            embeddings: self.embeddings.view_mut(),
            weights: self.weights.view_mut(),
            bias: self.bias.as_mut().map(|bias| bias.view_mut()),
        }
    }
}
