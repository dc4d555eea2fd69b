//! Attention among the rows of each sequence: `cuda/encoder_attention.cu`.

use rustllm_ops::{EncoderAttentionParams, Indices, Result, Tensor, checked_size};

use crate::attention::{
    PREFILL_QUERIES, SCALAR_DIMS, SCALAR_HEADS, ScoreRules, Sequences, THREADS, TILE, at_most, head_dim_within,
    prefill_bytes, tile_bytes,
};
use crate::backend::CudaBackend;
use crate::device::Grid;
use crate::encoder_distances::{DistanceProducts, Distances};
use crate::kernels::{EncoderAttention, EncoderAttentionOfTiles, SplitIntoTiles};
use crate::view::{Address, Matrix, indices, optional_vector};

/// Parts that keys, values and queries are the sum of.
const PARTS: usize = 2;

/// What a block of the kernels for heads of up to `width` elements takes.
fn shared_bytes(width: usize) -> usize {
    prefill_bytes(width, PARTS, tile_bytes(width, PARTS))
}

/// Keys and values as parts: `SplitRows` of `cuda/encoder_attention.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct SplitRows {
    parts: Address,
    units: Address,
    num_kv_heads: i32,
    head_dim: i32,
}

/// The op's operands, as its kernels take them.
#[derive(Clone, Copy)]
struct Op {
    to: Matrix,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    seqs: Sequences,
    rules: ScoreRules,
}

impl CudaBackend {
    pub(crate) fn attention_of_own_rows(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        query_start_loc: &Indices,
        params: &EncoderAttentionParams,
    ) -> Result<Tensor> {
        let head_dim = head_dim_within("encoder_attention", params.head_dim, SCALAR_DIMS)?;
        let (q, k, v) = (self.view(q)?, self.view(k)?, self.view(v)?);
        let starts = indices(query_start_loc, self.id)?;
        let num_seqs = at_most(query_start_loc.len().saturating_sub(1));
        let seqs = Sequences { positions: 0, starts, block_table: 0, num_seqs, max_blocks: 0 };
        let rows: Vec<usize> =
            query_start_loc.as_slice().windows(2).map(|bounds| (bounds[1] - bounds[0]) as usize).collect();
        let longest = rows.iter().max().copied().unwrap_or(0);
        let products = self.distance_products((q, k), params, longest)?;
        let distances = products.as_ref().map_or(Distances::default(), DistanceProducts::distances);
        let rules = self.encoder_rules(params, distances)?;
        let (result, to) = self.result(q.num_rows(), q.num_cols())?;
        let op = Op { to, q, k, v, seqs, rules };
        let kernels = match params.head_dim {
            dim if !dim.is_multiple_of(8) => None,
            ..=64 => Some((64, "split_rows_64", "encoder_attention_64")),
            65..=128 => Some((128, "split_rows_128", "encoder_attention_128")),
            _ => None,
        };
        match kernels.filter(|(width, ..)| shared_bytes(*width) <= self.device.max_shared_bytes()) {
            Some((width, split, attend)) => {
                self.tile_by_tile(&op, params, &rows, (width, split, attend))?;
            }
            None => {
                let heads = params.num_kv_heads * (params.num_heads / params.num_kv_heads).div_ceil(SCALAR_HEADS);
                let Op { to, q, k, v, seqs, rules } = op;
                let attention = EncoderAttention { to, q, k, v, seqs, head_dim, rules };
                self.device.launch("encoder_attention", Grid::new((q.num_rows(), heads, 1), THREADS), &attention)?;
            }
        }
        Ok(result)
    }

    /// With kernels for heads of up to `width` elements; `rows` are those of each sequence.
    fn tile_by_tile(
        &self,
        op: &Op,
        params: &EncoderAttentionParams,
        rows: &[usize],
        (width, split, attend): (usize, &'static str, &'static str),
    ) -> Result<()> {
        let (heads, group) = (params.num_kv_heads, params.num_heads / params.num_kv_heads);
        let Op { to, q, k, v, seqs, rules } = *op;
        // Every sequence has slots for its tiles, and may leave one.
        let slots = (q.num_rows() / TILE + rows.len() + 1) * heads * 2;
        let parts = self.scratch(checked_size(&[slots, PARTS * TILE, width, 2], "keys and values in parts")?)?;
        let units = self.scratch(checked_size(&[slots, size_of::<f32>()], "keys and values in parts")?)?;
        let (num_kv_heads, head_dim) = (heads as i32, params.head_dim as i32);
        let tiled = SplitRows { parts: parts.address(), units: units.address(), num_kv_heads, head_dim };
        let tiles = rows.iter().map(|rows| rows.div_ceil(TILE)).sum();
        let grid = Grid::new((tiles, heads, 2), THREADS);
        self.device.launch(split, grid, &SplitIntoTiles { k, v, rows: tiled, seqs })?;
        let tiles = rows.iter().map(|rows| (rows * group).div_ceil(PREFILL_QUERIES)).sum();
        let grid = Grid { shared_bytes: shared_bytes(width) as u32, ..Grid::new((tiles, heads, 1), THREADS) };
        self.device.launch(attend, grid, &EncoderAttentionOfTiles { to, q, rows: tiled, seqs, rules })
    }

    fn encoder_rules(&self, params: &EncoderAttentionParams, distances: Distances) -> Result<ScoreRules> {
        let window = params.window.map_or(i32::MAX, at_most);
        Ok(ScoreRules {
            slopes: 0,
            sinks: 0,
            bias: optional_vector(params.relative_bias.as_ref(), self.id)?,
            reach: params.relative_bias.as_ref().map_or(0, |bias| at_most(bias.cols() / 2)),
            before: window,
            ahead: window,
            group: (params.num_heads / params.num_kv_heads) as i32,
            scale: params.scale,
            soft_cap: 0.0,
            distances,
        })
    }
}
