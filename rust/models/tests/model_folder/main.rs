//! Model folders that the tests write: what their fields mean, and that a broken one gives a typed error that names the
//! cause, never a panic.

#![allow(clippy::unwrap_used)]

mod classics;
mod config;
mod encoders;
mod families;
mod folder;
mod moe;
mod weights;

use folder::Folder;
use rustllm_models::{LoadError, LoadOptions, LoadedModel, load};
use rustllm_ops::ReferenceBackend;

fn try_load(folder: &Folder) -> Result<LoadedModel, LoadError> {
    load(folder.path(), &ReferenceBackend, LoadOptions::default())
}

/// Loads and expects a refusal whose message has every one of `parts`.
#[track_caller]
fn refused(folder: &Folder, parts: &[&str]) -> LoadError {
    let error = try_load(folder).expect_err("the folder is broken");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    error
}

#[test]
fn the_unbroken_folders_load() {
    for folder in [Folder::llama(), Folder::gpt2()] {
        try_load(&folder).unwrap();
    }
}
