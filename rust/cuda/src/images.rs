//! The kernels as they are embedded.

/// A file of `cuda/`.
#[derive(Debug)]
pub(crate) struct Image {
    /// Its name without the ending.
    pub file: &'static str,
    /// CUDA C++.
    pub source: &'static str,
    /// What nvcc made of it, if there was an nvcc when the library was built.
    pub fatbin: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));
