//! Before data moves: whether every rank's input is valid and fits the others'. Every rank comes to
//! the same result.

use super::collective::Collective;
use super::communication::StepReport;
use super::input::StepInput;
use crate::data::{ClassSample, Reduction, Scale};
use crate::error::Error;
use crate::kernel::{Precision, Real};
use crate::loss::MarginLoss;

/// Numbers in a [`Summary`].
const SUMMARY: usize = 16;

/// One rank's input as the other ranks see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Summary {
    /// 0, or the length of the refusal.
    refusal: u64,
    rows: u64,
    dims: u64,
    counted: u64,
    start: u64,
    end: u64,
    /// Whether the gradient of the embeddings is requested.
    embeddings_wanted: u64,
    /// A digest of labels and reduction.
    objective: u64,
    loss: u64,
    embeddings: u64,
    /// Whether the factors of the products are rounded to bf16.
    rounded: u64,
    /// How many classes are active.
    classes: u64,
    /// Whether a loss has a penalty.
    penalised: u64,
    /// Rows of each class.
    sub_centers: u64,
    /// Whether the classes are sampled: not, without a correction of the logits, or with one.
    sampling: u64,
    /// Whether there is a class prior.
    log_prior: u64,
}

impl Summary {
    fn from_numbers<F: Real>(numbers: &[F]) -> Self {
        let number = |i: usize| numbers[i].to_index();
        Summary {
            refusal: number(0),
            rows: number(1),
            dims: number(2),
            counted: number(3),
            start: number(4),
            end: number(5),
            embeddings_wanted: number(6),
            objective: number(7),
            loss: number(8),
            embeddings: number(9),
            rounded: number(10),
            classes: number(11),
            penalised: number(12),
            sub_centers: number(13),
            sampling: number(14),
            log_prior: number(15),
        }
    }

    fn into_numbers<F: Real>(self) -> [F; SUMMARY] {
        [
            self.refusal,
            self.rows,
            self.dims,
            self.counted,
            self.start,
            self.end,
            self.embeddings_wanted,
            self.objective,
            self.loss,
            self.embeddings,
            self.rounded,
            self.classes,
            self.penalised,
            self.sub_centers,
            self.sampling,
            self.log_prior,
        ]
        .map(F::from_index)
    }
}

/// One rank's input.
pub(super) struct RankInput<'a, 'i, F>(pub &'a StepInput<'i, F>);

impl<F: Real> RankInput<'_, '_, F> {
    /// Refuses a loss for another number of classes before it is asked of any: one extra call, of the
    /// losses alone that do not take every number.
    pub fn check_classes(
        &self,
        collective: &dyn Collective<F>,
        loss: &dyn MarginLoss,
    ) -> Result<(), Error> {
        if self.0.labels.is_none() || loss.check_classes(usize::MAX).is_ok() {
            return Ok(());
        }
        let end = (self.0.range.end as u64).min(F::MOST_INDEX);
        let ends = collective.all_gather(&[F::from_index(end)])?;
        let classes = ends.iter().map(|end| end.to_index()).max().unwrap_or(0);
        loss.check_classes(classes as usize)
    }

    /// Shares a summary of this rank with all ranks and compares theirs.
    pub fn agree(
        &self,
        collective: &dyn Collective<F>,
        loss: &dyn MarginLoss,
        report: Result<StepReport, Error>,
    ) -> Result<StepReport, Error> {
        let report = report.and_then(|report| self.check_numbers(collective).map(|()| report));
        let refusal = report.as_ref().err().map(Error::to_string).unwrap_or_default();
        let summary = self.summary(loss, refusal.len(), report.as_ref().ok());
        let gathered = collective.all_gather(&summary.into_numbers())?;
        let all: Vec<Summary> = gathered.chunks_exact(SUMMARY).map(Summary::from_numbers).collect();
        if all.len() != collective.size() {
            let reason = format!("gathered the numbers of {} ranks", all.len());
            return Err(Error::Collective { rank: collective.rank(), reason });
        }
        if all.iter().any(|summary| summary.refusal > 0) {
            return Err(first_refusal(collective, &all, &refusal, report.err())?);
        }
        check_alike(&all)?;
        let classes = check_ranges(&all)?;
        self.0.check_classes(loss, classes)?;
        Ok(StepReport {
            classes: all.iter().map(|summary| summary.classes as usize).sum(),
            penalised: all.iter().any(|summary| summary.penalised > 0),
            ..report?
        })
    }

    fn summary(
        &self,
        loss: &dyn MarginLoss,
        refusal: usize,
        report: Option<&StepReport>,
    ) -> Summary {
        let (rows, dims) = self.0.embeddings.dim();
        Summary {
            refusal: refusal as u64,
            rows: rows as u64,
            dims: dims as u64,
            counted: report.map_or(0, |report| report.counted as u64),
            start: self.0.range.start as u64,
            end: self.0.range.end as u64,
            embeddings_wanted: report.map_or(0, |report| u64::from(report.embeddings)),
            objective: self.objective_digest(),
            loss: self.loss_digest(loss),
            rounded: report.map_or(0, |report| u64::from(report.precision == Precision::Bf16)),
            classes: report.map_or(0, |report| report.classes as u64),
            penalised: report.map_or(0, |report| u64::from(report.penalised)),
            sub_centers: report.map_or(0, |report| report.sub_centers as u64),
            sampling: self.sampling(),
            log_prior: u64::from(self.0.has_log_prior()),
            embeddings: digest(self.0.embeddings.iter().map(|x| x.widen().to_bits())),
        }
    }

    /// Inference corrects nothing.
    fn sampling(&self) -> u64 {
        let corrected = |sample: &ClassSample| sample.is_corrected() && self.0.labels.is_some();
        self.0.sample.map_or(0, |sample| 1 + u64::from(corrected(sample)))
    }

    /// Refuses numbers that the number type cannot carry.
    fn check_numbers(&self, collective: &dyn Collective<F>) -> Result<(), Error> {
        if self.0.range.end as u64 <= F::MOST_INDEX {
            return Ok(());
        }
        let reason = format!("classes beyond {} need f64", F::MOST_INDEX);
        Err(Error::Collective { rank: collective.rank(), reason })
    }

    /// The digest of labels and reduction.
    fn objective_digest(&self) -> u64 {
        let labels = self.0.labels.into_iter().flatten().map(|&label| label as u64);
        let ignored = self.0.ignored.map(|label| label as u64);
        let ignored = [u64::from(ignored.is_some()), ignored.unwrap_or_default()];
        let (kind, weights) = match &self.0.reduction {
            None => (0, None),
            Some(Reduction::Mean) => (1, None),
            Some(Reduction::Sum) => (2, None),
            Some(Reduction::Weighted(weights)) => (3, Some(weights.iter())),
        };
        let weights = weights.into_iter().flatten().map(|g| g.widen().to_bits());
        let (most, first_row) = (self.0.most as u64, self.0.first_row as u64);
        digest(labels.chain(ignored).chain([kind, most, first_row]).chain(weights))
    }

    /// The digest of a loss: its text has every parameter, and what it answers is only ever asked
    /// of samples that there are.
    fn loss_digest(&self, loss: &dyn MarginLoss) -> u64 {
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
    for summary in all {
        let (text, others) = rest.split_at((summary.refusal as usize).min(rest.len()));
        texts.push(text);
        rest = others;
    }
    if let Some(own) = own
        && texts.iter().all(|text| *text == refusal.as_bytes())
    {
        return Ok(own);
    }
    let rank = all.iter().position(|summary| summary.refusal > 0).unwrap_or_default();
    Ok(Error::Collective { rank, reason: String::from_utf8_lossy(texts[rank]).into_owned() })
}

/// Refuses the first rank whose step is not that of rank 0.
fn check_alike(all: &[Summary]) -> Result<(), Error> {
    let first = all[0];
    for (rank, summary) in all.iter().enumerate() {
        let reason = if (summary.rows, summary.dims) != (first.rows, first.dims) {
            format!(
                "embeddings have shape [{}, {}], rank 0's [{}, {}]",
                summary.rows, summary.dims, first.rows, first.dims
            )
        } else if summary.embeddings != first.embeddings {
            "the values of the embeddings are not those of rank 0".into()
        } else if summary.objective != first.objective {
            "labels or reduction are not those of rank 0".into()
        } else if summary.loss != first.loss {
            "the loss or one of its parameters is not that of rank 0".into()
        } else if summary.rounded != first.rounded {
            "the precision of the products is not that of rank 0".into()
        } else if summary.sub_centers != first.sub_centers {
            format!(
                "{} sub-centers per class, on rank 0 {}",
                summary.sub_centers, first.sub_centers
            )
        } else if summary.sampling != first.sampling {
            let name = |sampling| ["no sample", "a sample", "a sample with correction"][sampling];
            let [own, other] =
                [summary, &first].map(|summary| name(summary.sampling.min(2) as usize));
            format!("takes {own} of the classes, rank 0 {other}")
        } else if summary.log_prior != first.log_prior {
            let name = |given| if given > 0 { "a class prior" } else { "no class prior" };
            format!("takes {}, rank 0 {}", name(summary.log_prior), name(first.log_prior))
        } else if summary.counted != first.counted {
            format!("{} samples count, on rank 0 {}", summary.counted, first.counted)
        } else if summary.embeddings_wanted != first.embeddings_wanted {
            "the gradient of the embeddings is requested on some ranks only".into()
        } else {
            continue;
        };
        return Err(Error::Collective { rank, reason });
    }
    Ok(())
}

/// Refuses ranges that leave a class out or hold one twice; returns how many classes there are.
fn check_ranges(all: &[Summary]) -> Result<usize, Error> {
    let mut ranges: Vec<_> =
        all.iter().map(|summary| (summary.start, summary.end)).zip(0..).collect();
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
