//! Devices by name, for examples, benchmarks and tests.

use burn::tensor::Device;

/// The device of this name; of its kind the default one.
pub fn named(name: &str) -> Result<Device, String> {
    match name {
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0usize)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(0usize)),
        "wgpu" | "vulkan" | "metal" | "cuda" | "rocm" => {
            Err(format!("the device {name} needs the feature {name} of margin-softmax-burn"))
        }
        _ => Err(format!("{name} is none of flex, wgpu, vulkan, metal, cuda, rocm")),
    }
}
