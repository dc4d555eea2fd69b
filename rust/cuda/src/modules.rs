//! From a kernel file's name to its kernels in the GPU's memory.
//!
//! ```text
//!   RUSTLLM_CUDA_DIR is set   NVRTC of that folder's sources: for those who write kernels
//!   a fatbin is embedded      the driver picks the image of its GPU, or compiles the PTX in it
//!   neither                   NVRTC of the embedded sources, unless an earlier process left the result in the cache
//! ```

use std::env;
use std::path::Path;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule};
use cudarc::nvrtc::Ptx;

use crate::CudaError;
use crate::error::describe;
use crate::image_cache::{ImageCache, Key};
use crate::images::{HEADERS, IMAGES, OPTIONS};
use crate::nvrtc::Nvrtc;

/// Loads the kernels of `cuda/{file}.cu`.
pub(crate) fn load(
    context: &Arc<CudaContext>,
    compute_capability: (i32, i32),
    file: &'static str,
) -> Result<Arc<CudaModule>, CudaError> {
    let image = match env::var_os("RUSTLLM_CUDA_DIR") {
        Some(folder) => {
            KernelSource::read(Path::new(&folder), file)?.compile_for(compute_capability, ImageCache::of_user())?
        }
        None => match IMAGES.iter().find(|image| image.file == file).and_then(|image| image.fatbin) {
            Some(fatbin) => fatbin.to_vec(),
            None => KernelSource::embedded(file)?.compile_for(compute_capability, ImageCache::of_user())?,
        },
    };
    let failed = |error| CudaError::NoImage { file: file.into(), message: describe(error) };
    context.load_module(Ptx::from_binary(image)).map_err(failed)
}

/// Compiles the embedded source `cuda/{file}.cu` with NVRTC, for `sm_80` and the like a cubin, for `compute_80` and the like
/// PTX. Needs no GPU.
///
/// # Errors
/// [`CudaError`] where there is no such file or no compiler, and where the file does not compile.
pub fn compile_kernels(file: &str, architecture: &str) -> Result<Vec<u8>, CudaError> {
    let source = KernelSource::embedded(file)?;
    source.compile(&source.compiler()?, architecture)
}

/// A kernel file and the headers it may include, by name.
struct KernelSource {
    file: String,
    text: String,
    headers: Vec<(String, String)>,
}

impl KernelSource {
    fn embedded(file: &str) -> Result<Self, CudaError> {
        let image = IMAGES.iter().find(|image| image.file == file);
        let text = image.map(|image| image.source.into());
        let text = text.ok_or_else(|| CudaError::NoImage { file: file.into(), message: "no such file".into() })?;
        let headers = HEADERS.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        Ok(Self { file: file.into(), text, headers })
    }

    fn read(folder: &Path, file: &str) -> Result<Self, CudaError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| CudaError::NoImage {
                file: file.into(),
                message: format!("RUSTLLM_CUDA_DIR: {}: {error}", path.display()),
            })
        };
        let text = read(&folder.join(file).with_extension("cu"))?;
        let mut headers = Vec::new();
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "cuh") {
                headers.push((entry.file_name().to_string_lossy().into_owned(), read(&path)?));
            }
        }
        headers.sort();
        Ok(Self { file: file.into(), text, headers })
    }

    fn compiler(&self) -> Result<Nvrtc, CudaError> {
        Nvrtc::find().map_err(|message| CudaError::NoCompiler { file: self.file.clone(), message })
    }

    /// An image for a GPU: the cache's, or a new one, which the cache then keeps.
    fn compile_for(&self, compute_capability: (i32, i32), cache: Option<ImageCache>) -> Result<Vec<u8>, CudaError> {
        let compiler = self.compiler()?;
        let architecture = architecture_for(compute_capability, &compiler.architectures());
        let mut key = Key::new(&self.file);
        key.add(&self.text).add(&architecture).add(&format!("{OPTIONS:?} NVRTC {:?}", compiler.version()));
        for (name, text) in &self.headers {
            key.add(name).add(text);
        }
        if let Some(image) = cache.as_ref().and_then(|cache| cache.get(&key)) {
            return Ok(image);
        }
        let image = self.compile(&compiler, &architecture)?;
        if let Some(cache) = cache {
            cache.put(&key, &image);
        }
        Ok(image)
    }

    fn compile(&self, compiler: &Nvrtc, architecture: &str) -> Result<Vec<u8>, CudaError> {
        let target = format!("--gpu-architecture={architecture}");
        let options: Vec<&str> = OPTIONS.iter().copied().chain([target.as_str()]).collect();
        let name = format!("{}.cu", self.file);
        compiler.compile(&name, &self.text, &self.headers, &options).map_err(|log| CudaError::Compile {
            file: self.file.clone(),
            architecture: architecture.into(),
            log,
        })
    }
}

/// What to compile for: the GPU's own architecture; if the compiler does not know it, PTX of the newest older one it knows.
fn architecture_for((major, minor): (i32, i32), known: &[i32]) -> String {
    let own = 10 * major + minor;
    if known.contains(&own) {
        // Hopper's own instructions are those of an architecture with a name of its own.
        return if own == 90 { "sm_90a".into() } else { format!("sm_{own}") };
    }
    let older = known.iter().copied().filter(|known| *known < own).max().unwrap_or(80);
    format!("compute_{older}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_of_sources_is_read_and_compiled_once() {
        rustllm_cuda_simulator::load();
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = || fs::read_dir(cache.path()).unwrap().count();
        let compile = || {
            let source = KernelSource::read(folder.path(), "added")?;
            source.compile_for((8, 0), Some(ImageCache::new(cache.path().into())))
        };
        let error = compile().unwrap_err().to_string();
        assert!(error.contains("RUSTLLM_CUDA_DIR") && error.contains("added.cu"), "{error}");

        fs::write(folder.path().join("added.cu"), "#include \"own.cuh\"\n").unwrap();
        let error = compile().unwrap_err();
        assert!(matches!(&error, CudaError::Compile { log, .. } if log.contains("own.cuh")), "{error}");
        assert_eq!(kept(), 0);

        fs::write(folder.path().join("own.cuh"), "// one\n").unwrap();
        let image = compile().unwrap();
        assert_eq!(compile().unwrap(), image);
        assert_eq!(kept(), 1);
        fs::write(folder.path().join("own.cuh"), "// another\n").unwrap();
        compile().unwrap();
        assert_eq!(kept(), 2);
    }

    #[test]
    fn what_the_compiler_knows_becomes_a_cubin_and_what_is_newer_ptx() {
        let known = [75, 80, 86, 89, 90, 100];
        assert_eq!(architecture_for((8, 0), &known), "sm_80");
        assert_eq!(architecture_for((8, 6), &known), "sm_86");
        assert_eq!(architecture_for((9, 0), &known), "sm_90a");
        assert_eq!(architecture_for((10, 3), &known), "compute_100");
        assert_eq!(architecture_for((12, 0), &known), "compute_100");
        assert_eq!(architecture_for((8, 9), &[75, 80, 86]), "compute_86");
    }
}
