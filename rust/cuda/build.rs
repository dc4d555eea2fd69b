//! Embeds the kernels of `cuda/`: their sources, for the compiler that a machine may have at run time.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let cuda = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../cuda").canonicalize()?;
    println!("cargo::rerun-if-changed={}", cuda.display());
    let mut table = String::from("pub(crate) static IMAGES: &[Image] = &[\n");
    for source in files(&cuda, "cu")? {
        let name = source.file_stem().unwrap_or_default().to_string_lossy();
        writeln!(table, "    Image {{ file: {name:?}, source: include_str!({source:?}), fatbin: None }},")?;
    }
    table.push_str("];\n");
    table.push_str("pub(crate) static HEADERS: &[(&str, &str)] = &[\n");
    for header in files(&cuda, "cuh")? {
        let name = header.file_name().unwrap_or_default().to_string_lossy();
        writeln!(table, "    ({name:?}, include_str!({header:?})),")?;
    }
    table.push_str("];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("images.rs"), table)?;
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
