//! The burn module: gradients, use in a model, errors.

mod formulas;
mod gradients;
mod module;
mod refusals;
mod tensors;
