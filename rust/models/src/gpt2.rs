//! GPT-2: learned positions, layer norms, one fused projection, weights stored transposed.

use crate::layers::{Attention, Block, Decoder, Embedding, FeedForward, PreNormBlock};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("transformer", "wte.weight");
    let tokens = base.token_embedding("wte", config)?;
    let positions = base.embedding("wpe", config.max_position_embeddings, config.hidden_size)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("wte", &tokens))?;
    let embedding = Embedding { tokens, positions: Some(positions), multiplier: loader.embedding_multiplier(config) };
    let blocks = (0..config.num_layers()).map(|layer| block(&base, config, layer)).collect::<Result<_, _>>()?;
    let norm = base.norm("ln_f", config.hidden_size, config.norm)?;
    Ok(Box::new(Decoder::new(config, embedding, blocks, norm, lm_head)))
}

fn block(base: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let (hidden, inner) = (config.hidden_size, config.feed_forward.intermediate_size);
    let block = base.child("h").child(layer);
    let (attention, mlp) = (block.child("attn"), block.child("mlp"));
    Ok(Box::new(PreNormBlock {
        attention_norm: block.norm("ln_1", hidden, config.norm)?,
        attention: Attention {
            qkv: attention.transposed_linear("c_attn", 3 * hidden, hidden)?,
            output: attention.transposed_linear("c_proj", hidden, hidden)?,
            qk_norm: None,
            rope: None,
            params: config.attention_params(layer),
            layer,
        },
        feed_forward_norm: block.norm("ln_2", hidden, config.norm)?,
        feed_forward: FeedForward::Plain {
            up: mlp.transposed_linear("c_fc", inner, hidden)?,
            down: mlp.transposed_linear("c_proj", hidden, inner)?,
            activation: config.feed_forward.activation,
        },
    }))
}

/// The causal masks that old checkpoints store as tensors.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}
