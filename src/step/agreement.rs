//! Before data moves: whether every rank's input is valid and fits the others'. Every rank comes to
//! the same result.

use super::collective::Collective;
use super::exchange::Ranks;
use super::input::StepInput;
use crate::data::{ClassSample, Reduction, Scale};
use crate::error::Error;
use crate::kernel::{Precision, Real};
use crate::loss::MarginLoss;

/// A rank's input as the others see it: the length of its refusal, or 0; the first of its classes
/// and the one after the last; how many of them are active; and what has to be [`ALIKE`].
type Summary = [u64; SUMMARY];
const SUMMARY: usize = 4 + ALIKE.len();

/// What is said of a rank that has another number than rank 0: its number, rank 0's.
type Difference = fn(u64, u64) -> String;

/// What has to be the same on every rank, in the order in which it is compared.
const ALIKE: [Difference; 11] = [
    |own, first| format!("{own} embeddings, on rank 0 {first}"),
    |own, first| format!("embeddings of {own} dimensions, on rank 0 of {first}"),
    |_, _| "the values of the embeddings are not those of rank 0".into(),
    |_, _| "labels or reduction are not those of rank 0".into(),
    |_, _| "the loss or one of its parameters is not that of rank 0".into(),
    |_, _| "the precision of the products is not that of rank 0".into(),
    |own, first| format!("{own} sub-centers per class, on rank 0 {first}"),
    |own, first| {
        let name =
            |n: u64| ["no sample", "a sample", "a sample with correction"][n.min(2) as usize];
        format!("takes {} of the classes, rank 0 {}", name(own), name(first))
    },
    |own, first| {
        let name = |given| if given > 0 { "a class prior" } else { "no class prior" };
        format!("takes {}, rank 0 {}", name(own), name(first))
    },
    |own, first| format!("{own} samples count, on rank 0 {first}"),
    |_, _| "the gradient of the embeddings is requested on some ranks only".into(),
];

impl<F: Real> Ranks<'_, F> {
    /// Refuses a loss for another number of classes than all ranks have, before it is asked of any:
    /// one extra call, of the losses alone that do not take every number.
    pub fn check_classes(
        self,
        loss: &dyn MarginLoss,
        input: &StepInput<'_, F>,
    ) -> Result<(), Error> {
        let Some(collective) = self.0 else { return Ok(()) };
        if input.samples.labels.is_none() || loss.check_classes(usize::MAX).is_ok() {
            return Ok(());
        }
        let end = (input.range.end as u64).min(F::MOST_INDEX);
        let ends = collective.all_gather(&[F::from_index(end)])?;
        let classes = ends.iter().map(|end| end.to_index()).max().unwrap_or(0);
        loss.check_classes(classes as usize)
    }

    /// Whether the inputs are valid and the same on every rank: how many samples count on this one,
    /// or why it refuses its input, and whether the gradient of the embeddings is requested. Every
    /// rank returns the same, before anything is written: how many classes are active.
    pub fn agree(
        self,
        loss: &dyn MarginLoss,
        input: &StepInput<'_, F>,
        counted: Result<usize, Error>,
        embeddings: bool,
    ) -> Result<usize, Error> {
        let Some(collective) = self.0 else { return counted.map(|_| input.classes.labels()) };
        let summary = counted.and_then(|counted| {
            input.check_numbers(collective.rank())?;
            Ok(input.summary(loss, counted, embeddings))
        });
        let refusal = summary.as_ref().err().map(Error::to_string).unwrap_or_default();
        let mut own = *summary.as_ref().unwrap_or(&[0; SUMMARY]);
        own[0] = refusal.len() as u64;
        let gathered = collective.all_gather(&own.map(F::from_index))?;
        let all: Vec<Summary> =
            gathered.as_chunks().0.iter().map(|numbers| numbers.map(F::to_index)).collect();
        if all.len() != collective.size() {
            let reason = format!("gathered the numbers of {} ranks", all.len());
            return Err(Error::Collective { rank: collective.rank(), reason });
        }
        if all.iter().any(|[refusal, ..]| *refusal > 0) {
            return Err(first_refusal(collective, &all, &refusal, summary.err())?);
        }
        check_alike(&all)?;
        input.check_classes(loss, check_ranges(&all)?)?;
        Ok(all.iter().map(|[_, _, _, active, ..]| *active as usize).sum())
    }
}

impl<F: Real> StepInput<'_, F> {
    fn summary(&self, loss: &dyn MarginLoss, counted: usize, embeddings: bool) -> Summary {
        let (rows, dims) = self.embeddings.dim();
        [
            0,
            self.range.start as u64,
            self.range.end as u64,
            self.classes.labels() as u64,
            rows as u64,
            dims as u64,
            digest(self.embeddings.iter().map(|x| x.widen().to_bits())),
            self.objective_digest(),
            loss_digest(loss),
            u64::from(self.settings.precision == Precision::Bf16),
            self.classes.sub_centers as u64,
            self.sampling(),
            u64::from(self.has_log_prior()),
            counted as u64,
            u64::from(embeddings),
        ]
    }

    /// Inference corrects nothing.
    fn sampling(&self) -> u64 {
        let corrected =
            |sample: &ClassSample| sample.is_corrected() && self.samples.labels.is_some();
        self.samples.sample.map_or(0, |sample| 1 + u64::from(corrected(sample)))
    }

    /// Refuses numbers that the number type cannot carry.
    fn check_numbers(&self, rank: usize) -> Result<(), Error> {
        if self.range.end as u64 <= F::MOST_INDEX {
            return Ok(());
        }
        let reason = format!("classes beyond {} need f64", F::MOST_INDEX);
        Err(Error::Collective { rank, reason })
    }

    /// The digest of labels and reduction.
    fn objective_digest(&self) -> u64 {
        let labels = self.samples.labels.into_iter().flatten().map(|&label| label as u64);
        let ignored = self.samples.ignored.map(|label| label as u64);
        let ignored = [u64::from(ignored.is_some()), ignored.unwrap_or_default()];
        let (kind, weights) = match &self.reduction {
            None => (0, None),
            Some(Reduction::Mean) => (1, None),
            Some(Reduction::Sum) => (2, None),
            Some(Reduction::Weighted(weights)) => (3, Some(weights.iter())),
        };
        let weights = weights.into_iter().flatten().map(|g| g.widen().to_bits());
        let (most, first_row) = (self.most as u64, self.samples.first_row as u64);
        digest(labels.chain(ignored).chain([kind, most, first_row]).chain(weights))
    }
}

/// The digest of a loss: its text has every parameter, and what it answers is only ever asked
/// of samples that there are.
fn loss_digest(loss: &dyn MarginLoss) -> u64 {
    let scale = match loss.scale() {
        Scale::Fixed(s) => [0, s.to_bits()],
        Scale::FeatureNorm => [1, 0],
        Scale::Unnormalized => [2, 0],
    };
    let hard = loss.hard_negatives().map(|hard| (hard.cosine(), hard.coefficients()));
    let (cosine, coefficients) = hard.map_or((None, [f64::NAN; 3]), |hard| hard);
    let hard = [cosine.unwrap_or(f64::NAN)].into_iter().chain(coefficients).map(f64::to_bits);
    let smoothing = loss.label_smoothing().to_bits();
    let text = format!("{loss:?}{:?}", loss.binary());
    let text = text.bytes().map(u64::from);
    digest(scale.into_iter().chain([smoothing]).chain(hard).chain(text))
}

/// A number that differs, almost surely, where the words do: cut to what every number type
/// carries.
fn digest(words: impl Iterator<Item = u64>) -> u64 {
    // One multiplication per word, its high bits mixed into the low ones.
    let hash = words.fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
        let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ (product >> 29)
    });
    hash >> 34
}

/// What every rank returns where some refuse: the refusal itself where all refuse alike, else the
/// message of the first rank that refuses.
fn first_refusal<F: Real>(
    collective: &dyn Collective<F>,
    all: &[Summary],
    refusal: &str,
    own: Option<Error>,
) -> Result<Error, Error> {
    let bytes: Vec<F> = refusal.bytes().map(|byte| F::from_index(u64::from(byte))).collect();
    let gathered = collective.all_gather(&bytes)?;
    let bytes: Vec<u8> = gathered.iter().map(|byte| byte.to_index() as u8).collect();
    let mut rest = &bytes[..];
    let mut texts = Vec::with_capacity(all.len());
    for &[refusal, ..] in all {
        let (text, others) = rest.split_at((refusal as usize).min(rest.len()));
        texts.push(text);
        rest = others;
    }
    if let Some(own) = own
        && texts.iter().all(|text| *text == refusal.as_bytes())
    {
        return Ok(own);
    }
    let rank = all.iter().position(|&[refusal, ..]| refusal > 0).unwrap_or_default();
    Ok(Error::Collective { rank, reason: String::from_utf8_lossy(texts[rank]).into_owned() })
}

/// Refuses the first rank whose step is not that of rank 0.
fn check_alike(all: &[Summary]) -> Result<(), Error> {
    let [_, _, _, _, first @ ..] = &all[0];
    for (rank, [_, _, _, _, own @ ..]) in all.iter().enumerate() {
        let mut numbers = own.iter().zip(first).zip(ALIKE);
        if let Some(((&own, &first), difference)) = numbers.find(|((own, first), _)| own != first) {
            return Err(Error::Collective { rank, reason: difference(own, first) });
        }
    }
    Ok(())
}

/// Refuses ranges that leave a class out or hold one twice; returns how many classes there are.
fn check_ranges(all: &[Summary]) -> Result<usize, Error> {
    let mut ranges: Vec<_> = all.iter().map(|&[_, start, end, ..]| (start, end)).zip(0..).collect();
    ranges.retain(|((start, end), _)| start < end);
    ranges.sort_unstable();
    let mut next = 0;
    for ((start, end), rank) in ranges {
        let reason = if start > next {
            format!("holds classes {start}..{end}, but no rank holds {next}..{start}")
        } else if start < next {
            format!("holds classes {start}..{end}, of which another rank holds {start} too")
        } else {
            next = end;
            continue;
        };
        return Err(Error::Collective { rank, reason });
    }
    Ok(next as usize)
}
