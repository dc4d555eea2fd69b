//! Query, key and value projections whose rows a checkpoint keeps in another order than attention reads them.

use std::ops::Range;

use super::{Loader, Result};
use crate::ModelConfig;
use crate::layers::Linear;

impl Loader<'_> {
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
