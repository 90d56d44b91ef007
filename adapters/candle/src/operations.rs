//! Candle's tensors, as the steps of a head use them.

use std::marker::PhantomData;
use std::ops::Range;

use candle_core::{Device, Error, Result, Tensor, WithDType};
use margin_softmax::Real;
use margin_softmax_device::{Binary, Map, Operations, Reduce};
use ndarray::{Array2, ArrayView2};

use crate::error::refused;
use crate::tensor;

/// Numbers of rows or columns as a tensor.
pub(crate) fn ids(numbers: impl Iterator<Item = usize>, device: &Device) -> Result<Tensor> {
    let numbers = numbers.map(u32::try_from).collect::<std::result::Result<Vec<u32>, _>>();
    Tensor::new(numbers.map_err(Error::wrap)?, device)
}

/// Tensors of a device without a graph, computed in `F`.
#[derive(Debug, Clone)]
pub(crate) struct OnCandle<F> {
    device: Device,
    float: PhantomData<F>,
}

impl<F> OnCandle<F> {
    pub fn new(device: Device) -> Self {
        OnCandle { device, float: PhantomData }
    }
}

impl<F: Real + WithDType> Operations for OnCandle<F> {
    type Float = F;
    type Matrix = Tensor;
    type Mask = Tensor;
    type Error = Error;

    fn refused(&self, error: margin_softmax::Error) -> Error {
        refused(error)
    }

    fn name(&self) -> String {
        format!("{:?}", self.device.location())
    }

    fn is_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    fn shape(&self, matrix: &Tensor) -> [usize; 2] {
        // Every tensor of a step is a matrix.
        matrix.dims2().map_or([0, 0], |(rows, columns)| [rows, columns])
    }

    fn upload(&self, numbers: Array2<F>) -> Result<Tensor> {
        tensor::tensor(numbers)?.to_device(&self.device)
    }

    fn download(&self, matrices: Vec<Tensor>) -> Result<Vec<Array2<F>>> {
        let read = |matrix: Tensor| {
            let numbers = matrix.flatten_all()?.to_vec1::<F>()?;
            Array2::from_shape_vec(matrix.dims2()?, numbers).map_err(Error::wrap)
        };
        matrices.into_iter().map(read).collect()
    }

    fn view<R>(
        &self,
        matrix: &Tensor,
        read: impl FnOnce(ArrayView2<'_, F>) -> Result<R>,
    ) -> Result<R> {
        let (storage, layout) = matrix.storage_and_layout();
        read(tensor::matrix(&storage, layout)?)
    }

    fn zeros(&self, shape: [usize; 2]) -> Result<Tensor> {
        Tensor::zeros(&shape, F::DTYPE, &self.device)
    }

    fn rows(&self, of: &Tensor, rows: Range<usize>) -> Result<Tensor> {
        of.narrow(0, rows.start, rows.len())
    }

    fn columns(&self, of: &Tensor, columns: Range<usize>) -> Result<Tensor> {
        of.narrow(1, columns.start, columns.len())
    }

    fn select(&self, from: &Tensor, rows: &[usize]) -> Result<Tensor> {
        let rows = ids(rows.iter().copied(), &self.device)?;
        from.contiguous()?.index_select(&rows, 0)
    }

    fn cat(&self, parts: Vec<Tensor>, axis: usize) -> Result<Tensor> {
        Tensor::cat(&parts, axis)
    }

    fn add_rows(&self, to: Tensor, rows: &[usize], part: Tensor) -> Result<Tensor> {
        let rows = ids(rows.iter().copied(), &self.device)?;
        to.contiguous()?.index_add(&rows, &part.contiguous()?, 0)
    }

    fn put_rows(&self, to: Tensor, start: usize, part: Tensor) -> Result<Tensor> {
        to.slice_set(&part.contiguous()?, 0, start)?;
        Ok(to)
    }

    fn map(&self, matrix: Tensor, map: Map) -> Result<Tensor> {
        match map {
            Map::Abs => matrix.abs(),
            Map::AtLeast(least) => matrix.maximum(least),
            Map::Exp => matrix.exp(),
            Map::Reciprocal => matrix.recip(),
            Map::Root => matrix.sqrt(),
            Map::Square => matrix.sqr(),
            Map::Power(exponent) => matrix.powf(exponent),
            Map::Affine(factor, constant) => matrix.affine(factor, constant),
        }
    }

    fn combine(&self, a: Tensor, operation: Binary, b: &Tensor) -> Result<Tensor> {
        match operation {
            Binary::Add => a.broadcast_add(b),
            Binary::Subtract => a.broadcast_sub(b),
            Binary::Multiply => a.broadcast_mul(b),
            Binary::Divide => a.broadcast_div(b),
        }
    }

    fn reduce(&self, matrix: &Tensor, reduce: Reduce, axis: usize) -> Result<Tensor> {
        match reduce {
            Reduce::Sum => matrix.sum_keepdim(axis),
            Reduce::Smallest => matrix.min_keepdim(axis),
            Reduce::Largest => matrix.max_keepdim(axis),
        }
    }

    fn product(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        a.matmul(b)
    }

    fn transposed(&self, matrix: &Tensor) -> Result<Tensor> {
        matrix.t()
    }

    fn largest(&self, matrix: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((matrix.max_keepdim(1)?, matrix.argmax_keepdim(1)?.to_dtype(F::DTYPE)?))
    }

    fn largest_of(&self, matrix: Tensor, k: usize) -> Result<(Tensor, Tensor)> {
        let (samples, columns) = matrix.dims2()?;
        let by_class = matrix.reshape((samples, columns / k, k))?;
        let rows = ids(0..k, &self.device)?.reshape((1, 1, k))?;
        let chosen = by_class.argmax_keepdim(2)?.broadcast_eq(&rows)?.to_dtype(F::DTYPE)?;
        Ok((by_class.max(2)?, chosen.flatten_from(1)?))
    }

    fn repeat(&self, matrix: &Tensor, k: usize) -> Result<Tensor> {
        let (samples, columns) = matrix.dims2()?;
        matrix.unsqueeze(2)?.broadcast_as((samples, columns, k))?.flatten_from(1)
    }

    fn at(&self, numbers: &Tensor, columns: usize) -> Result<Tensor> {
        let all = ids(0..columns, &self.device)?.unsqueeze(0)?.to_dtype(F::DTYPE)?;
        numbers.broadcast_eq(&all)
    }

    fn above(&self, matrix: &Tensor, threshold: &Tensor) -> Result<Tensor> {
        matrix.broadcast_gt(threshold)
    }

    fn replace(&self, matrix: Tensor, mask: &Tensor, other: &Tensor) -> Result<Tensor> {
        mask.where_cond(other, &matrix)
    }

    fn fill(&self, matrix: Tensor, mask: &Tensor, number: f64) -> Result<Tensor> {
        let number = Tensor::new(&[<F as WithDType>::from_f64(number)], &self.device)?;
        mask.where_cond(&number.broadcast_as(matrix.shape())?, &matrix)
    }
}
