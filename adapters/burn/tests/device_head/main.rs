//! A head whose class weights are on the device, against the core in f64.
//!
//! The device is that of the environment variable `MARGIN_SOFTMAX_DEVICE`: `flex` (the default),
//! `wgpu`, `vulkan`, `metal`, `cuda` or `rocm`, of which all but the first need the
//! feature of that name.

mod agreement;
mod defaults;
mod inference;
mod large;
mod module;
mod problem;
mod refusals;
mod sampling;
