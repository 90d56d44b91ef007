//! The burn module: the code that `#[derive(Module)]` generates, except that moves between devices
//! leave parameters in main memory that are to stay there, and that records have a
//! [`Layout`](super::records::Layout) and fit any number of shards.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::{Device, Tensor};

use super::records::Layout;
use crate::MarginHead;
use crate::memory::main_memory;

const CONTAINER: &str = "Struct:MarginHead";

impl MarginHead {
    /// Where the parameters are on `device`, or on one with its autodiff settings.
    fn place(&self, device: &Device) -> Device {
        if self.is_on_device() { device.clone() } else { main_memory(device) }
    }
}

impl Module for MarginHead {
    fn collect_devices(&self, devices: Devices) -> Devices {
        let devices = self.shards.collect_devices(self.weights.collect_devices(devices));
        self.bias.collect_devices(devices)
    }

    /// The head with a new graph. Parameters in main memory stay there.
    fn fork(self, device: &Device) -> Self {
        let place = self.place(device);
        let (weights, shards) = (self.weights.fork(&place), self.shards.fork(&place));
        let bias = self.bias.fork(&place);
        MarginHead { weights, shards, bias, ..self }
    }

    /// Moves the parameters of a head on the device; those in main memory stay there.
    fn to_device(self, device: &Device) -> Self {
        if !self.is_on_device() {
            return self;
        }
        let (weights, shards) = (self.weights.to_device(device), self.shards.to_device(device));
        let bias = self.bias.to_device(device);
        MarginHead { weights, shards, bias, ..self }
    }

    fn train(self) -> Self {
        let (weights, shards) = (self.weights.train(), self.shards.train());
        MarginHead { weights, shards, bias: self.bias.train(), ..self }
    }

    fn valid(&self) -> Self {
        let (weights, shards) = (self.weights.valid(), self.shards.valid());
        MarginHead { weights, shards, bias: self.bias.valid(), ..self.clone() }
    }

    fn materialize(self) -> Self {
        let (weights, shards) = (self.weights.materialize(), self.shards.materialize());
        MarginHead { weights, shards, bias: self.bias.materialize(), ..self }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("sub_centers", CONTAINER);
        visitor.visit_int(&Layout::of(self).to_param(self.sub_centers));
        visitor.exit_module("sub_centers", CONTAINER);
        visitor.enter_module("weights", CONTAINER);
        self.weights.visit(visitor);
        visitor.exit_module("weights", CONTAINER);
        visitor.enter_module("shards", CONTAINER);
        self.shards.visit(visitor);
        visitor.exit_module("shards", CONTAINER);
        visitor.enter_module("bias", CONTAINER);
        self.bias.visit(visitor);
        visitor.exit_module("bias", CONTAINER);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        mapper.enter_module("sub_centers", CONTAINER);
        let own = Layout::of(&self);
        let layout = Layout::read(mapper.map_int(own.to_param(self.sub_centers)));
        mapper.exit_module("sub_centers", CONTAINER);
        // Only a record changes the layout. One of other shards is loaded as it is, and cut anew.
        match layout.filter(|layout| *layout != own && layout.rows == own.rows) {
            None => {
                let parts = (self.weights, self.shards, self.bias);
                let (weights, shards, bias) = mapped(parts, mapper);
                MarginHead { weights, shards, bias, ..self }
            }
            Some(layout) => {
                let (weights, shards) = layout.empty(&self);
                let (weights, shards, bias) = mapped((weights, shards, self.bias), mapper);
                let head = MarginHead { bias, ..self };
                head.with_rows_of(weights, shards)
            }
        }
    }
}

type Parts = (Param<Tensor<2>>, Vec<Param<Tensor<2>>>, Option<Param<Tensor<1>>>);

fn mapped<M: ModuleMapper>((weights, shards, bias): Parts, mapper: &mut M) -> Parts {
    mapper.enter_module("weights", CONTAINER);
    let weights = Module::map(weights, mapper);
    mapper.exit_module("weights", CONTAINER);
    mapper.enter_module("shards", CONTAINER);
    let shards = Module::map(shards, mapper);
    mapper.exit_module("shards", CONTAINER);
    mapper.enter_module("bias", CONTAINER);
    let bias = Module::map(bias, mapper);
    mapper.exit_module("bias", CONTAINER);
    (weights, shards, bias)
}

impl ModuleDisplayDefault for MarginHead {
    fn content(&self, content: Content) -> Option<Content> {
        let (mut rows, mut dims) = (0, 0);
        for weights in self.all_weights() {
            let [shard, columns] = weights.lazy_shape().dims();
            (rows, dims) = (rows + shard, columns);
        }
        content
            .add("dims", &dims)
            .add("classes", &(rows / self.sub_centers.max(1)))
            .add("sub_centers", &self.sub_centers)
            .add("on_device", &self.is_on_device())
            .add("bias", &self.bias.is_some())
            .add_debug_attribute("loss", &self.loss())
            .optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for MarginHead {}

impl std::fmt::Display for MarginHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&ModuleDisplay::format(self, Default::default()))
    }
}
