//! How a step computes.

use crate::kernel::{Level, Precision};

/// Bytes that logits may take between the sweeps by default.
const MEMORY_BUDGET: usize = 256 << 20;

/// How to treat an embedding that is zero, or shorter than the smallest norm that is accepted
/// (1e-30 in f32, 1e-290 in f64), and has no direction. Softmax needs none: it accepts any finite
/// embedding under either rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ZeroEmbedding {
    /// The step is refused with [`Error::DegenerateNorm`](crate::Error::DegenerateNorm).
    #[default]
    Error,
    /// The sample is ignored: its loss and gradient are 0, it does not count in a mean.
    Skip,
}

/// The settings of a head, which every entrance to the engine takes whole:
/// [`Head::with_settings`](crate::Head::with_settings).
///
/// ```
/// use margin_softmax::offload::Settings;
/// use margin_softmax::{ArcFace, Head, Precision, ZeroEmbedding};
///
/// let settings = Settings::default()
///     .with_memory_budget(1 << 20)
///     .with_zero_embeddings(ZeroEmbedding::Skip)
///     .with_precision(Precision::Bf16);
/// let head = Head::new(ArcFace::default()).with_settings(settings);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bytes that logits may take between the sweeps.
    pub(crate) budget: usize,
    pub(crate) zero: ZeroEmbedding,
    /// What the factors of the products are rounded to.
    pub(crate) precision: Precision,
    /// The vector instructions of products and loops over tiles.
    pub(crate) level: Level,
}

impl Settings {
    /// As [`Head::with_memory_budget`](crate::Head::with_memory_budget); 256 MiB by default.
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        Settings { budget: bytes, ..self }
    }

    /// As [`Head::with_zero_embeddings`](crate::Head::with_zero_embeddings); an error by default.
    pub fn with_zero_embeddings(self, zero: ZeroEmbedding) -> Self {
        Settings { zero, ..self }
    }

    /// As [`Head::with_precision`](crate::Head::with_precision); full by default.
    pub fn with_precision(self, precision: Precision) -> Self {
        Settings { precision, ..self }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let (zero, precision) = (ZeroEmbedding::Error, Precision::Full);
        Settings { budget: MEMORY_BUDGET, zero, precision, level: Level::detect() }
    }
}
