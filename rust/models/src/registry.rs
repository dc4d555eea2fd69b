//! Which `architectures` entry of `config.json` is read and built by what: one line each.

use crate::config::families;
use crate::config::fields::Fields;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig, gpt2, llama};

type ReadConfig = fn(&Fields, &'static str) -> Result<ModelConfig, LoadError>;
type Build = fn(&Loader<'_>, &ModelConfig) -> Result<Box<dyn Model>, LoadError>;

/// One supported architecture.
pub(crate) struct Architecture {
    /// As `architectures` spells it.
    pub(crate) name: &'static str,
    /// Reads the family's fields.
    pub(crate) config: ReadConfig,
    /// Puts the model together.
    pub(crate) build: Build,
    /// Whether a tensor that the model does not read is no parameter.
    pub(crate) is_buffer: fn(&str) -> bool,
}

#[rustfmt::skip]
const ARCHITECTURES: [Architecture; 5] = [
    Architecture { name: "GPT2LMHeadModel", config: families::gpt2, build: gpt2::build, is_buffer: gpt2::is_buffer },
    Architecture { name: "LlamaForCausalLM", config: families::llama, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "MistralForCausalLM", config: families::mistral, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "Qwen2ForCausalLM", config: families::qwen2, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "Qwen3ForCausalLM", config: families::qwen3, build: llama::build, is_buffer: llama::is_buffer },
];

/// The first of `names` that is supported.
pub(crate) fn find(names: &[&str]) -> Option<&'static Architecture> {
    names.iter().find_map(|name| ARCHITECTURES.iter().find(|architecture| architecture.name == *name))
}

/// The `architectures` entries that load, sorted.
pub fn supported_architectures() -> Vec<&'static str> {
    let mut names: Vec<_> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
    names.sort_unstable();
    names
}
