//! The kernels as they are embedded.

/// A file of `cuda/`.
#[derive(Debug)]
pub struct Image {
    /// Its name without the ending.
    pub file: &'static str,
    /// CUDA C++.
    pub source: &'static str,
    /// What nvcc made of it, if there was an nvcc when the library was built.
    pub fatbin: Option<&'static [u8]>,
}

/// Every file of kernels, in alphabetical order.
pub fn images() -> &'static [Image] {
    IMAGES
}

/// The architectures that fatbins have an image for; none if the kernels are embedded as source only.
pub fn embedded_architectures() -> &'static [&'static str] {
    ARCHITECTURES
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));
