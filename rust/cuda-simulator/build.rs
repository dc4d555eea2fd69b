//! Compiles the kernels of `cuda/` for the processor and links them into a `libcuda.so.1`, with a `libnvrtc.so.13` beside it:
//! see `cuda/simulator/`.

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
    link(&compiler, &out, "libcuda.so.1", &objects)?;
    link(&compiler, &out, "libnvrtc.so.13", &[compile(&compiler, &cuda, &cuda.join("simulator/nvrtc.cpp"), &out)?])?;
    println!("cargo::rustc-env=SIMULATOR_FOLDER={}", out.display());
    Ok(())
}

fn link(compiler: &str, out: &Path, name: &str, objects: &[PathBuf]) -> Result<(), String> {
    let mut link = Command::new(compiler);
    link.args(["-shared", &format!("-Wl,-soname,{name}"), "-o"]).arg(out.join(name)).args(objects);
    run(link)
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
