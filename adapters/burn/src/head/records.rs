//! Records of a head with other shards.

use burn::module::{Module, Param};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Tensor;
use burn_pack::Reader;

use super::MarginHead;

/// The parameters of a head, at the paths of its records.
#[derive(Module, Debug)]
struct Parameters {
    weights: Param<Tensor<2>>,
    shards: Vec<Param<Tensor<2>>>,
    bias: Option<Param<Tensor<1>>>,
}

impl MarginHead {
    /// Loads a record. One with other shards is loaded in main memory and cut anew.
    pub(super) fn load(self, record: ModuleRecord) -> Result<Self, RecordError> {
        let own: Vec<usize> = self.all_weights().map(|shard| shard.lazy_shape()[0]).collect();
        let recorded = rows_of_shards(&record)?;
        let fits = own == recorded;
        let dims = self.weights.lazy_shape()[1];
        let MarginHead { mut weights, mut shards, bias, .. } = self.clone();
        let device = self.weights.lazy_device();
        if !fits {
            let memory = crate::memory::main_memory(&device);
            let mut empty = recorded
                .iter()
                .map(|&rows| Param::from_tensor(Tensor::<2>::zeros([rows, dims], &memory)));
            weights = empty.next().ok_or_else(|| missing("weights"))?;
            shards = empty.collect();
        }
        let loaded = Parameters { weights, shards, bias }.try_load_record(record)?;
        let Parameters { mut weights, mut shards, bias } = loaded;
        if !fits {
            let all: Vec<Tensor<2>> =
                std::iter::once(&weights).chain(&shards).map(|shard| shard.val()).collect();
            let total: usize = recorded.iter().sum();
            if total != own.iter().sum::<usize>() {
                let rows = own.iter().sum::<usize>();
                let reason = format!("weights: the record has {total} rows, the head {rows}");
                return Err(RecordError::Validation(reason));
            }
            let all = Tensor::cat(all, 0).detach();
            let mut first = 0;
            let mut cut = own.iter().map(|rows| {
                let rows = first..first + rows;
                first = rows.end;
                all.clone().slice([rows]).to_device(&device).detach()
            });
            let head = cut.next().map(|rows| weights.clone().transform_for_load(rows, weights.id));
            weights = head.ok_or_else(|| missing("weights"))?;
            shards = cut.map(Param::from_tensor).collect();
        }
        Ok(MarginHead { weights, shards, bias, ..self })
    }
}

fn missing(path: &str) -> RecordError {
    RecordError::Validation(format!("Missing tensors: {path}"))
}

/// The rows of the class weights in a record, shard by shard.
fn rows_of_shards(record: &ModuleRecord) -> Result<Vec<usize>, RecordError> {
    let bytes = record.clone().into_bytes()?;
    let mut shards = Vec::new();
    for tensor in Reader::from_bytes(bytes)?.into_tensors()? {
        let place = match tensor.name.split_once('.') {
            None if tensor.name == "weights" => 0,
            Some(("shards", number)) => 1 + number.parse::<usize>().unwrap_or(usize::MAX - 1),
            _ => continue,
        };
        shards.push((place, tensor.shape.to_vec().first().copied().unwrap_or(0)));
    }
    shards.sort_unstable();
    Ok(shards.into_iter().map(|(_, rows)| rows).collect())
}
