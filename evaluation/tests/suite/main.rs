//! The integration tests, one module per subject, in one program: it links the crate once.

mod bootstrap;
mod by_hand;
mod identification;
mod properties;
mod refusals;
mod retrieval;
mod sklearn;
mod tiles;
