use rustllm_core::{PoolingParams, PoolingTask};

use crate::{EngineRequest, InvalidArgument, PoolingRequest};

/// What a loaded engine can take: the checks a request passes at the door, before it reaches the engine thread.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Token ids are below this.
    pub vocab_size: u32,
    /// Longest prompt plus completion, in tokens.
    pub max_model_len: usize,
    /// Most logprobs a request may ask for; -1 for the whole vocabulary.
    pub max_logprobs: i32,
    /// For a model that is pooled; `None` for one that generates.
    pub pooling: Option<PoolingLimits>,
}

/// What a pooled model can make of a prompt.
#[derive(Debug, Clone)]
pub struct PoolingLimits {
    /// The tasks it has.
    pub tasks: Vec<PoolingTask>,
    /// Elements of its embeddings.
    pub embedding_size: Option<usize>,
    /// Classes of its scores.
    pub num_labels: Option<usize>,
    /// Sizes that embeddings may be cut to; any if the list is empty, none if there is none.
    pub matryoshka_dimensions: Option<Vec<usize>>,
    /// Segments that the model tells apart, at least 1.
    pub num_token_types: usize,
    /// Longest prompt that fits into a step, for models that need it whole.
    pub max_num_batched_tokens: Option<usize>,
}

impl Limits {
    /// Checks a request against the model and the sampling rules.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn check(&self, request: &EngineRequest) -> Result<(), InvalidArgument> {
        if let Some(pooling) = &self.pooling {
            let message = format!(
                "This model does not generate text, it is loaded for the pooling tasks {}: use pooling requests, or load \
                 a model that generates with runner=\"generate\"",
                pooling.task_names()
            );
            return Err(InvalidArgument::new("params", "SamplingParams", message));
        }
        request.params.verify()?;
        request.params.verify_for_model(self.vocab_size, self.max_logprobs)?;
        // One token must be left to generate.
        self.check_prompt(&request.prompt_token_ids, 1)
    }

    /// Checks a pooling request against what the model can make of a prompt.
    ///
    /// # Errors
    /// The first field out of range, a task the model has not, or a model that generates.
    pub fn check_pooling(&self, request: &PoolingRequest) -> Result<(), InvalidArgument> {
        let Some(pooling) = &self.pooling else {
            let message = format!(
                "task {:?} is not one of this model's: it is loaded to generate text; load it with runner=\"pooling\"",
                request.params.task.name()
            );
            return Err(InvalidArgument::new("task", request.params.task, message));
        };
        pooling.check_params(&request.params, self.vocab_size)?;
        let prompt = &request.prompt_token_ids;
        self.check_prompt(prompt, 0)?;
        if let Some(limit) = pooling.max_num_batched_tokens.filter(|limit| prompt.len() > *limit) {
            let message = format!(
                "This model reads a prompt in one step, and the request has {} input tokens where a step takes at most \
                 max_num_batched_tokens ({limit}). Please reduce the length of the input or raise \
                 max_num_batched_tokens.",
                prompt.len()
            );
            return Err(InvalidArgument::new("prompt", prompt.len(), message));
        }
        request.token_type_ids.as_ref().map_or(Ok(()), |types| pooling.check_token_types(types, prompt.len()))
    }

    fn check_prompt(&self, prompt: &[u32], num_generated: usize) -> Result<(), InvalidArgument> {
        if prompt.is_empty() {
            return Err(InvalidArgument::new("prompt", "[]", "The decoder prompt cannot be empty"));
        }
        if let Some(id) = prompt.iter().find(|id| **id >= self.vocab_size) {
            let message = format!("Token id {id} is out of vocabulary: the model has {} tokens", self.vocab_size);
            return Err(InvalidArgument::new("prompt_token_ids", id, message));
        }
        if prompt.len() + num_generated > self.max_model_len {
            let message = format!(
                "This model's maximum context length is {} tokens. However, your request has {} input tokens. Please \
                 reduce the length of the input.",
                self.max_model_len,
                prompt.len()
            );
            return Err(InvalidArgument::new("prompt", prompt.len(), message));
        }
        Ok(())
    }
}

impl PoolingLimits {
    fn task_names(&self) -> String {
        self.tasks.iter().map(|task| task.name()).collect::<Vec<_>>().join(", ")
    }

    fn check_params(&self, params: &PoolingParams, vocab_size: u32) -> Result<(), InvalidArgument> {
        let task = params.task;
        if !self.tasks.contains(&task) {
            let message = format!(
                "task {:?} is not one of this model's: it supports {}; another head is loaded with the convert argument, \
                 \"embed\" or \"classify\", if the model folder has its tensors",
                task.name(),
                self.task_names()
            );
            return Err(InvalidArgument::new("task", task, message));
        }
        match params.mask_token_id {
            None if task == PoolingTask::FillMask => {
                let message = "mask_token_id must be given for the task \"fill_mask\": the tokenizer's mask token";
                return Err(InvalidArgument::new("mask_token_id", "None", message));
            }
            Some(id) if task != PoolingTask::FillMask || id >= vocab_size => {
                let message = format!("mask_token_id must be a token id below {vocab_size}, for fill_mask, got {id}");
                return Err(InvalidArgument::new("mask_token_id", id, message));
            }
            _ => {}
        }
        if let Some(normalize) = params.normalize.filter(|_| task.has_scores()) {
            let message = format!("normalize is for embeddings, use_activation for the task {:?}", task.name());
            return Err(InvalidArgument::new("normalize", normalize, message));
        }
        params.dimensions.map_or(Ok(()), |dimensions| self.check_dimensions(task, dimensions))
    }

    fn check_dimensions(&self, task: PoolingTask, dimensions: usize) -> Result<(), InvalidArgument> {
        let refuse = |message: String| Err(InvalidArgument::new("dimensions", dimensions, message));
        let size = self.embedding_size.unwrap_or(0);
        if task.has_scores() {
            return refuse(format!("dimensions is for embeddings, not for the task {:?}", task.name()));
        }
        match &self.matryoshka_dimensions {
            None => refuse(format!(
                "dimensions must be None, got {dimensions}: this model's embeddings of {size} elements were not trained to \
                 be cut (config.json has no is_matryoshka or matryoshka_dimensions; hf_overrides can add them)"
            )),
            Some(sizes) if !sizes.is_empty() && !sizes.contains(&dimensions) => {
                refuse(format!("dimensions must be one of {sizes:?}, got {dimensions}"))
            }
            Some(_) if dimensions == 0 || dimensions > size => {
                refuse(format!("dimensions must be between 1 and {size}, got {dimensions}"))
            }
            Some(_) => Ok(()),
        }
    }

    fn check_token_types(&self, types: &[u32], num_tokens: usize) -> Result<(), InvalidArgument> {
        if types.len() != num_tokens {
            let message = format!("token_type_ids must have an entry a token ({num_tokens}), got {}", types.len());
            return Err(InvalidArgument::new("token_type_ids", types.len(), message));
        }
        let limit = self.num_token_types;
        match types.iter().find(|id| **id as usize >= limit) {
            Some(id) => {
                let message = format!("token_type_ids must be below {limit} for this model, got {id}");
                Err(InvalidArgument::new("token_type_ids", id, message))
            }
            None => Ok(()),
        }
    }
}
