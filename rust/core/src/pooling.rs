//! What a request wants made of its prompt where it generates nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What is made of a prompt's hidden states, by vLLM's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolingTask {
    /// One vector for the prompt.
    Embed,
    /// One score, or one probability, a class.
    Classify,
    /// A vector for each token.
    TokenEmbed,
    /// Scores of every class for each token.
    TokenClassify,
    /// Scores of every token of the vocabulary, at each mask token.
    FillMask,
}

impl PoolingTask {
    /// Every task.
    pub const ALL: [Self; 5] = [Self::Embed, Self::Classify, Self::TokenEmbed, Self::TokenClassify, Self::FillMask];

    /// The task's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Classify => "classify",
            Self::TokenEmbed => "token_embed",
            Self::TokenClassify => "token_classify",
            Self::FillMask => "fill_mask",
        }
    }

    /// Whether the result is one vector, and not one for each token.
    pub const fn is_one_vector(self) -> bool {
        matches!(self, Self::Embed | Self::Classify)
    }

    /// Whether the result is of classes or vocabulary entries, and not an embedding.
    pub const fn has_scores(self) -> bool {
        !matches!(self, Self::Embed | Self::TokenEmbed)
    }
}

impl fmt::Display for PoolingTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PoolingTask {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let task = Self::ALL.into_iter().find(|task| task.name() == name);
        task.ok_or_else(|| format!("task must be one of {names}, got {name:?}"))
    }
}

/// What is to be made of a prompt. `None` takes what the model was made for.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolingParams {
    /// What is wanted.
    pub task: PoolingTask,
    /// Whether scores become probabilities.
    pub use_activation: Option<bool>,
    /// Leading elements of an embedding to keep (Matryoshka representation learning, arXiv:2205.13147).
    pub dimensions: Option<usize>,
    /// Whether an embedding has length 1.
    pub normalize: Option<bool>,
    /// The token whose places [`PoolingTask::FillMask`] scores.
    pub mask_token_id: Option<u32>,
}

impl PoolingParams {
    /// The defaults of a task.
    pub fn new(task: PoolingTask) -> Self {
        Self { task, use_activation: None, dimensions: None, normalize: None, mask_token_id: None }
    }
}

/// The part of a [`Request`](crate::Request) that makes it a pooling request.
#[derive(Clone, Debug)]
pub struct PoolingInput {
    /// What is wanted.
    pub params: PoolingParams,
    /// Segment of each prompt token, for models that tell segments apart; zeros where not given.
    pub token_type_ids: Option<Arc<[u32]>>,
    /// Compute the whole prompt, since the prefix cache holds nothing of what the task reads.
    pub skip_reading_prefix_cache: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for task in PoolingTask::ALL {
            assert_eq!(task.name().parse(), Ok(task));
        }
        let refused = "score".parse::<PoolingTask>().unwrap_err();
        assert_eq!(
            refused,
            "task must be one of embed, classify, token_embed, token_classify, fill_mask, got \"score\""
        );
    }
}
