//! The integration tests, one module per subject, in one program: it links the crate once.

mod by_hand;
mod properties;
mod refusals;
mod sklearn;
mod tiles;
