//! Embeds the kernels of `cuda/`: their sources, for the compiler that a machine may have at run time, and what nvcc makes of
//! them where there is one now.

#[path = "build/nvcc.rs"]
mod nvcc;

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nvcc::Nvcc;

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), Box<dyn Error>> {
    let cuda = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../cuda").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", cuda.display());
    let (sources, headers) = (files(&cuda, "cu")?, files(&cuda, "cuh")?);
    let nvcc = Nvcc::find()?;
    let fatbins = match &nvcc {
        Some(nvcc) => nvcc.compile(&sources, &headers, &out)?.into_iter().map(Some).collect(),
        None => vec![None; sources.len()],
    };
    let mut table = String::from("pub(crate) static IMAGES: &[Image] = &[\n");
    for (source, fatbin) in sources.iter().zip(&fatbins) {
        let name = source.file_stem().unwrap_or_default().to_string_lossy();
        let fatbin = fatbin.as_ref().map_or("None".into(), |fatbin| format!("Some(include_bytes!({fatbin:?}))"));
        writeln!(table, "    Image {{ file: {name:?}, source: include_str!({source:?}), fatbin: {fatbin} }},")?;
    }
    table.push_str("];\n");
    table.push_str("pub(crate) static HEADERS: &[(&str, &str)] = &[\n");
    for header in &headers {
        let name = header.file_name().unwrap_or_default().to_string_lossy();
        writeln!(table, "    ({name:?}, include_str!({header:?})),")?;
    }
    table.push_str("];\n");
    let architectures: &[&str] = if nvcc.is_some() { &nvcc::ARCHITECTURES } else { &[] };
    writeln!(table, "pub(crate) static ARCHITECTURES: &[&str] = &{architectures:?};")?;
    writeln!(table, "pub(crate) static OPTIONS: &[&str] = &{:?};", nvcc::OPTIONS)?;
    fs::write(out.join("images.rs"), table)?;
    Ok(())
}

fn files(cuda: &Path, extension: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(cuda)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
