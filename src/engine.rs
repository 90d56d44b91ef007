//! How [`Head`](crate::Head) works, and what a step costs.
//!
#![doc = include_str!("../docs/two-sweeps.svg")]
//!
//! [`ClassParallel`]: crate::ClassParallel
//! [`Gradients::embeddings_only`]: crate::Gradients::embeddings_only
//! [`Gradients::weights_only`]: crate::Gradients::weights_only
//! [`LogSumExp`]: crate::LogSumExp
//! [`Precision::Bf16`]: crate::Precision::Bf16
//! [`sample_terms`]: crate::sample_terms
//! [`SampleTerms`]: crate::SampleTerms
//! [derivations]: crate::guide::math
//!
#![doc = include_str!("../docs/engine.md")]
