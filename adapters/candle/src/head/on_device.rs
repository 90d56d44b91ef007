//! A head whose class weights are on the network's device.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use margin_softmax::{Error, Head, MarginLoss};

use super::{MarginHead, class_weights};
use crate::error::refused;

impl MarginHead {
    /// As [`new`](Self::new), with the class weights on the device of `vb`, where each step also
    /// sweeps over the classes, tile by tile. What must be exact is computed in f64 in main memory,
    /// from embeddings and the rows of the samples' own classes.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::{VarBuilder, VarMap};
    /// use margin_softmax::ArcFace;
    /// use margin_softmax_candle::MarginHead;
    ///
    /// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// let head = MarginHead::on_device(ArcFace::new(16.0, 0.3)?, 3, 10, vb)?;
    /// let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// let loss = head.forward(&x, &Tensor::new(&[4_u32, 9], &Device::Cpu)?)?;
    /// assert_eq!(loss.backward()?.get(head.weight()).unwrap().dims(), [10, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn on_device(
        loss: impl MarginLoss + 'static,
        dims: usize,
        classes: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = class_weights(dims, classes, &vb)?;
        Self::on_device_from_parts(Head::new(Arc::new(loss)), weight, None)
    }

    /// As [`from_parts`](Self::from_parts), for class weights and bias on any device, which is that
    /// of the sweeps: see [`on_device`](Self::on_device). The memory budget has no effect.
    ///
    /// # Errors
    /// Those of [`from_parts`](Self::from_parts), but any device is accepted if it is the same.
    pub fn on_device_from_parts(
        head: Head<Arc<dyn MarginLoss>>,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> Result<Self> {
        if let Some(bias) = bias.as_ref().filter(|b| !b.device().same_device(weight.device())) {
            let device = format!("{:?}", bias.device().location());
            let reason = String::from("the bias is here, but the class weights are elsewhere");
            return Err(refused(Error::Device { device, reason }));
        }
        Ok(MarginHead { on_device: true, ..Self::from_checked_parts(head, weight, bias)? })
    }

    /// The same head, which sweeps over so many rows of class weights at a time where they are on
    /// the network's device. By default 2²¹ logits are held at a time, but 2048 rows at least
    /// (on a CPU 2¹⁷ and 512).
    pub fn with_rows_per_tile(self, rows: Option<usize>) -> Self {
        MarginHead { rows_per_tile: rows, ..self }
    }
}
