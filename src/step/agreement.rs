//! Before data moves: whether every rank's input is valid and fits the others'. Every rank comes to
//! the same result.

use super::collective::Collective;
use super::exchange::Ranks;
use super::input::StepInput;
use crate::data::ClassSample;
use crate::error::Error;
use crate::kernel::{Precision, Real};
use crate::loss::MarginLoss;

/// A rank's input as the others see it: the length of its refusal, or 0; the first of its classes
/// and the one after the last; how many of them are active; and what has to be [`ALIKE`].
type Summary = [u64; 4 + ALIKE];
/// How many numbers have to be the same on every rank.
const ALIKE: usize = 11;

/// What has to be the same on every rank: the number, what is said of a rank that has another one
/// than rank 0, and the names of the numbers from 0 on, where they have any.
type Alike = (u64, &'static str, &'static [&'static str]);

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
        let fails = |rank, reason| Err(Error::Collective { rank, reason });
        // A larger number would be another one in the number type.
        let counted = match counted {
            Ok(_) if input.range.end as u64 > F::MOST_INDEX => {
                fails(collective.rank(), format!("classes beyond {} need f64", F::MOST_INDEX))
            }
            counted => counted,
        };
        let alike = counted.map(|counted| input.alike(loss, counted, embeddings));
        let refusal = alike.as_ref().err().map(Error::to_string).unwrap_or_default();
        let mut own: Summary = [0; _];
        own[0] = refusal.len() as u64;
        if let Ok(alike) = &alike {
            let held = [input.range.start, input.range.end, input.classes.labels()];
            let numbers = held.map(|number| number as u64).into_iter();
            let numbers = numbers.chain(alike.iter().map(|&(number, ..)| number));
            own[1..].iter_mut().zip(numbers).for_each(|(own, number)| *own = number);
        }
        let gathered = collective.all_gather(&own.map(F::from_index))?;
        let all: Vec<Summary> =
            gathered.as_chunks().0.iter().map(|numbers| numbers.map(F::to_index)).collect();
        if all.len() != collective.size() {
            return fails(
                collective.rank(),
                format!("gathered the numbers of {} ranks", all.len()),
            );
        }
        if all.iter().any(|[refusal, ..]| *refusal > 0) {
            return Err(refusal_of_all(collective, &all, &refusal, alike.err())?);
        }
        for (rank, summary) in all.iter().enumerate() {
            let numbers = summary[4..].iter().zip(&all[0][4..]).zip(alike.iter().flatten());
            for ((&own, &first), (_, difference, names)) in numbers {
                if own != first {
                    let name = |number: u64| match names.get(number as usize) {
                        Some(name) => (*name).into(),
                        None => number.to_string(),
                    };
                    let difference = difference.replace("{own}", &name(own));
                    return fails(rank, difference.replace("{first}", &name(first)));
                }
            }
        }
        input.check_classes(loss, check_ranges(&all)?)?;
        Ok(all.iter().map(|[_, _, _, active, ..]| *active as usize).sum())
    }
}

impl<F: Real> StepInput<'_, F> {
    /// What has to be the same on every rank, in the order in which it is compared.
    fn alike(&self, loss: &dyn MarginLoss, counted: usize, embeddings: bool) -> [Alike; ALIKE] {
        let (rows, dims) = self.embeddings.dim();
        let Self { samples, .. } = self;
        let values = digest(self.embeddings.iter().map(|x| x.widen().to_bits()));
        let labels = samples.labels.into_iter().flatten().chain(samples.ignored.as_slice());
        let numbers = [usize::from(samples.ignored.is_some()), self.most, samples.first_row];
        let objective = labels.chain(&numbers).map(|&number| number as u64);
        // Of each sample, which says more than the kind of the reduction.
        let weights = self.reduction.into_iter().flat_map(|reduction| {
            (0..rows).map(move |row| reduction.weight(row, counted).to_bits())
        });
        // The text of a loss has every parameter, and what it answers is only ever asked of samples
        // that there are.
        let answers = (loss.scale(), loss.label_smoothing(), loss.hard_negatives(), loss.binary());
        let text = format!("{loss:?}{answers:?}");
        // Inference corrects nothing.
        let corrected =
            |sample: &ClassSample| sample.is_corrected() && self.samples.labels.is_some();
        let sampling = samples.sample.map_or(0, |sample| 1 + u64::from(corrected(sample)));
        let objective = digest(objective.chain(weights));
        let (text, sub_centers) = (digest(text.bytes().map(u64::from)), self.classes.sub_centers);
        let precision = u64::from(self.settings.precision == Precision::Bf16);
        let [prior, embeddings] = [self.has_log_prior(), embeddings].map(u64::from);
        let of_sample = &["no sample", "a sample", "a sample with correction"];
        let of_prior = &["no class prior", "a class prior"];
        [
            (rows as u64, "{own} embeddings, on rank 0 {first}", &[]),
            (dims as u64, "embeddings of {own} dimensions, on rank 0 of {first}", &[]),
            (values, "the values of the embeddings are not those of rank 0", &[]),
            (objective, "labels or reduction are not those of rank 0", &[]),
            (text, "the loss or one of its parameters is not that of rank 0", &[]),
            (precision, "the precision of the products is not that of rank 0", &[]),
            (sub_centers as u64, "{own} sub-centers per class, on rank 0 {first}", &[]),
            (sampling, "takes {own} of the classes, rank 0 {first}", of_sample),
            (prior, "takes {own}, rank 0 {first}", of_prior),
            (counted as u64, "{own} samples count, on rank 0 {first}", &[]),
            (embeddings, "the gradient of the embeddings is requested on some ranks only", &[]),
        ]
    }
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

/// What every rank returns where some refuse: the refusal itself where all refuse alike, else that
/// of the first rank that refuses.
fn refusal_of_all<F: Real>(
    collective: &dyn Collective<F>,
    all: &[Summary],
    refusal: &str,
    own: Option<Error>,
) -> Result<Error, Error> {
    let bytes: Vec<F> = refusal.bytes().map(|byte| F::from_index(u64::from(byte))).collect();
    let gathered = collective.all_gather(&bytes)?;
    let bytes: Vec<u8> = gathered.iter().map(|byte| byte.to_index() as u8).collect();
    let mut rest = &bytes[..];
    let refusals = all.iter().map(|[length, ..]| {
        rest.split_off(..(*length as usize).min(rest.len())).unwrap_or_default()
    });
    let refusals: Vec<&[u8]> = refusals.collect();
    let rank = all.iter().position(|[length, ..]| *length > 0).unwrap_or_default();
    Ok(match own {
        Some(own) if refusals.iter().all(|other| *other == refusal.as_bytes()) => own,
        _ => {
            let reason = String::from_utf8_lossy(refusals[rank]).into_owned();
            Error::Collective { rank, reason }
        }
    })
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
