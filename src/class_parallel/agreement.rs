//! Before data moves: whether every rank's inputs are good and fit together. Every rank comes to
//! the same answer.

use std::ops::Range;

use super::collective::Collective;
use crate::batch::Reduction;
use crate::error::Error;
use crate::kernel::Real;

/// Numbers that a rank tells of itself: state, rows, dims, counted samples, range, digest.
const TOLD: usize = 7;

/// What one rank's inputs look like to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    /// 0, or the length of the refusal.
    state: u64,
    rows: u64,
    dims: u64,
    counted: u64,
    start: u64,
    end: u64,
    digest: u64,
}

impl Told {
    fn from_numbers<F: Real>(told: &[F]) -> Self {
        let number = |i: usize| told[i].to_index();
        Told {
            state: number(0),
            rows: number(1),
            dims: number(2),
            counted: number(3),
            start: number(4),
            end: number(5),
            digest: number(6),
        }
    }

    fn into_numbers<F: Real>(self) -> [F; TOLD] {
        let Told { state, rows, dims, counted, start, end, digest } = self;
        [state, rows, dims, counted, start, end, digest].map(F::from_index)
    }
}

/// One rank's inputs.
pub(super) struct Inputs<'a, F> {
    pub dims: (usize, usize),
    pub range: Range<usize>,
    pub labels: &'a [usize],
    pub reduction: Reduction<'a, F>,
}

impl<F: Real> Inputs<'_, F> {
    /// Tells all ranks of this one and judges what they tell.
    pub fn agree(
        &self,
        collective: &impl Collective<F>,
        counted: Result<usize, Error>,
    ) -> Result<(), Error> {
        let counted = counted.and_then(|counted| self.check_numbers(collective).map(|()| counted));
        let refusal = counted.as_ref().err().map(Error::to_string).unwrap_or_default();
        let told = Told {
            state: refusal.len() as u64,
            rows: self.dims.0 as u64,
            dims: self.dims.1 as u64,
            counted: counted.as_ref().map_or(0, |&counted| counted as u64),
            start: self.range.start as u64,
            end: self.range.end as u64,
            digest: self.digest(),
        };
        let gathered = collective.all_gather(&told.into_numbers())?;
        let all: Vec<Told> = gathered.chunks_exact(TOLD).map(Told::from_numbers).collect();
        if all.len() != collective.size() {
            let reason = format!("gathered the numbers of {} ranks", all.len());
            return Err(Error::Collective { rank: collective.rank(), reason });
        }
        if all.iter().any(|told| told.state > 0) {
            return Err(first_refusal(collective, &all, &refusal, counted.err())?);
        }
        check_alike(&all)?;
        let classes = check_ranges(&all)?;
        Error::check_labels(self.labels, classes)
    }

    /// Refuses numbers that the working type cannot carry.
    fn check_numbers(&self, collective: &impl Collective<F>) -> Result<(), Error> {
        if self.range.end as u64 <= F::MOST_INDEX {
            return Ok(());
        }
        let reason = format!("classes beyond {} need f64", F::MOST_INDEX);
        Err(Error::Collective { rank: collective.rank(), reason })
    }

    /// A number that differs, almost surely, where labels or reduction do: FNV-1a, cut to what
    /// every working type carries.
    fn digest(&self) -> u64 {
        let (kind, weights) = match &self.reduction {
            Reduction::Mean => (1, None),
            Reduction::Sum => (2, None),
            Reduction::Weighted(weights) => (3, Some(weights.iter().map(|g| g.widen().to_bits()))),
        };
        let labels = self.labels.iter().map(|&label| label as u64);
        let words = labels.chain([kind]).chain(weights.into_iter().flatten());
        let hash =
            words.flat_map(u64::to_le_bytes).fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        hash >> 34
    }
}

/// What every rank answers where some refuse: the refusal itself where all say the same, else the
/// words of the first rank that refuses.
fn first_refusal<F: Real>(
    collective: &impl Collective<F>,
    all: &[Told],
    refusal: &str,
    own: Option<Error>,
) -> Result<Error, Error> {
    let bytes: Vec<F> = refusal.bytes().map(|byte| F::from_index(u64::from(byte))).collect();
    let gathered = collective.all_gather(&bytes)?;
    let bytes: Vec<u8> = gathered.iter().map(|byte| byte.to_index() as u8).collect();
    let mut rest = &bytes[..];
    let mut texts = Vec::with_capacity(all.len());
    for told in all {
        let (text, others) = rest.split_at((told.state as usize).min(rest.len()));
        texts.push(text);
        rest = others;
    }
    if let Some(own) = own
        && texts.iter().all(|text| *text == refusal.as_bytes())
    {
        return Ok(own);
    }
    let rank = all.iter().position(|told| told.state > 0).unwrap_or_default();
    Ok(Error::Collective { rank, reason: String::from_utf8_lossy(texts[rank]).into_owned() })
}

/// Refuses the first rank whose batch is not that of rank 0.
fn check_alike(all: &[Told]) -> Result<(), Error> {
    let first = all[0];
    for (rank, told) in all.iter().enumerate() {
        let reason = if (told.rows, told.dims) != (first.rows, first.dims) {
            format!(
                "embeddings have shape [{}, {}], rank 0's [{}, {}]",
                told.rows, told.dims, first.rows, first.dims
            )
        } else if told.counted != first.counted {
            format!("{} samples count, on rank 0 {}", told.counted, first.counted)
        } else if told.digest != first.digest {
            "labels or reduction are not those of rank 0".into()
        } else {
            continue;
        };
        return Err(Error::Collective { rank, reason });
    }
    Ok(())
}

/// Refuses ranges that leave a class out or hold one twice; answers how many classes there are.
fn check_ranges(all: &[Told]) -> Result<usize, Error> {
    let mut ranges: Vec<_> = all.iter().map(|told| (told.start, told.end)).zip(0..).collect();
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
