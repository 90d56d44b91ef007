//! What records hold besides the parameters, so that they fit any number of shards.

use std::iter::once;

use burn::module::{Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::MarginHead;
use crate::memory::main_memory;

type Matrix = Param<Tensor<2>>;

/// How the rows of the class weights are cut into shards: `rows` of them, of which `per_shard` are
/// in each shard but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub rows: usize,
    per_shard: usize,
}

impl Layout {
    pub fn of(head: &MarginHead) -> Self {
        let rows = head.all_weights().map(|shard| shard.lazy_shape()[0]).sum();
        Layout { rows, per_shard: head.weights.lazy_shape()[0] }
    }

    /// An entry of a record, in main memory (K, 2). Burn compares shapes: a head with another number
    /// of sub-centers refuses the record.
    pub fn to_param(self, sub_centers: usize) -> Param<Tensor<2, Int>> {
        let numbers = [self.rows as i64, self.per_shard as i64].repeat(sub_centers);
        let numbers = TensorData::new(numbers, [sub_centers, 2]);
        let entry = Tensor::from_data(numbers, (&Device::flex(), DType::I64));
        Param::initialized(ParamId::new(), entry)
    }

    /// The layout of such an entry; `None` for none.
    pub fn read(entry: Param<Tensor<2, Int>>) -> Option<Self> {
        let numbers: Vec<i64> = entry.val().into_data().iter::<i64>().take(2).collect();
        let &[rows, per_shard] = &numbers[..] else { return None };
        let (rows, per_shard) = (usize::try_from(rows).ok()?, usize::try_from(per_shard).ok()?);
        (per_shard > 0).then_some(Layout { rows, per_shard })
    }

    /// Shards of this layout in main memory, of the type of the head's.
    pub fn empty(&self, head: &MarginHead) -> (Matrix, Vec<Matrix>) {
        let (dims, dtype) = (head.weights.lazy_shape()[1], head.weights.val().dtype());
        let memory = main_memory(&head.weights.lazy_device());
        let shard =
            |rows: usize| Param::from_tensor(Tensor::<2>::zeros([rows, dims], (&memory, dtype)));
        let following = (self.per_shard..self.rows).step_by(self.per_shard);
        let following = following.map(|first| shard(self.per_shard.min(self.rows - first)));
        (shard(self.per_shard.min(self.rows)), following.collect())
    }
}

impl MarginHead {
    /// The head with the rows of these shards, cut as its own are. They get new ids: the state of an
    /// optimizer, which is that of the other shards, is not theirs.
    pub(super) fn with_rows_of(mut self, weights: Matrix, shards: Vec<Matrix>) -> Self {
        let all = once(&weights).chain(&shards).map(|shard| shard.val().detach()).collect();
        let all = Tensor::cat(all, 0);
        let mut first = 0;
        for shard in self.all_weights_mut() {
            let rows = first..first + shard.lazy_shape()[0];
            first = rows.end;
            let rows = all.clone().slice([rows]).to_device(&shard.lazy_device()).detach();
            *shard = shard.clone().transform_for_load(rows, ParamId::new());
        }
        self
    }
}
