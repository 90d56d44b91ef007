//! A head within burn: its gradients, its place in a model, its refusals.

mod formulas;
mod gradients;
mod module;
mod refusals;
mod tensors;
