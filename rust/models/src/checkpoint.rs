//! The weights of a model folder, memory-mapped: one safetensors file or several with an index.
//!
//! ```text
//!   model.safetensors                  all of them, or else
//!   model.safetensors.index.json ──► weight_map: tensor ──► file name      (plain names of this folder only)
//!   model-0000i-of-0000n.safetensors   8 bytes header length │ JSON header │ tensors, no gaps, no overlap
//! ```
//!
//! Nothing else in the folder is opened. A header is checked in full before any tensor is handed out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rustllm_ops::{DType, Release};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::LoadError;
use crate::config::fields::Fields;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Bytes before the header: its length.
const PREFIX: usize = 8;

/// Every tensor of a model folder, by name.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    dir: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes of the file.
    range: Range<usize>,
}

/// One tensor's elements, where the file has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorView<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
    /// The file `bytes` are a part of.
    pub(crate) file: &'a MappedFile,
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct MappedFile(Mmap);

impl Release for MappedFile {
    /// Unmaps the pages that hold nothing else; read again, they come from the file again.
    #[cfg(unix)]
    fn release(&self, bytes: &[u8]) {
        const PAGE: usize = 4096;
        let start = (bytes.as_ptr() as usize).wrapping_sub(self.0.as_ptr() as usize);
        let Some(end) = start.checked_add(bytes.len()).filter(|end| *end <= self.0.len()) else { return };
        let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if start < end {
            // Refused (larger pages than this), it only keeps memory that could be had.
            // SAFETY: the mapping is of a file and never written, so that its pages come back as they were.
            let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        }
    }

    #[cfg(not(unix))]
    fn release(&self, _bytes: &[u8]) {}
}

impl Checkpoint {
    /// Maps the safetensors files of `dir` and checks their headers.
    pub(crate) fn open(dir: &Path) -> Result<Self, LoadError> {
        let index = if dir.join(SINGLE).exists() { None } else { Index::read(dir)? };
        let names = match &index {
            Some(index) => index.file_names()?,
            None => weight_files(dir)?,
        };
        let mut checkpoint = Self { dir: dir.into(), files: Vec::new(), tensors: BTreeMap::new() };
        let mut file_of = BTreeMap::new();
        for name in &names {
            checkpoint.add(&dir.join(name))?;
            file_of.insert(name.as_str(), checkpoint.files.len() - 1);
        }
        if let Some(index) = &index {
            for (tensor, entry) in &index.entries {
                if checkpoint.tensors.get(tensor).map(|found| found.file) != file_of.get(entry.as_str()).copied() {
                    return Err(index.refuse(tensor, entry, "the file has no such tensor"));
                }
            }
        }
        Ok(checkpoint)
    }

    fn add(&mut self, path: &Path) -> Result<(), LoadError> {
        let corrupt = |detail: String| LoadError::Checkpoint { path: path.into(), detail };
        let bytes = map(path)?;
        let (header_len, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| corrupt(format!("truncated or corrupt safetensors: {error}")))?;
        let data_start = PREFIX + header_len;
        serde_json::from_slice::<UniqueKeys>(&bytes[PREFIX..data_start])
            .map_err(|error| corrupt(format!("corrupt safetensors header: {error}")))?;
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let range = data_start + start..data_start + end;
            let entry = Entry { file, dtype: info.dtype, shape: info.shape.clone(), range };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(corrupt(format!("the tensor {name} is in another weights file too")));
            }
        }
        self.files.push(MappedFile(bytes));
        Ok(())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The tensor called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let entry = self.tensors.get(name)?;
        let file = &self.files[entry.file];
        Some(TensorView { dtype: entry.dtype, shape: &entry.shape, bytes: &file.0[entry.range.clone()], file })
    }

    /// All names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|entry| entry.range.len() as u64).sum()
    }

    /// Elements of all matrices.
    pub(crate) fn num_matrix_elements(&self) -> u64 {
        let matrices = self.tensors.values().filter(|entry| entry.shape.len() >= 2);
        matrices.map(|entry| entry.shape.iter().product::<usize>() as u64).sum()
    }

    /// The element type most of the weights' bytes have; `F32` for a checkpoint without any.
    pub(crate) fn dtype(&self) -> DType {
        let bytes_of = |dtype: DType| -> usize {
            let same = self.tensors.values().filter(|entry| weight_dtype(entry.dtype) == Some(dtype));
            same.map(|entry| entry.range.len()).sum()
        };
        let by_size = [DType::F16, DType::BF16, DType::F32].into_iter().max_by_key(|dtype| bytes_of(*dtype));
        by_size.unwrap_or(DType::F32)
    }
}

/// The weight dtype a safetensors dtype is, if it is one.
pub(crate) fn weight_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

fn map(path: &Path) -> Result<Mmap, LoadError> {
    let io = |source| LoadError::Io { path: path.into(), source };
    // Asked before opening: opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(LoadError::Checkpoint { path: path.into(), detail: "not a regular file".into() });
    }
    let file = File::open(path).map_err(io)?;
    // SAFETY: the mapping is read-only and private to this process. Another process that truncates or rewrites the file
    // while it is loaded breaks the promise that the bytes do not change, as it does for every reader of mapped weights.
    unsafe { Mmap::map(&file) }.map_err(io)
}

/// The weights of a folder that are not found by an index: `model.safetensors`, else every safetensors file.
fn weight_files(dir: &Path) -> Result<BTreeSet<String>, LoadError> {
    let io = |source| LoadError::Io { path: dir.into(), source };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        names.extend(entry.map_err(io)?.file_name().into_string());
    }
    if names.contains(SINGLE) {
        return Ok(BTreeSet::from([SINGLE.into()]));
    }
    let weights: BTreeSet<String> = names.iter().filter(|name| name.ends_with(".safetensors")).cloned().collect();
    if weights.is_empty() {
        let pickled = [".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack"];
        let other = names.iter().find(|name| pickled.iter().any(|end| name.ends_with(end)));
        let hint = other.map_or_else(String::new, |name| {
            format!(": {name} is not read, convert the model with save_pretrained(safe_serialization=True)")
        });
        return Err(LoadError::NoWeights { dir: dir.into(), hint });
    }
    Ok(weights)
}

/// `model.safetensors.index.json`: which file has which tensor.
struct Index {
    path: PathBuf,
    entries: BTreeMap<String, String>,
}

impl Index {
    fn read(dir: &Path) -> Result<Option<Self>, LoadError> {
        let path = dir.join(INDEX);
        let Some(fields) = Fields::read(&path)? else { return Ok(None) };
        let map = fields.object("weight_map")?.ok_or_else(|| fields.missing("weight_map"))?;
        let mut entries = BTreeMap::new();
        for tensor in map.names() {
            let file = map.text(tensor)?.ok_or_else(|| map.missing(tensor))?;
            entries.insert(tensor.to_owned(), file.to_owned());
        }
        Ok(Some(Self { path, entries }))
    }

    /// The files it names, each once: safetensors files of this very folder.
    fn file_names(&self) -> Result<BTreeSet<String>, LoadError> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let mut names = BTreeSet::new();
        for (tensor, entry) in &self.entries {
            if names.contains(entry) {
                continue;
            }
            if entry.contains(['/', '\\', ':', '\0']) || !entry.ends_with(".safetensors") || entry.starts_with('.') {
                let detail = "must be the name of a .safetensors file in the model's own folder";
                return Err(self.refuse(tensor, entry, detail));
            }
            if !dir.join(entry).exists() {
                return Err(self.refuse(tensor, entry, "there is no such file"));
            }
            names.insert(entry.clone());
        }
        Ok(names)
    }

    fn refuse(&self, tensor: &str, entry: &str, detail: &str) -> LoadError {
        LoadError::IndexEntry {
            path: self.path.clone(),
            tensor: tensor.into(),
            entry: format!("{entry:?}"),
            detail: detail.into(),
        }
    }
}

/// A JSON object whose keys all differ. The header's own type keeps the last of two entries of one name.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueKeysVisitor)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
        let mut seen = HashSet::new();
        while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("the tensor {key} is there twice")));
            }
            seen.insert(key);
        }
        Ok(UniqueKeys)
    }
}
