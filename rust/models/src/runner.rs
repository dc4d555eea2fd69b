use std::fmt;
use std::str::FromStr;

use crate::pooler::Reduction;

/// What a model is run for, by vLLM's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Runner {
    /// What its architecture is for; the folders of sentence-transformers are to be pooled.
    #[default]
    Auto,
    /// Text.
    Generate,
    /// What is made of a prompt.
    Pooling,
}

/// What a model is made into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Convert {
    /// What its architecture says; a text generator that is to be pooled becomes an embedder.
    #[default]
    Auto,
    /// What its architecture says.
    None,
    /// An embedder: heads are left out.
    Embed,
    /// A classifier of prompts.
    Classify,
}

/// What is asked of a pooler in place of what the model folder says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolerOptions {
    /// How the rows of a sequence become one.
    pub reduction: Option<Reduction>,
    /// Whether embeddings are normalized and scores become probabilities, unless a request says otherwise.
    pub finishes: Option<bool>,
}

impl fmt::Display for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Generate => "generate",
            Self::Pooling => "pooling",
        })
    }
}

impl fmt::Display for Convert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Embed => "embed",
            Self::Classify => "classify",
        })
    }
}

impl FromStr for Runner {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::Generate, Self::Pooling];
        let found = all.into_iter().find(|runner| runner.to_string() == name);
        found.ok_or_else(|| format!("runner must be one of auto, generate, pooling, got {name:?}"))
    }
}

impl FromStr for Convert {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::None, Self::Embed, Self::Classify];
        let found = all.into_iter().find(|convert| convert.to_string() == name);
        found.ok_or_else(|| format!("convert must be one of auto, none, embed, classify, got {name:?}"))
    }
}
