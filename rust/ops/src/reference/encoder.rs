//! What attention among the rows of one sequence means.

use candle_core::{Device, Tensor as Candle};

use super::{candle, softmax};
use crate::{DisentangledParams, EncoderAttentionParams, Result};

/// Softmax attention of one sequence's rows among themselves: `q`, `[rows, num_heads * head_dim]`, over `k` and `v`.
pub(super) fn attend(
    q: &Candle,
    k: &Candle,
    v: &Candle,
    bias: Option<&Candle>,
    params: &EncoderAttentionParams,
) -> Result<Candle> {
    let (rows, head_dim) = (q.dim(0)?, params.head_dim);
    // Each KV head serves a run of query heads.
    let group = params.num_heads / params.num_kv_heads;
    let shared = |x: &Candle| -> Result<Candle> {
        let shape = (params.num_kv_heads, group, rows, head_dim);
        let x = heads(x, params.num_kv_heads)?.unsqueeze(1)?.broadcast_as(shape)?;
        Ok(x.reshape((params.num_heads, rows, head_dim))?.contiguous()?)
    };
    let (q, k) = (heads(q, params.num_heads)?, shared(k)?);
    let mut scores = q.matmul(&k.t()?.contiguous()?)?;
    if let Some(distances) = &params.disentangled {
        scores = disentangled(scores, &q, &k, distances)?;
    }
    scores = (scores * f64::from(params.scale))?;
    if let Some(bias) = bias {
        scores = (scores + relative(bias, rows)?)?;
    }
    let far = |query: usize, key: usize| params.window.is_some_and(|window| query.abs_diff(key) > window);
    let mask = |query| (0..rows).map(move |key| if far(query, key) { f32::NEG_INFINITY } else { 0.0 });
    let mask: Vec<f32> = (0..rows).flat_map(mask).collect();
    let scores = scores.broadcast_add(&Candle::from_vec(mask, (1, rows, rows), &Device::Cpu)?)?;
    let out = softmax(&scores)?.matmul(&shared(v)?)?;
    Ok(out.transpose(0, 1)?.reshape((rows, params.num_heads * head_dim))?)
}

/// `[rows, count * head_dim]` as `[count, rows, head_dim]`.
fn heads(x: &Candle, count: usize) -> Result<Candle> {
    let (rows, width) = x.dims2()?;
    Ok(x.contiguous()?.reshape((rows, count, width / count))?.transpose(0, 1)?.contiguous()?)
}

/// `scores` of queries and keys, `[num_heads, rows, head_dim]`, with the products of each pair's distance added.
fn disentangled(scores: Candle, q: &Candle, k: &Candle, distances: &DisentangledParams) -> Result<Candle> {
    let (num_heads, rows, _) = q.dims3()?;
    let bucket = |pair: usize| distances.bucket((pair % rows) as isize - (pair / rows) as isize) as u32;
    let buckets = Candle::from_vec((0..rows * rows).map(bucket).collect(), (1, rows, rows), &Device::Cpu)?;
    let buckets = buckets.broadcast_as((num_heads, rows, rows))?.contiguous()?;
    let mut scores = scores;
    if let Some(keys) = &distances.keys {
        // [head, query, bucket], of which each key's is taken.
        let products = q.matmul(&heads(&candle(keys)?, num_heads)?.t()?.contiguous()?)?;
        scores = (scores + products.contiguous()?.gather(&buckets, 2)?)?;
    }
    if let Some(queries) = &distances.queries {
        // [head, bucket, key], of which each query's is taken.
        let products = heads(&candle(queries)?, num_heads)?.matmul(&k.t()?.contiguous()?)?;
        scores = (scores + products.contiguous()?.gather(&buckets, 1)?)?;
    }
    Ok(scores)
}

/// The bias of every pair of rows, `[num_heads, rows, rows]`.
fn relative(bias: &Candle, rows: usize) -> Result<Candle> {
    let (heads, columns) = bias.dims2()?;
    let reach = columns / 2;
    let column = |query: usize, key: usize| (reach + key).saturating_sub(query).min(2 * reach) as u32;
    let columns: Vec<u32> = (0..rows * rows).map(|pair| column(pair / rows, pair % rows)).collect();
    let columns = Candle::from_vec(columns, rows * rows, &Device::Cpu)?;
    Ok(bias.contiguous()?.index_select(&columns, 1)?.reshape((heads, rows, rows))?)
}
