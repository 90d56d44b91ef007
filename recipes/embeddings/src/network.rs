//! The network and its head.

use anyhow::Result;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use margin_softmax::MarginLoss;
use margin_softmax_burn::{MarginHead, MarginHeadConfig};
use ndarray::Array2;

use crate::images::Images;
use crate::view::View;

/// Input and output channels of each block, and its stride.
const BLOCKS: [([usize; 2], usize); 4] =
    [([3, 16], 1), ([16, 32], 2), ([32, 64], 2), ([64, 128], 2)];

/// Pixels on each side of what the embedding is computed from, for images of any size.
const POOLED: usize = 4;

/// A small network; put your own in its place. The head comes last: burn trains on the device of
/// the first parameter.
#[derive(Module, Debug)]
pub struct Model {
    blocks: Vec<Block>,
    pool: AdaptiveAvgPool2d,
    embedding: Linear,
    normalization: BatchNorm,
    pub head: MarginHead,
}

#[derive(Module, Debug)]
struct Block {
    convolution: Conv2d,
    normalization: BatchNorm,
}

impl Model {
    pub fn new(
        dims: usize,
        classes: usize,
        loss: Box<dyn MarginLoss>,
        device: &Device,
        weights_on_device: bool,
    ) -> Result<Self> {
        let blocks = BLOCKS.map(|(channels, stride)| Block::new(channels, stride, device));
        let features = BLOCKS[BLOCKS.len() - 1].0[1] * POOLED * POOLED;
        let head = MarginHeadConfig::new(dims, classes).with_on_device(weights_on_device);
        Ok(Model {
            blocks: blocks.into(),
            pool: AdaptiveAvgPool2dConfig::new([POOLED, POOLED]).init(),
            // The normalization subtracts any bias again.
            embedding: LinearConfig::new(features, dims).with_bias(false).init(device),
            normalization: BatchNormConfig::new(dims).init(device),
            head: head.init(loss, device)?,
        })
    }

    /// The embeddings (N, D) of images (N, 3, size, size).
    pub fn embed(&self, images: Tensor<4>) -> Tensor<2> {
        let features = self.blocks.iter().fold(images, |images, block| block.forward(images));
        let features = self.pool.forward(features).flatten(1, 3);
        self.normalization.forward(self.embedding.forward(features))
    }

    /// The embeddings (M, D) of all images, as they are used: without gradients, and normalized by
    /// the running statistics instead of those of a batch.
    pub fn embed_all(&self, images: &Images, batch: usize, device: &Device) -> Result<Array2<f32>> {
        let (model, device) = (self.valid(), device.clone().inner());
        let rows: Vec<usize> = (0..images.len()).collect();
        let mut values = Vec::new();
        for rows in rows.chunks(batch) {
            let (pixels, _) = images.batch(rows, || View::PLAIN, &device);
            values.extend(model.embed(pixels).into_data_as::<f32>().try_into_vec::<f32>()?);
        }
        let dims = values.len() / images.len();
        Ok(Array2::from_shape_vec((images.len(), dims), values)?)
    }
}

impl Block {
    fn new([inputs, outputs]: [usize; 2], stride: usize, device: &Device) -> Self {
        let convolution = Conv2dConfig::new([inputs, outputs], [3, 3])
            .with_stride([stride, stride])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_bias(false);
        Block {
            convolution: convolution.init(device),
            normalization: BatchNormConfig::new(outputs).init(device),
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        relu(self.normalization.forward(self.convolution.forward(images)))
    }
}
