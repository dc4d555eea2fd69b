//! The reference backend: every op in a few obviously right lines of candle, in float32.
//!
//! It defines what the ops mean, runs any model before a fast kernel exists, and keeps the whole computation in
//! candle's differentiable tensors. It makes no promise of speed.

mod encoder;
mod moe;

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, Device, Tensor as Candle};

use crate::{
    Activation, AttentionMetadata, AttentionParams, Backend, DType, EncoderAttentionParams, Error, Expert,
    GatedActivation, HostMatrix, Indices, KvCache, KvCacheKind, KvCacheLayer, KvCacheSpec, Result, RopeTable, Routing,
    RoutingParams, Storage, Tensor, Weight, WeightFormat, check, quantize,
};

const NAME: &str = "reference";

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Backend { backend: NAME, message: error.to_string() }
    }
}

/// Candle on the CPU, float32 throughout.
#[derive(Debug, Default, Clone, Copy)]
pub struct ReferenceBackend;

/// A matrix of activations or a weight.
#[derive(Debug)]
struct Matrix(Candle);

/// The n-th layers of all groups: for every slot a row of as many values as the layer that wrote it has columns.
#[derive(Debug)]
struct Slots(Mutex<SlotRows>);

#[derive(Debug)]
struct SlotRows {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Storage for Matrix {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Storage for Slots {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn downcast<T: Any>(storage: &Arc<dyn Storage>) -> Result<&T> {
    storage.as_any().downcast_ref().ok_or(Error::ForeignStorage { backend: NAME })
}

/// The candle tensor a view stands for, `[rows, cols]`.
fn candle(x: &Tensor) -> Result<Candle> {
    let all = &downcast::<Matrix>(x.storage())?.0;
    let width = all.dims2()?.1;
    Ok(all.narrow(0, x.offset() / width, x.rows())?.narrow(1, x.offset() % width, x.cols())?)
}

fn wrap(x: Candle) -> Result<Tensor> {
    let (rows, cols) = x.dims2()?;
    Ok(Tensor::new(Arc::new(Matrix(x)), rows, cols))
}

/// What a weight's row becomes in `format`, as numbers.
fn converted(row: &[f32], format: WeightFormat) -> Vec<f32> {
    match format {
        WeightFormat::Dense(dtype) => row.iter().map(|value| dtype.round(*value)).collect(),
        WeightFormat::Int8 => quantize::int8_row(row).values().collect(),
        WeightFormat::Int4 { group_size, symmetric } => row
            .chunks(group_size)
            .flat_map(|group| quantize::int4_group(group, symmetric).values().collect::<Vec<_>>())
            .collect(),
    }
}

fn round(x: Candle, dtype: DType) -> Result<Candle> {
    let dtype = match dtype {
        DType::F32 => return Ok(x),
        DType::F16 => candle_core::DType::F16,
        DType::BF16 => candle_core::DType::BF16,
    };
    Ok(x.to_dtype(dtype)?.to_dtype(candle_core::DType::F32)?)
}

/// Activations as a weight in `format` takes them.
fn inputs(x: Candle, format: WeightFormat) -> Result<Candle> {
    if let WeightFormat::Dense(dtype) = format {
        return round(x, dtype);
    }
    let (rows, cols) = x.dims2()?;
    let values: Vec<f32> = x.to_vec2()?.iter().flat_map(|row: &Vec<f32>| converted(row, WeightFormat::Int8)).collect();
    Ok(Candle::from_vec(values, (rows, cols), &Device::Cpu)?)
}

fn activate(x: &Candle, activation: Activation) -> Result<Candle> {
    Ok(match activation {
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::Relu => x.relu()?,
        Activation::ReluSquared => x.relu()?.sqr()?,
        Activation::Tanh => x.tanh()?,
    })
}

fn soft_cap(x: &Candle, cap: f32) -> Result<Candle> {
    let cap = f64::from(cap);
    Ok(((x / cap)?.tanh()? * cap)?)
}

impl Backend for ReferenceBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports(&self, _format: WeightFormat) -> bool {
        true
    }

    fn load_weight(&self, parts: &[HostMatrix<'_>], format: WeightFormat) -> Result<Weight> {
        let (out_features, in_features) = check::load_weight(parts)?;
        let rows = parts.iter().flat_map(|part| (0..part.rows).map(|row| part.row(row)));
        let values: Vec<f32> = rows.flat_map(|row| converted(&row, format)).collect();
        let matrix = Candle::from_vec(values, (out_features, in_features), &Device::Cpu)?;
        Ok(Weight { format, out_features, in_features, storage: Arc::new(Matrix(matrix)) })
    }

    fn tensor(&self, values: &[f32], rows: usize, cols: usize) -> Result<Tensor> {
        check::tensor(values, rows, cols)?;
        wrap(Candle::from_slice(values, (rows, cols), &Device::Cpu)?)
    }

    fn read_rows(&self, x: &Tensor, visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        for (row, values) in candle(x)?.to_vec2::<f32>()?.iter().enumerate() {
            visit(row, values);
        }
        Ok(())
    }

    fn alloc_kv_cache(&self, spec: &KvCacheSpec) -> Result<KvCache> {
        let rows = vec![Vec::new(); spec.num_blocks * spec.block_size];
        let place = |_| Arc::new(Slots(Mutex::new(SlotRows { keys: rows.clone(), values: rows.clone() })));
        let places: Vec<_> = (0..spec.block_size_of(|_| 1)).map(place).collect();
        Ok(KvCache::new(Arc::new(spec.clone()), |_, n| Arc::clone(&places[n]) as Arc<dyn Storage>))
    }

    fn kv_cache_block_bytes(&self, spec: &KvCacheSpec) -> usize {
        // Rows of float32, whatever they are rounded to.
        2 * spec.block_size_of(KvCacheKind::columns) * spec.block_size * size_of::<f32>()
    }

    fn embedding(&self, ids: &Indices, table: &Weight) -> Result<Tensor> {
        check::embedding(ids, table)?;
        let ids = Candle::from_slice(ids.as_slice(), ids.len(), &Device::Cpu)?;
        wrap(downcast::<Matrix>(&table.storage)?.0.index_select(&ids, 0)?)
    }

    fn linear(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        check::linear(x, weight, bias)?;
        let matrix = &downcast::<Matrix>(&weight.storage)?.0;
        let y = inputs(candle(x)?.contiguous()?, weight.format)?.matmul(&matrix.t()?)?;
        match bias {
            Some(bias) => wrap(y.broadcast_add(&candle(bias)?)?),
            None => wrap(y),
        }
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        check::rms_norm(x, weight)?;
        let groups = candle(x)?.reshape((x.rows(), x.cols() / weight.cols(), weight.cols()))?;
        let mean = groups.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = groups.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?;
        wrap(normed.broadcast_mul(&candle(weight)?)?.reshape((x.rows(), x.cols()))?)
    }

    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
        check::layer_norm(x, weight, bias)?;
        let runs = candle(x)?.reshape((x.rows(), weight.rows(), weight.cols()))?;
        let centred = runs.broadcast_sub(&runs.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?;
        let mut scaled = normed.broadcast_mul(&candle(weight)?)?;
        if let Some(bias) = bias {
            scaled = scaled.broadcast_add(&candle(bias)?)?;
        }
        wrap(scaled.reshape((x.rows(), x.cols()))?)
    }

    fn add_assign(&self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        check::same_shape("add_assign", x, y)?;
        *x = wrap((candle(x)? + candle(y)?)?)?;
        Ok(())
    }

    fn mul_assign(&self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        check::same_shape("mul_assign", x, y)?;
        *x = wrap((candle(x)? * candle(y)?)?)?;
        Ok(())
    }

    fn rotary(&self, x: &mut Tensor, rope: &RopeTable, positions: &Indices, head_dim: usize) -> Result<()> {
        check::rotary(x, rope, positions, head_dim)?;
        let (rows, half) = (x.rows(), rope.rotary_dim() / 2);
        let positions = Candle::from_slice(positions.as_slice(), rows, &Device::Cpu)?;
        let cos = candle(&rope.cos)?.index_select(&positions, 0)?.unsqueeze(1)?;
        let sin = candle(&rope.sin)?.index_select(&positions, 0)?.unsqueeze(1)?;
        let heads = candle(x)?.reshape((rows, x.cols() / head_dim, head_dim))?;
        let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
        let rest = heads.narrow(2, 2 * half, head_dim - 2 * half)?;
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        *x = wrap(Candle::cat(&[first, second, rest], 2)?.reshape((rows, x.cols()))?)?;
        Ok(())
    }

    fn fill_heads(&self, x: &mut Tensor, part: &Tensor, head_dim: usize) -> Result<()> {
        check::fill_heads(x, part, head_dim)?;
        let (rows, heads, width) = (x.rows(), x.cols() / head_dim, part.cols());
        let part = candle(part)?.unsqueeze(1)?.broadcast_as((rows, heads, width))?;
        let rest = candle(x)?.reshape((rows, heads, head_dim))?.narrow(2, width, head_dim - width)?;
        *x = wrap(Candle::cat(&[part, rest], 2)?.reshape((rows, x.cols()))?)?;
        Ok(())
    }

    fn write_kv(&self, k: &Tensor, v: &Tensor, layer: &KvCacheLayer, metadata: &AttentionMetadata) -> Result<()> {
        check::write_kv(k, v, layer, metadata)?;
        let rounded = |x: &Tensor| -> Result<Vec<Vec<f32>>> {
            let mut rows = candle(x)?.to_vec2::<f32>()?;
            for head in rows.iter_mut().flat_map(|row| row.chunks_exact_mut(layer.kind().head_dim)) {
                layer.spec.dtype.round(head);
            }
            Ok(rows)
        };
        let (keys, values) = (rounded(k)?, rounded(v)?);
        let mut rows = downcast::<Slots>(&layer.storage)?.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((slot, key), value) in metadata.group(layer).slot_mapping.as_slice().iter().zip(keys).zip(values) {
            rows.keys[*slot as usize] = key;
            rows.values[*slot as usize] = value;
        }
        Ok(())
    }

    fn attention(
        &self,
        q: &Tensor,
        layer: &KvCacheLayer,
        metadata: &AttentionMetadata,
        params: &AttentionParams,
    ) -> Result<Tensor> {
        check::attention(q, layer, metadata, params)?;
        let rows = downcast::<Slots>(&layer.storage)?.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (q, group) = (candle(q)?.contiguous()?, metadata.group(layer));
        let mut outputs = Vec::with_capacity(metadata.num_seqs());
        for seq in 0..metadata.num_seqs() {
            let start = metadata.query_start_loc.as_slice()[seq] as usize;
            let end = metadata.query_start_loc.as_slice()[seq + 1] as usize;
            if start == end {
                continue;
            }
            let blocks = &group.block_table.as_slice()[seq * group.max_blocks_per_seq..];
            let positions = &metadata.positions.as_slice()[start..end];
            let first = check::first_seen(positions, params);
            let slots: Vec<usize> = (first..metadata.seq_lens.as_slice()[seq] as usize)
                .map(|i| blocks[i / layer.spec.block_size] as usize * layer.spec.block_size + i % layer.spec.block_size)
                .collect();
            outputs.push(attend(&q.narrow(0, start, end - start)?, &rows, (first, &slots), positions, params)?);
        }
        wrap(Candle::cat(&outputs, 0)?)
    }

    fn encoder_attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        query_start_loc: &Indices,
        params: &EncoderAttentionParams,
    ) -> Result<Tensor> {
        check::encoder_attention(q, k, v, query_start_loc, params)?;
        let bias = params.relative_bias.as_ref().map(candle).transpose()?;
        let sequences = query_start_loc.as_slice().windows(2).filter(|bounds| bounds[0] < bounds[1]);
        let outputs = sequences.map(|bounds| {
            let (start, len) = (bounds[0] as usize, (bounds[1] - bounds[0]) as usize);
            let part = |x: &Tensor| -> Result<Candle> { Ok(candle(x)?.narrow(0, start, len)?) };
            encoder::attend(&part(q)?, &part(k)?, &part(v)?, bias.as_ref(), params)
        });
        match outputs.collect::<Result<Vec<_>>>()?.as_slice() {
            [] => Ok(q.clone()),
            outputs => wrap(Candle::cat(outputs, 0)?),
        }
    }

    fn activation(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        wrap(activate(&candle(x)?, activation)?)
    }

    fn gated_activation(&self, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
        check::gated_activation(gate_up)?;
        let half = gate_up.cols() / 2;
        let x = candle(gate_up)?;
        wrap((activate(&x.narrow(1, 0, half)?, activation)? * x.narrow(1, half, half)?)?)
    }

    fn route(&self, logits: &Tensor, bias: Option<&Tensor>, params: &RoutingParams) -> Result<Routing> {
        moe::route(logits, bias, params)
    }

    fn scale_experts(&self, routing: &mut Routing, scales: &Tensor) -> Result<()> {
        moe::scale_experts(routing, scales)
    }

    fn moe(&self, x: &Tensor, routing: &Routing, experts: &[Expert], activation: GatedActivation) -> Result<Tensor> {
        moe::moe(x, routing, experts, activation)
    }

    fn argmax(&self, x: &Tensor) -> Result<Tensor> {
        check::argmax(x)?;
        let largest = |row: &Vec<f32>| {
            let is_larger = |a: f32, b: f32| a > b || (a.is_nan() && !b.is_nan());
            let col = (1..row.len()).fold(0, |best, col| if is_larger(row[col], row[best]) { col } else { best });
            [col as f32, row[col]]
        };
        let best: Vec<f32> = candle(x)?.to_vec2()?.iter().flat_map(largest).collect();
        wrap(Candle::from_vec(best, (x.rows(), 2), &Device::Cpu)?)
    }

    fn soft_cap(&self, x: &mut Tensor, cap: f32) -> Result<()> {
        *x = wrap(soft_cap(&candle(x)?, cap)?)?;
        Ok(())
    }

    fn clamp(&self, x: &mut Tensor, limit: f32) -> Result<()> {
        *x = wrap(candle(x)?.clamp(-limit, limit)?)?;
        Ok(())
    }

    fn scale(&self, x: &mut Tensor, factor: f32) -> Result<()> {
        *x = wrap((candle(x)? * f64::from(factor))?)?;
        Ok(())
    }

    fn gather_rows(&self, x: &Tensor, rows: &Indices) -> Result<Tensor> {
        check::gather_rows(x, rows)?;
        let indices = Candle::from_slice(rows.as_slice(), rows.len(), &Device::Cpu)?;
        wrap(candle(x)?.contiguous()?.index_select(&indices, 0)?)
    }
}

/// Softmax attention of one sequence's rows `q`, `[rows, num_heads * head_dim]`, over the `slots` of its positions from `first`
/// on, in order.
fn attend(
    q: &Candle,
    cache: &SlotRows,
    (first, slots): (usize, &[usize]),
    positions: &[u32],
    params: &AttentionParams,
) -> Result<Candle> {
    let (rows, keys) = (positions.len(), slots.len());
    let gather = |from: &[Vec<f32>]| -> Result<Candle> {
        let values: Vec<f32> = slots.iter().flat_map(|slot| from[*slot].iter().copied()).collect();
        let heads =
            Candle::from_vec(values, (keys, params.num_kv_heads, params.head_dim), &Device::Cpu)?.transpose(0, 1)?;
        // Each KV head serves a run of query heads.
        let group = params.num_heads / params.num_kv_heads;
        let shape = (params.num_kv_heads, group, keys, params.head_dim);
        Ok(heads.unsqueeze(1)?.broadcast_as(shape)?.reshape((params.num_heads, keys, params.head_dim))?)
    };
    let mask: Vec<f32> = positions
        .iter()
        .flat_map(|position| {
            let seen = check::first_seen(&[*position], params)..=*position as usize;
            (first..first + keys).map(move |key| if seen.contains(&key) { 0.0 } else { f32::NEG_INFINITY })
        })
        .collect();
    let q = q.reshape((rows, params.num_heads, params.head_dim))?.transpose(0, 1)?.contiguous()?;
    let mut scores = (q.matmul(&gather(&cache.keys)?.t()?.contiguous()?)? * f64::from(params.scale))?;
    if let Some(cap) = params.soft_cap {
        scores = soft_cap(&scores, cap)?;
    }
    let of_heads = |x: &Tensor| -> Result<Candle> { Ok(candle(x)?.reshape((params.num_heads, 1, 1))?) };
    if let Some(slopes) = &params.alibi_slopes {
        let distance = |position: u32| (first..first + keys).map(move |key| key as f32 - position as f32);
        let distances: Vec<f32> = positions.iter().flat_map(|position| distance(*position)).collect();
        let distances = Candle::from_vec(distances, (1, rows, keys), &Device::Cpu)?;
        scores = (scores + of_heads(slopes)?.broadcast_mul(&distances)?)?;
    }
    scores = scores.broadcast_add(&Candle::from_vec(mask, (1, rows, keys), &Device::Cpu)?)?;
    if let Some(sinks) = &params.sinks {
        scores = Candle::cat(&[scores, of_heads(sinks)?.broadcast_as((params.num_heads, rows, 1))?], 2)?;
    }
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.narrow(2, 0, keys)?.contiguous()?;
    let out = weights.matmul(&gather(&cache.values)?.contiguous()?)?;
    Ok(out.transpose(0, 1)?.reshape((rows, params.num_heads * params.head_dim))?)
}

/// Over the last dimension.
fn softmax(scores: &Candle) -> Result<Candle> {
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?)
}
