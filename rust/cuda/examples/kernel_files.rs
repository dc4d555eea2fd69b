//! Writes what is embedded of the kernels to a folder, and what NVRTC makes of their sources. `tools/cuda_gates` reads it.
//!
//! ```text
//!   launches.tsv             file, kernel, the sizes of its arguments
//!   nvcc/norm.fatbin         as it is embedded
//!   nvrtc/norm.sm_80.cubin   of the embedded source and headers, and of nothing else
//! ```

use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

use rustllm_cuda::{LAUNCHES, compile_kernels, embedded_architectures, images};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args().nth(1).ok_or("usage: kernel_files FOLDER")?);
    let (nvcc, nvrtc) = (folder.join("nvcc"), folder.join("nvrtc"));
    fs::create_dir_all(&nvcc)?;
    fs::create_dir_all(&nvrtc)?;
    let mut launches = String::new();
    for launch in LAUNCHES {
        let sizes: Vec<String> = launch.argument_bytes.iter().map(ToString::to_string).collect();
        writeln!(launches, "{}\t{}\t{}", launch.file, launch.entry, sizes.join(" "))?;
    }
    fs::write(folder.join("launches.tsv"), launches)?;
    for image in images() {
        let fatbin = image.fatbin.ok_or("this build has no fatbins: there was no nvcc")?;
        fs::write(nvcc.join(image.file).with_extension("fatbin"), fatbin)?;
        for architecture in embedded_architectures() {
            let ending = if architecture.starts_with("sm_") { "cubin" } else { "ptx" };
            let compiled = compile_kernels(image.file, architecture)?;
            fs::write(nvrtc.join(format!("{}.{architecture}.{ending}", image.file)), compiled)?;
        }
    }
    Ok(())
}
