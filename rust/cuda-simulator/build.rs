//! Compiles the kernels of `cuda/` for the processor and links them into a `libcuda.so.1`: see `cuda/simulator/`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

fn main() -> Result<(), Box<dyn Error>> {
    let cuda = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../cuda");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", cuda.display());
    println!("cargo::rerun-if-env-changed=CXX");
    if env::var("CARGO_CFG_TARGET_ARCH")? != "x86_64" {
        return Err(
            "the CUDA simulator switches stacks in x86-64 assembly; it is for tests on such machines only".into()
        );
    }
    let mut sources = vec![cuda.join("simulator/driver.cpp")];
    for entry in fs::read_dir(&cuda)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            sources.push(path);
        }
    }
    sources.sort();
    let compiler = env::var("CXX").unwrap_or_else(|_| "g++".into());
    let objects: Vec<PathBuf> = thread::scope(|scope| {
        let jobs: Vec<_> =
            sources.iter().map(|source| scope.spawn(|| compile(&compiler, &cuda, source, &out))).collect();
        jobs.into_iter().map(|job| job.join().expect("compiling does not panic")).collect::<Result<_, String>>()
    })?;
    let library = out.join("libcuda.so.1");
    let mut link = Command::new(&compiler);
    link.args(["-shared", "-Wl,-soname,libcuda.so.1", "-o"]).arg(&library).args(&objects);
    run(link)?;
    println!("cargo::rustc-env=SIMULATOR_LIBRARY={}", library.display());
    Ok(())
}

fn compile(compiler: &str, cuda: &Path, source: &Path, out: &Path) -> Result<PathBuf, String> {
    let object = out.join(source.file_name().unwrap_or_default()).with_extension("o");
    let mut command = Command::new(compiler);
    command
        // Products and sums are rounded one by one, so that schedules are compared bit for bit.
        .args(["-std=c++20", "-O2", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"])
        // Unrolling is for the other compilers; a kernel file need not use all of the header.
        .args(["-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-missing-field-initializers"])
        .args(["-DRUSTLLM_SIMULATOR", "-x", "c++", "-c", "-I"])
        .arg(cuda)
        .arg(source)
        .arg("-o")
        .arg(&object);
    run(command).map(|()| object)
}

fn run(mut command: Command) -> Result<(), String> {
    let output =
        command.output().map_err(|error| format!("{command:?}: {error}; the CUDA simulator needs g++ 12 or newer"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr))),
    }
}
