//! The integration tests, one module per subject, in one program: it links the crate once.

mod binary;
mod bits;
mod boundary;
mod check_loss;
mod class_parallel;
mod common;
#[cfg(feature = "serde")]
mod configuration;
mod energy;
mod errors;
#[cfg(feature = "serde")]
mod every_loss;
mod examples;
mod family;
mod finite_differences;
mod golden;
mod hard_negatives;
mod hyper_parameters;
mod ignored_labels;
mod inference;
mod label_smoothing;
mod layers;
mod log_prior;
mod logits;
mod losses_with_state;
mod misuse;
#[cfg(feature = "serde")]
mod mixed;
mod numerics;
mod offload;
mod one_side;
mod oracle;
mod own_losses;
mod pointers;
mod precision;
mod properties;
mod published;
mod ranks_at_fault;
mod readme;
mod refusals;
mod sampling;
mod schedules;
#[cfg(feature = "serde")]
mod serde;
mod side_by_side;
mod small_steps;
mod step;
mod sub_centers;
mod tiny;
mod top_k;
mod top_negatives;
mod update;
mod wider_family;
mod zero_rows;
