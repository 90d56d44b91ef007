//! A head whose class weights live on the network's device; `MARGIN_SOFTMAX_DEVICE` is `cpu`,
//! `cuda` or `metal`.

mod agreement;
mod behavior;
mod problem;
