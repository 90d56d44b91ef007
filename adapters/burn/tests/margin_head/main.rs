//! The burn module: gradients, use in a model, errors.

mod formulas;
mod gradients;
mod labels;
mod log_prior;
mod module;
mod problem;
mod reductions;
mod refusals;
mod sampling;
mod sub_centers;
mod tensors;
mod threads;
