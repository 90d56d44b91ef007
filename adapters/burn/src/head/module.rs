//! The burn module: the code that `#[derive(Module)]` generates, except that moves between devices
//! leave the parameters in main memory.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;

use crate::MarginHead;
use crate::memory::main_memory;

const CONTAINER: &str = "Struct:MarginHead";

impl Module for MarginHead {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.bias.collect_devices(self.weights.collect_devices(devices))
    }

    /// The head with a new graph. Its parameters stay in main memory.
    fn fork(self, device: &Device) -> Self {
        let memory = main_memory(device);
        let (weights, bias) = (self.weights.fork(&memory), self.bias.fork(&memory));
        MarginHead { weights, bias, ..self }
    }

    /// Returns the head unchanged: its parameters stay in main memory.
    fn to_device(self, _: &Device) -> Self {
        self
    }

    fn train(self) -> Self {
        MarginHead { weights: self.weights.train(), bias: self.bias.train(), ..self }
    }

    fn valid(&self) -> Self {
        MarginHead { weights: self.weights.valid(), bias: self.bias.valid(), ..self.clone() }
    }

    fn materialize(self) -> Self {
        MarginHead { weights: self.weights.materialize(), bias: self.bias.materialize(), ..self }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("weights", CONTAINER);
        self.weights.visit(visitor);
        visitor.exit_module("weights", CONTAINER);
        visitor.enter_module("bias", CONTAINER);
        self.bias.visit(visitor);
        visitor.exit_module("bias", CONTAINER);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        mapper.enter_module("weights", CONTAINER);
        let weights = Module::map(self.weights, mapper);
        mapper.exit_module("weights", CONTAINER);
        mapper.enter_module("bias", CONTAINER);
        let bias = Module::map(self.bias, mapper);
        mapper.exit_module("bias", CONTAINER);
        MarginHead { weights, bias, ..self }
    }
}

impl ModuleDisplayDefault for MarginHead {
    fn content(&self, content: Content) -> Option<Content> {
        let [rows, dims] = self.weights.lazy_shape().dims();
        content
            .add("dims", &dims)
            .add("classes", &(rows / self.sub_centers.max(1)))
            .add("sub_centers", &self.sub_centers)
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
