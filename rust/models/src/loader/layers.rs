//! Layers put together from their tensors, for the families that differ in little but the names.

use rustllm_ops::{AttentionParams, Weight};

use super::{Loader, Result};
use crate::ModelConfig;
use crate::config::FeedForwardConfig;
use crate::layers::{Attention, Block, BuildBlock, FeedForward, Linear};

impl Loader<'_> {
    /// `name.weight`, a table of `rows` rows after `skipped` ones that no position has.
    pub(crate) fn embedding_after(&self, name: &str, skipped: usize, rows: usize, width: usize) -> Result<Weight> {
        let matrix = self.matrix(&format!("{name}.weight"), skipped + rows, width)?.slice(skipped..skipped + rows)?;
        Ok(self.pack(&[matrix], self.loading.formats.table, None)?.weight)
    }

    /// The output projection `linear` with `name.bias`.
    pub(crate) fn with_bias(&self, linear: Linear, name: &str) -> Result<Linear> {
        if !self.loading.generates {
            return Ok(linear);
        }
        let values = self.values(&format!("{name}.bias"), linear.weight.out_features)?;
        Ok(Linear { bias: Some(self.vector(&values)?), ..linear })
    }

    /// A feed-forward layer without a gate, from its two linear layers' names.
    pub(crate) fn feed_forward(&self, up: &str, down: &str, config: &ModelConfig) -> Result<FeedForward> {
        let hidden = config.hidden_size;
        let FeedForwardConfig { intermediate_size, activation, bias } = config.feed_forward;
        Ok(FeedForward::Plain {
            up: self.linear(up, intermediate_size, hidden, bias)?,
            down: self.linear(down, hidden, intermediate_size, bias)?,
            activation,
        })
    }

    /// All layers, which are under `name.0.`, `name.1.` ...
    pub(crate) fn blocks(&self, name: &str, config: &ModelConfig, block: BuildBlock) -> Result<Vec<Box<dyn Block>>> {
        let layers = self.child(name);
        (0..config.num_layers()).map(|layer| block(&layers.child(layer), config, layer)).collect()
    }

    /// Attention of the projection `qkv` and the output projection called `output`, with layer `layer`'s positions.
    pub(crate) fn attention(&self, qkv: Linear, output: &str, config: &ModelConfig, layer: usize) -> Result<Attention> {
        let output = self.linear(output, config.hidden_size, config.q_size(), config.attention.output_bias)?;
        self.attention_of(qkv, output, config, layer)
    }

    /// Attention of its projections, with layer `layer`'s positions.
    pub(crate) fn attention_of(
        &self,
        qkv: Linear,
        output: Linear,
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Attention> {
        let slopes = config.attention.alibi_slopes.as_ref();
        let alibi_slopes = slopes.map(|slopes| self.vector(slopes)).transpose()?;
        Ok(Attention {
            qkv,
            output,
            clip_qkv: config.attention.clip_qkv,
            qk_norm: None,
            v_norm: None,
            rope: self.rope(config, layer)?,
            params: AttentionParams { alibi_slopes, ..config.attention_params(layer) },
            layer,
        })
    }
}
