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

/// The settings of a head, which every entrance to the engine takes whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Bytes that logits may take between the sweeps.
    pub budget: usize,
    pub zero: ZeroEmbedding,
    /// What the factors of the products are rounded to.
    pub precision: Precision,
    /// The vector instructions of products and loops over tiles.
    pub level: Level,
}

impl Default for Settings {
    fn default() -> Self {
        let (zero, precision) = (ZeroEmbedding::Error, Precision::Full);
        Settings { budget: MEMORY_BUDGET, zero, precision, level: Level::detect() }
    }
}
