//! Partial FC: a step over the classes of the batch and a random part of the others.

use std::ops::Range;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

pub use crate::data::ClassSample;
use crate::data::{IGNORED, room_for};
use crate::error::{Error, check};

/// Draws the active classes of a step: all classes of the batch, and others, each equally
/// likely, up to ⌊rate·C⌋ together. More classes in the batch than that are all kept.
///
/// ```text
/// J   = {y_i} ∪ a uniform draw from the others
/// L_i = log(1 + Σ_{j∈J, j≠y_i} e^{z_ij − z_iy})
/// ```
///
/// The gradient is that of the sampled loss, exactly; of the full loss it is an estimate that is
/// biased downwards, since negatives are missing. [`with_correction`](Self::with_correction) adds
/// log(n/k) to the logit of each of the k classes that were drawn from the n outside the batch,
/// which makes Σ_j e^{z_ij} unbiased (its logarithm stays biased downwards, by Jensen's
/// inequality). Off by default, as published.
///
/// A draw takes time and memory in proportion to what is sampled, whatever the number of classes.
///
/// | parameter | default | range | purpose |
/// |---|---|---|---|
/// | `rate` | none; 0.1 in the paper | (0, 1] | share of the classes in a step |
/// | `seed` | none | any | the seed of the random numbers |
/// | correction | off | on, off | unbiased sum of exponentials |
///
/// A resumed run continues the same sequence of draws: save [`state`](Self::state), which is plain
/// data, and restore it with [`from_state`](Self::from_state). With the feature `serde` the sampler
/// itself is written, as its state, and checked on reading.
///
/// ```
/// use margin_softmax::sampling::ClassSampler;
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
    state: SamplerState,
}

/// The state of a [`ClassSampler`], to be saved and restored.
///
/// With the feature `serde` it is written field by field, `random` as 32 hexadecimal digits: few
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
    /// Whether the range holds all classes, so that labels outside it are refused.
    pub whole: bool,
    /// The share of the classes in a step.
    pub rate: f64,
    /// Whether samples carry the correction.
    pub correction: bool,
    /// The generator's state: an odd number.
    #[cfg_attr(feature = "serde", serde(with = "hexadecimal"))]
    pub random: u128,
}

impl ClassSampler {
    /// A sampler of `classes` classes.
    ///
    /// # Errors
    /// [`Error::Empty`] for no class, [`Error::Parameter`] unless `rate` is in (0, 1].
    pub fn new(classes: usize, rate: f64, seed: u64) -> Result<Self, Error> {
        Error::check_not_empty("classes", &[classes])?;
        let mut sampler = Self::for_range(0..classes, rate, seed)?;
        sampler.state.whole = true;
        Ok(sampler)
    }

    /// A sampler of the classes that one rank of a [`Head::on_ranks`](crate::Head::on_ranks) holds:
    /// any number of them, even none. Labels of classes that other ranks hold are skipped. Samplers
    /// of different ranges draw independently, with the same seed and with any other.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `rate` is in (0, 1], and for a range that ends before it starts.
    pub fn for_range(range: Range<usize>, rate: f64, seed: u64) -> Result<Self, Error> {
        let random = generator(seed, range.start as u64).state();
        Self::from_state(SamplerState { range, whole: false, rate, correction: false, random })
    }

    /// The same sampler, whose samples carry the correction or not. With it, accuracy and
    /// predictions are of the corrected logits, which favor classes outside the batch.
    pub fn with_correction(mut self, correction: bool) -> Self {
        self.state.correction = correction;
        self
    }

    /// The sampler that continues from `state`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for what is no sampler's state: a rate outside (0, 1], a range that
    /// ends before it starts or, where it is of all classes, does not start at 0 or is empty, and
    /// an even `random`.
    pub fn from_state(state: SamplerState) -> Result<Self, Error> {
        let SamplerState { ref range, whole, rate, random, .. } = state;
        check!("sampling rate", rate, "in (0, 1]")?;
        Error::check_range("range end of the sampler", range)?;
        let (start, valid) = (range.start as f64, !whole || range.start == 0);
        Error::check_parameter("range start of all classes", start, "0", valid)?;
        let (end, valid) = (range.end as f64, !whole || range.end > 0);
        Error::check_parameter("range end of the sampler", end, "> 0 for all classes", valid)?;
        let odd = random % 2 == 1;
        Error::check_parameter("random state of the sampler", random as f64, "odd", odd)?;
        Ok(ClassSampler { state })
    }

    /// The state of this sampler.
    pub fn state(&self) -> SamplerState {
        self.state.clone()
    }

    /// The classes that it draws from.
    pub fn range(&self) -> Range<usize> {
        self.state.range.clone()
    }

    /// The share of the classes in a step.
    pub fn rate(&self) -> f64 {
        self.state.rate
    }

    /// Draws the classes of one step, for a batch with these labels. A sample labeled
    /// [`IGNORED`] adds no class.
    ///
    /// # Errors
    /// [`Error::Label`] for a label that is no class, and [`Error::Parameter`] for more sampled
    /// classes than fit into memory; nothing is drawn then.
    pub fn sample(&mut self, labels: &[usize]) -> Result<ClassSample, Error> {
        let SamplerState { range, whole, rate, correction, random } = &mut self.state;
        if *whole {
            Error::check_labels(labels, range.end, Some(IGNORED))?;
        }
        let row = |&label: &usize| range.contains(&label).then(|| label - range.start);
        let rows: Vec<Option<usize>> = labels.iter().map(row).collect();
        let mut positives: Vec<usize> = rows.iter().copied().flatten().collect();
        positives.sort_unstable();
        positives.dedup();
        // The product may fall short of an integer by its last bit: 0.29 · 100 < 29.
        let quota = range.len() as f64 * *rate * (1.0 + f64::EPSILON);
        let others = range.len() - positives.len();
        let drawn = (quota as usize).saturating_sub(positives.len()).min(others);
        let mut rng = Pcg64Mcg::new(*random);
        let ranks = distinct(&mut rng, drawn, others)?;
        let classes = merged(&positives, &ranks)?;
        *random = rng.state();
        let of_drawn = || if drawn > 0 { (others as f64 / drawn as f64).ln() } else { 0.0 };
        let correction = correction.then(of_drawn);
        Ok(ClassSample::new(classes, rows.into_iter(), correction, Some(range.clone())))
    }
}

/// The generator of a sampler whose range starts at `start`. Seed and start are mixed one after the
/// other, not added: (10, 0) and (0, 10) must not draw the same.
fn generator(seed: u64, start: u64) -> Pcg64Mcg {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    if start == 0 {
        return rng;
    }
    let mixed = rng.next_u64() ^ start.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Pcg64Mcg::seed_from_u64(mixed)
}

/// What errors call the classes of a sample: a sampler read from a file may have any range.
const SAMPLED: &str = "number of sampled classes";

/// `count` distinct numbers below `below`, ascending; every set of them is equally likely.
fn distinct(rng: &mut Pcg64Mcg, count: usize, below: usize) -> Result<Vec<usize>, Error> {
    let mut numbers = room_for(SAMPLED, count)?;
    if count > below / 2 {
        let mut others = distinct(rng, below - count, below)?.into_iter().peekable();
        numbers.extend((0..below).filter(|number| others.next_if_eq(number).is_none()));
        return Ok(numbers);
    }
    // Each round draws as many as are missing, so the set of distinct numbers is that of drawing
    // one by one until there are enough.
    while numbers.len() < count {
        for _ in numbers.len()..count {
            numbers.push(uniform(rng, below));
        }
        // The stable sort is fast where a part is in order already.
        numbers.sort();
        numbers.dedup();
    }
    Ok(numbers)
}

/// A number below `below`, each equally likely: Lemire's method.
fn uniform(rng: &mut Pcg64Mcg, below: usize) -> usize {
    let below = below as u64;
    let threshold = below.wrapping_neg() % below;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(below);
        if product as u64 >= threshold {
            return (product >> 64) as usize;
        }
    }
}

/// `positives` together with the others of these `ranks` among all that are not positive; all
/// three ascending.
fn merged(positives: &[usize], ranks: &[usize]) -> Result<Vec<usize>, Error> {
    let mut classes = room_for(SAMPLED, positives.len() + ranks.len())?;
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
    Ok(classes)
}

/// 128 bits as hexadecimal digits.
#[cfg(feature = "serde")]
mod hexadecimal {
    use serde::de::{Error as _, Unexpected};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bits: &u128, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{bits:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
        let digits = String::deserialize(from)?;
        let expected = &"up to 32 hexadecimal digits";
        u128::from_str_radix(&digits, 16)
            .map_err(|_| D::Error::invalid_value(Unexpected::Str(&digits), expected))
    }
}
