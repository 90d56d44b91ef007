//! A head within candle: its gradients, parameters and errors.

mod gradients;
mod head;
mod labels;
mod naive;
mod reductions;
mod sampling;
mod tensors;
mod threads;
