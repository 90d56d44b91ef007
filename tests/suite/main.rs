//! The integration tests, one module per subject, in one program: it links the crate once.

mod bits;
mod boundary;
mod class_parallel;
mod common;
mod energy;
mod errors;
mod family;
mod finite_differences;
mod golden;
mod hyper_parameters;
mod ignored_labels;
mod inference;
mod label_smoothing;
mod layers;
mod logits;
mod misuse;
mod numerics;
mod one_side;
mod oracle;
mod pointers;
mod precision;
mod properties;
mod published;
mod ranks_at_fault;
mod refusals;
mod sampling;
mod schedules;
#[cfg(feature = "serde")]
mod serde;
mod side_by_side;
mod small_steps;
mod step;
mod update;
mod zero_rows;
