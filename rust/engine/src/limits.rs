use crate::{EngineRequest, InvalidArgument};

/// What a loaded engine can take: the checks a request passes at the door, before it reaches the engine thread.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Token ids are below this.
    pub vocab_size: u32,
    /// Longest prompt plus completion, in tokens.
    pub max_model_len: usize,
    /// Most logprobs a request may ask for; -1 for the whole vocabulary.
    pub max_logprobs: i32,
}

impl Limits {
    /// Checks a request against the model and the sampling rules.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn check(&self, request: &EngineRequest) -> Result<(), InvalidArgument> {
        request.params.verify()?;
        request.params.verify_for_model(self.vocab_size, self.max_logprobs)?;
        let prompt = &request.prompt_token_ids;
        if prompt.is_empty() {
            return Err(InvalidArgument::new("prompt", "[]", "The decoder prompt cannot be empty"));
        }
        if let Some(id) = prompt.iter().find(|id| **id >= self.vocab_size) {
            let message = format!("Token id {id} is out of vocabulary: the model has {} tokens", self.vocab_size);
            return Err(InvalidArgument::new("prompt_token_ids", id, message));
        }
        // One token must be left to generate.
        if prompt.len() >= self.max_model_len {
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
