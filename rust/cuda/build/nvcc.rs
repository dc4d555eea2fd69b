//! Kernels as nvcc compiles them: one compressed fatbin a file, with an image for each architecture.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// What a fatbin holds. The driver picks: 8.0 to 8.7 run the first, 8.9 the second, Hopper the third; what is newer compiles
/// the last, which is PTX.
pub const ARCHITECTURES: [&str; 4] = ["sm_80", "sm_89", "sm_90a", "compute_80"];

/// How kernels are compiled, by nvcc and by NVRTC. A product and a sum are fused where a kernel says `fmaf` and nowhere else:
/// otherwise two kernels that add in the same order could differ in the last bit.
pub const OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=false"];

/// The oldest release with all of [`ARCHITECTURES`] whose images the drivers that are asked for can run.
const MIN_RELEASE: u32 = 13;

pub struct Nvcc {
    path: PathBuf,
    version: String,
}

impl Nvcc {
    /// The compiler that `RUSTLLM_NVCC` names, or else the one in `PATH`, or else that of Python's packages. None if the
    /// variable is empty or `none`, or nowhere is one that is new enough.
    pub fn find() -> Result<Option<Self>, String> {
        println!("cargo::rerun-if-env-changed=RUSTLLM_NVCC");
        match env::var("RUSTLLM_NVCC") {
            Ok(none) if none.is_empty() || none == "none" => Ok(None),
            Ok(path) => Self::at(path.into()).map(Some).map_err(|error| format!("RUSTLLM_NVCC: {error}")),
            Err(_) => Ok(in_path().or_else(of_python).and_then(|path| Self::at(path).ok())),
        }
    }

    fn at(path: PathBuf) -> Result<Self, String> {
        let version = run(Command::new(&path).arg("--version"))?;
        let release = version.split("release ").nth(1).and_then(|release| release.split('.').next()?.parse().ok());
        match release {
            Some(MIN_RELEASE..) => Ok(Self { path, version }),
            _ => Err(format!("{} is not of CUDA {MIN_RELEASE} or newer:\n{version}", path.display())),
        }
    }

    /// Compiles files in parallel, those only whose fatbin in `out` is not of the same contents already. Returns the fatbins.
    pub fn compile(&self, sources: &[PathBuf], headers: &[PathBuf], out: &Path) -> Result<Vec<PathBuf>, String> {
        println!("cargo::rerun-if-changed={}", self.path.display());
        let mut jobs = Vec::new();
        let mut fatbins = Vec::new();
        for source in sources {
            let fatbin = out.join(source.file_name().unwrap_or_default()).with_extension("fatbin");
            let key = format!("{}{ARCHITECTURES:?}{OPTIONS:?}{}", self.version, with_headers(source, headers)?);
            let made_of = fs::read_to_string(fatbin.with_extension("key")).unwrap_or_default();
            if made_of != key || !fatbin.exists() {
                // Until the fatbin is whole, it is of no contents.
                let _ = fs::remove_file(fatbin.with_extension("key"));
                jobs.push((source.as_path(), fatbin.clone(), key));
            }
            fatbins.push(fatbin);
        }
        self.run_jobs(jobs)?;
        Ok(fatbins)
    }

    fn run_jobs(&self, jobs: Vec<(&Path, PathBuf, String)>) -> Result<(), String> {
        let threads = env::var("NUM_JOBS").ok().and_then(|count| count.parse().ok()).unwrap_or(1).max(1);
        let threads_of_each = threads / jobs.len().clamp(1, threads);
        let workers = threads.min(jobs.len());
        let jobs = Mutex::new(jobs);
        let next = || jobs.lock().expect("no job panics").pop();
        let work = || {
            while let Some((source, fatbin, key)) = next() {
                run(&mut self.command(source, &fatbin, threads_of_each))?;
                let key_file = fatbin.with_extension("key");
                fs::write(&key_file, key).map_err(|error| format!("{}: {error}", key_file.display()))?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no job panics"))
        })
    }

    fn command(&self, source: &Path, fatbin: &Path, threads: usize) -> Command {
        let mut command = Command::new(&self.path);
        command.args(OPTIONS).args(["-O3", "--fatbin", "--compress-mode=size"]);
        for architecture in ARCHITECTURES {
            let compute = architecture.replace("sm_", "compute_");
            command.arg(format!("--generate-code=arch={compute},code={architecture}"));
        }
        command.arg(format!("--threads={threads}")).arg("--output-file").arg(fatbin).arg(source);
        command
    }
}

fn in_path() -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join("nvcc")).find(|path| path.is_file())
}

/// Where the packages of `cuda/requirements-nvcc.txt` put it.
fn of_python() -> Option<PathBuf> {
    let python = match env::var_os("VIRTUAL_ENV") {
        Some(environment) => Path::new(&environment).join("bin/python3"),
        None => "python3".into(),
    };
    let folders = run(Command::new(python).args(["-c", "import nvidia; print(*nvidia.__path__, sep='\\n')"])).ok()?;
    folders.lines().map(|folder| Path::new(folder).join("cu13/bin/nvcc")).find(|path| path.is_file())
}

/// A file's text, and those of the headers that it includes or that they include.
fn with_headers(source: &Path, headers: &[PathBuf]) -> Result<String, String> {
    let mut text = read(source)?;
    let mut left_out: Vec<&Path> = headers.iter().map(PathBuf::as_path).collect();
    let includes = |text: &str, header: &Path| {
        let name = header.file_name().unwrap_or_default().to_string_lossy();
        text.contains(&format!("#include \"{name}\""))
    };
    while let Some(at) = left_out.iter().position(|header| includes(&text, header)) {
        text += &read(left_out.remove(at))?;
    }
    Ok(text)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a command, and returns what it says.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.success() {
        true => Ok(said.into_owned()),
        false => Err(format!("{command:?}\n{said}{}", String::from_utf8_lossy(&output.stderr))),
    }
}
