//! Images that this machine's compiler made, kept for the next process.
//!
//! ```text
//!   ~/.cache/rustllm/cuda/norm-<what it was made of>.image     = checksum (32 bytes), image
//! ```
//!
//! A file is written under another name first, so that nobody reads a half of one; what is damaged all the same does not fit
//! its checksum, and is compiled again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, process};

/// What an image is made of: its name in the cache.
pub(crate) struct Key {
    file: String,
    hasher: blake3::Hasher,
}

impl Key {
    pub fn new(file: &str) -> Self {
        Self { file: file.into(), hasher: blake3::Hasher::new() }
    }

    /// Takes in one more text. Texts are told apart from each other: "ab", "c" is not "a", "bc".
    pub fn add(&mut self, text: &str) -> &mut Self {
        self.hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        self
    }

    fn file_name(&self) -> String {
        format!("{}-{}.image", self.file, &self.hasher.finalize().to_hex()[..32])
    }
}

/// A folder of images.
pub(crate) struct ImageCache {
    folder: PathBuf,
}

impl ImageCache {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The user's: `RUSTLLM_CUDA_CACHE`, or a folder where the user's caches are. None if the variable is empty, or nobody
    /// says where caches are.
    pub fn of_user() -> Option<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        if env::var_os("RUSTLLM_CUDA_CACHE").is_some() {
            return Some(Self::new(set("RUSTLLM_CUDA_CACHE")?.into()));
        }
        let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
        let caches = caches.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))?;
        Some(Self::new(caches.join("rustllm/cuda")))
    }

    /// The image, if it is there and whole.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let bytes = fs::read(self.folder.join(key.file_name())).ok()?;
        let (checksum, image) = bytes.split_at_checked(blake3::OUT_LEN)?;
        (blake3::hash(image).as_bytes() == checksum).then(|| image.to_vec())
    }

    /// Keeps an image. A folder that cannot be written to keeps none.
    pub fn put(&self, key: &Key, image: &[u8]) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = format!(".{}-{}.part", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let part = self.folder.join(unique);
        let bytes = [blake3::hash(image).as_bytes().as_slice(), image].concat();
        let written = fs::create_dir_all(&self.folder).and_then(|()| fs::write(&part, bytes));
        if written.and_then(|()| fs::rename(&part, self.folder.join(key.file_name()))).is_err() {
            let _ = fs::remove_file(&part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(texts: &[&str]) -> Key {
        let mut key = Key::new("norm");
        for text in texts {
            key.add(text);
        }
        key
    }

    #[test]
    fn an_image_comes_back_for_what_it_was_made_of_and_for_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::new(folder.path().join("of/its/own"));
        let made_of = key(&["source", "sm_80"]);
        assert_eq!(cache.get(&made_of), None);
        cache.put(&made_of, b"image");
        cache.put(&key(&["source", "sm_89"]), b"another");
        assert_eq!(cache.get(&made_of).as_deref(), Some(b"image".as_slice()));
        assert_eq!(cache.get(&key(&["source", "sm_90a"])), None);
        assert_eq!(cache.get(&key(&["sources", "m_80"])), None);
    }

    #[test]
    fn damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::new(folder.path().into());
        let key = key(&["source"]);
        cache.put(&key, b"an image");
        let path = folder.path().join(key.file_name());
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        for damaged in [&changed[..], &whole[..whole.len() - 1], &whole[..7], &[]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get(&key), None);
        }
        cache.put(&key, b"an image");
        assert!(cache.get(&key).is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_made_keeps_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = ImageCache::new(file.join("below"));
        cache.put(&key(&["source"]), b"image");
        assert_eq!(cache.get(&key(&["source"])), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
