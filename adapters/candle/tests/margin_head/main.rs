//! A head within candle: its gradients, parameters and errors.

mod gradients;
mod head;
mod labels;
mod log_prior;
mod naive;
mod reductions;
mod sampling;
mod sub_centers;
mod tensors;
mod threads;
