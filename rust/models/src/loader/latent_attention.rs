//! Latent attention: heads put in the order and to the width that ordinary attention takes.
//!
//! ```text
//!   checkpoint                                           here
//!   q      rows of a head [ rest | rotates, in pairs ]   [ rotates, in halves | rest ]
//!   kv_a   rows [ latent | rotates, in pairs ]           [ latent | rotates, in halves ]
//!   kv_b   rows of a head [ rest of k | v ]              k of all heads [ 0 | rest ], then v of all heads [ v | 0 ]
//!   o      columns of a head [ v ]                       [ v | 0 ]
//! ```
//!
//! A score is the same in any order of a head's elements, as long as queries and keys have the same.

use super::owned_matrix::{OwnedMatrix, release};
use super::{Loader, Result};
use crate::ModelConfig;
use crate::config::{AttentionConfig, LatentConfig, NormConfig, NormKind};
use crate::layers::{LatentAttention, Linear};

/// Of the norms of latents, which no configuration changes.
const LATENT_NORM: NormConfig = NormConfig { kind: NormKind::Rms, eps: 1e-6 };

/// Where the rows of a layer's projections are in the checkpoint.
#[derive(Clone, Copy)]
struct Rows<'a> {
    num_heads: usize,
    head_dim: usize,
    latent: &'a LatentConfig,
    interleaved: bool,
}

impl Rows<'_> {
    /// The rotating rows in the order in which halves pair up, the first of them `start`.
    fn rotating(self, start: usize) -> impl Iterator<Item = usize> {
        let (size, half) = (self.latent.rope_head_dim, self.latent.rope_head_dim / 2);
        (0..size).map(move |row| start + if self.interleaved { 2 * (row % half) + row / half } else { row })
    }

    /// Elements of a key that do not rotate.
    fn rest(self) -> usize {
        self.head_dim - self.latent.rope_head_dim
    }

    fn queries(self) -> impl Iterator<Item = Option<usize>> {
        let head = move |start: usize| self.rotating(start + self.rest()).chain(start..start + self.rest());
        (0..self.num_heads).flat_map(move |number| head(number * self.head_dim)).map(Some)
    }

    fn latents(self) -> impl Iterator<Item = Option<usize>> {
        (0..self.latent.kv_rank).chain(self.rotating(self.latent.kv_rank)).map(Some)
    }

    fn keys_and_values(self) -> impl Iterator<Item = Option<usize>> {
        let (rest, value, stored) = (self.rest(), self.latent.v_head_dim, self.rest() + self.latent.v_head_dim);
        let key = move |row: usize| row.checked_sub(self.head_dim - rest);
        let value = move |row: usize| (row < value).then_some(rest + row);
        let all = self.num_heads * self.head_dim;
        let head = move |row: usize| (row / self.head_dim * stored, row % self.head_dim);
        let keys = (0..all).map(head).map(move |(start, row)| key(row).map(|row| start + row));
        keys.chain((0..all).map(head).map(move |(start, row)| value(row).map(|row| start + row)))
    }
}

impl Loader<'_> {
    /// The latent attention of layer `layer`.
    pub(crate) fn latent_attention(
        &self,
        config: &ModelConfig,
        latent: &LatentConfig,
        layer: usize,
    ) -> Result<LatentAttention> {
        let AttentionConfig { num_heads, head_dim, .. } = config.attention;
        let interleaved = config.layers[layer].rope.as_ref().is_some_and(|rope| rope.interleaved);
        let rows = Rows { num_heads, head_dim, latent, interleaved };
        let (hidden, q_size, rank) = (config.hidden_size, num_heads * head_dim, latent.kv_rank);
        let kv_down = self.rows("kv_a_proj_with_mqa", rank + latent.rope_head_dim, hidden, rows.latents())?;
        let (q_down, q_up) = match latent.q_rank {
            None => (self.rows("q_proj", q_size, hidden, rows.queries())?, None),
            Some(rank) => {
                let up = self.packed(&[self.rows("q_b_proj", q_size, rank, rows.queries())?])?;
                let down = self.rows("q_a_proj", rank, hidden, (0..rank).map(Some))?;
                (down, Some((self.norm("q_a_layernorm", rank, LATENT_NORM)?, up)))
            }
        };
        let stored = num_heads * (rows.rest() + latent.v_head_dim);
        let kv_up = self.packed(&[self.rows("kv_b_proj", stored, rank, rows.keys_and_values())?])?;
        Ok(LatentAttention {
            down: self.packed(&[q_down, kv_down])?,
            q_up,
            kv_up: (self.norm("kv_a_layernorm", rank, LATENT_NORM)?, kv_up),
            output: self.packed(&[self.widened_output(config, latent)?])?,
            rope: self.rope(config, layer)?,
            params: config.attention_params(layer),
            layer,
        })
    }

    /// Matrices of one input as one linear layer.
    fn packed(&self, matrices: &[OwnedMatrix]) -> Result<Linear> {
        let views = matrices.iter().map(OwnedMatrix::view).collect::<Result<Vec<_>>>()?;
        self.pack(&views, self.loading.formats.linear, None)
    }

    /// The output projection, zeros where heads are wider than their values.
    fn widened_output(&self, config: &ModelConfig, latent: &LatentConfig) -> Result<OwnedMatrix> {
        let AttentionConfig { num_heads, head_dim, .. } = config.attention;
        let stored = self.stored_matrix("o_proj", config.hidden_size, num_heads * latent.v_head_dim)?;
        let matrix = stored.view()?;
        let size = matrix.dtype.size();
        let mut bytes = vec![0; config.hidden_size * num_heads * head_dim * size];
        let heads = matrix.bytes.chunks_exact(latent.v_head_dim * size);
        for (to, head) in bytes.chunks_exact_mut(head_dim * size).zip(heads) {
            to[..head.len()].copy_from_slice(head);
        }
        release(&matrix);
        Ok(OwnedMatrix { dtype: matrix.dtype, cols: num_heads * head_dim, bytes })
    }

    /// Rows `order` of `name.weight`, `[rows, cols]`; zeros for `None`.
    fn rows(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        order: impl Iterator<Item = Option<usize>>,
    ) -> Result<OwnedMatrix> {
        let stored = self.stored_matrix(name, rows, cols)?;
        let matrix = stored.view()?;
        let row_bytes = cols * matrix.dtype.size();
        let mut bytes = Vec::with_capacity(rows * row_bytes);
        for row in order {
            match row {
                Some(row) => bytes.extend_from_slice(&matrix.bytes[row * row_bytes..(row + 1) * row_bytes]),
                None => bytes.resize(bytes.len() + row_bytes, 0),
            }
        }
        release(&matrix);
        Ok(OwnedMatrix { dtype: matrix.dtype, cols, bytes })
    }
}
