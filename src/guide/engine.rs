//! How [`Head`](crate::Head) works, and what a step costs.
//!
#![doc = include_str!("../../docs/two-sweeps.svg")]
//!
//! [`Head::on_ranks`]: crate::Head::on_ranks
//! [`Gradients::embeddings_only`]: crate::Gradients::embeddings_only
//! [`Gradients::weights_only`]: crate::Gradients::weights_only
//! [`LogSumExp`]: crate::offload::LogSumExp
//! [`OffloadedStep`]: crate::offload::OffloadedStep
//! [`Precision::Bf16`]: crate::Precision::Bf16
//! [`sample_terms`]: crate::offload::sample_terms
//! [`SampleTerms`]: crate::offload::SampleTerms
//! [benchmarks]: crate::guide::benchmarks
//! [derivations]: crate::guide::math
//!
#![doc = include_str!("../../docs/engine.md")]
