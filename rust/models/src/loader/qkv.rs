//! Query, key and value projections whose rows a checkpoint keeps in another order than attention reads them.

use std::ops::Range;

use super::{Loader, Part, Result};
use crate::layers::{Linear, Norm};
use crate::{LoadError, ModelConfig};

impl Loader<'_> {
    /// The norms of query heads and of key heads that each have a weight of their own: in one tensor, or in as many as there are
    /// heads. Elements are in the order of the projections' rows.
    pub(crate) fn norms_of_each_head(&self, config: &ModelConfig, layer: usize) -> Result<(Norm, Norm)> {
        let (head_dim, eps) = (config.attention.head_dim, config.norm.eps);
        let order = rotary_order(config, layer);
        let norm = |part: &str, heads: usize| {
            let apart = format!("{part}_layernorm.norms");
            let values = if self.has(&format!("{apart}.0.weight")) {
                let each = (0..heads).map(|head| self.values(&format!("{apart}.{head}.weight"), head_dim));
                each.collect::<Result<Vec<_>>>()?.concat()
            } else {
                let (dtype, view) = self.tensor(&format!("{part}_norm.weight"), &[heads, head_dim])?;
                dtype.decode(view.bytes)
            };
            let rows = Part { order, ..Part::new(part, heads * head_dim) };
            let ordered: Vec<f32> = rows.rows().map(|row| values[row]).collect();
            let weight = self.loading.backend.tensor(&ordered, heads, head_dim)?;
            Ok::<_, LoadError>(Norm::Layer { weight, bias: None, eps })
        };
        Ok((norm("q", config.attention.num_heads)?, norm("k", config.attention.num_kv_heads)?))
    }

    /// Queries, keys and values stored as one matrix, key/value head by key/value head.
    ///
    /// ```text
    ///   stored   q0 q1 k0 v0 | q2 q3 k1 v1        of 4 query heads and 2 key/value heads
    ///   loaded   q0 q1 q2 q3 | k0 k1 | v0 v1
    /// ```
    pub(crate) fn grouped_qkv(&self, name: &str, config: &ModelConfig) -> Result<Linear> {
        let (head_dim, kv_heads) = (config.attention.head_dim, config.attention.num_kv_heads);
        let group = config.attention.num_heads / kv_heads;
        let heads = |first: usize, count: usize| {
            let starts = (0..kv_heads).map(move |kv_head| (kv_head * (group + 2) + first) * head_dim);
            starts.map(move |start| start..start + count * head_dim)
        };
        let runs: Vec<_> = heads(0, group).chain(heads(group, 1)).chain(heads(group + 1, 1)).collect();
        self.reordered_linear(name, &runs, config)
    }

    /// Queries, values and keys stored as one matrix, in that order for each quarter of the heads; pairs of neighbours rotate.
    ///
    /// ```text
    ///   stored   q0 v0 k0 | q1 v1 k1 | q2 v2 k2 | q3 v3 k3        of 4 heads
    ///   loaded   q0 q1 q2 q3 | k0 k1 k2 k3 | v0 v1 v2 v3          of queries and keys the even rows first, then the odd
    /// ```
    pub(crate) fn quartered_qkv(&self, name: &str, rotary_dim: usize, config: &ModelConfig) -> Result<Linear> {
        const QUARTERS: usize = 4;
        let (heads, head_dim) = (config.attention.num_heads, config.attention.head_dim);
        let quarter = heads / QUARTERS;
        let starts = |part: usize| {
            (0..heads).map(move |head| (head / quarter * 3 * quarter + part * quarter + head % quarter) * head_dim)
        };
        let rotated = starts(0).chain(starts(2)).flat_map(|start| {
            let pairs = (start..start + rotary_dim).step_by(2).chain((start + 1..start + rotary_dim).step_by(2));
            pairs.map(|row| row..row + 1).chain(std::iter::once(start + rotary_dim..start + head_dim))
        });
        let runs: Vec<_> = rotated.chain(starts(1).map(|start| start..start + head_dim)).collect();
        self.reordered_linear(name, &runs, config)
    }

    /// The projection `name`, its rows those of `runs` one after the other.
    fn reordered_linear(&self, name: &str, runs: &[Range<usize>], config: &ModelConfig) -> Result<Linear> {
        let stored = config.q_size() + 2 * config.kv_size();
        let matrix = self.matrix(&format!("{name}.weight"), stored, config.hidden_size)?;
        let matrices = runs.iter().map(|run| Ok(matrix.slice(run.clone())?)).collect::<Result<Vec<_>>>()?;
        let bias = config.attention.qkv_bias.then(|| self.values(&format!("{name}.bias"), stored)).transpose()?;
        let bias = bias.map(|bias| runs.iter().flat_map(|run| &bias[run.clone()]).copied().collect::<Vec<f32>>());
        self.pack(&matrices, self.loading.formats.linear, bias.as_deref())
    }
}

/// `(rotary_dim, head_dim)` where a checkpoint's rotary pairs are neighbours, which become halves.
pub(super) fn rotary_order(config: &ModelConfig, layer: usize) -> Option<(usize, usize)> {
    let rope = config.layers[layer].rope.as_ref().filter(|rope| rope.interleaved)?;
    Some((rope.rotary_dim, config.attention.head_dim))
}
