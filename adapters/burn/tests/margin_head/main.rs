//! A head within burn: its gradients, its place in a model, its refusals.

mod formulas;
mod gradients;
mod labels;
mod module;
mod problem;
mod reductions;
mod refusals;
mod sampling;
mod tensors;
mod threads;
