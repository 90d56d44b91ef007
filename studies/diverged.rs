//! For every study: which runs have diverged.

use margin_softmax::Error;

/// Whether the loss returned an error because the numbers of the network overflowed or vanished.
pub fn diverged(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(Error::NonFinite { .. } | Error::DegenerateNorm { .. } | Error::Overflow { .. })
    )
}
