use std::fmt::Debug;

use crate::{
    AttentionMetadata, AttentionParams, DeviceSampler, EncoderAttentionParams, Expert, GatedActivation, Graphs,
    HostMatrix, Indices, KvCache, KvCacheLayer, KvCacheSpec, LmHeadParams, Predictions, QkRmsNorm, Result, RopeTable,
    Routing, RoutingParams, Tensor, Weight, WeightFormat, check,
};

/// Elementwise non-linearity of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)`, with the error function.
    Gelu,
    /// The tanh approximation of GELU (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²` (arXiv:2109.08668).
    ReluSquared,
    /// The hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// Every one of them.
    pub const ALL: [Self; 6] = [Self::Silu, Self::Gelu, Self::GeluTanh, Self::Relu, Self::ReluSquared, Self::Tanh];
}

/// Memory of a device that has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes nobody uses.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A device a model runs on: memory, weights and about thirty coarse ops.
///
/// [`ReferenceBackend`](crate::ReferenceBackend) defines what each op means; the conformance table holds the others
/// to it. Contracts every implementation keeps:
///
/// * **Batch invariance.** A row's result depends on that row (for attention: its sequence) alone, bit for bit; never
///   on how many rows stand beside it or how many threads run. Reductions have an order fixed by the row's shape.
/// * Ops run in the order they are called. An op that returns has taken its place in that order, not necessarily run.
/// * No allocation in a steady state: results come from an arena that reuses the memory of dropped tensors.
pub trait Backend: Debug + Send + Sync {
    /// Name users choose it by: `cpu`, `cuda`, `reference`.
    fn name(&self) -> &'static str;

    /// Whether there are kernels for weights in `format`. Asked while loading.
    fn supports(&self, format: WeightFormat) -> bool;

    // -- memory -------------------------------------------------------------------------------------------------

    /// The device's memory; `None` where it is the host's.
    ///
    /// # Errors
    /// A device failure.
    fn device_memory(&self) -> Result<Option<DeviceMemory>> {
        Ok(None)
    }

    /// The device's way of recording work, if it has one.
    fn graphs(&self) -> Option<&dyn Graphs> {
        None
    }

    /// Says that weights of `bytes` in all, or more, are about to be loaded: memory for them may then be taken in large pieces.
    fn plan_weights(&self, _bytes: u64) {}

    /// The device's way of sampling, if it has one; logits are sampled from on the host otherwise.
    fn sampler(&self) -> Option<&dyn DeviceSampler> {
        None
    }

    /// Packs a weight, its rows the rows of `parts` one after another (fused projections), converted to `format` as
    /// [`quantize`](crate::quantize) defines. Parts are read once, and may be [released](crate::Release) as they are.
    ///
    /// # Errors
    /// Parts of different widths, a format without kernels, or no memory.
    fn load_weight(&self, parts: &[HostMatrix<'_>], format: WeightFormat) -> Result<Weight>;

    /// Copies `rows * cols` values to the device. Vectors (norm weights, biases) are `[1, n]`.
    ///
    /// # Errors
    /// A length that is not `rows * cols`, or no memory.
    fn tensor(&self, values: &[f32], rows: usize, cols: usize) -> Result<Tensor>;

    /// Makes a list usable as indices by the ops of this step.
    ///
    /// # Errors
    /// No memory.
    fn indices(&self, values: Vec<u32>) -> Result<Indices> {
        Ok(Indices::host(values))
    }

    /// Calls `visit(row, values)` for every row of `x`, in order, once all ops before are done.
    ///
    /// # Errors
    /// A device failure.
    fn read_rows(&self, x: &Tensor, visit: &mut dyn FnMut(usize, &[f32])) -> Result<()>;

    /// Calls `visit(row, values)` once for every row of `x`, once all ops before are done: in any order, on several threads at
    /// once where that pays. `visit` must not call ops of this backend.
    ///
    /// # Errors
    /// A device failure.
    fn visit_rows(&self, x: &Tensor, visit: &(dyn Fn(usize, &[f32]) + Sync)) -> Result<()> {
        self.read_rows(x, &mut |row, values| visit(row, values))
    }

    /// Reserves a paged cache. Its contents are undefined until written.
    ///
    /// # Errors
    /// A dtype or block size without kernels, or no memory.
    fn alloc_kv_cache(&self, spec: &KvCacheSpec) -> Result<KvCache>;

    /// Bytes that a block of such a cache takes over all layers: keys, values, their scales and what fills up vectors.
    fn kv_cache_block_bytes(&self, spec: &KvCacheSpec) -> usize;

    // -- ops ----------------------------------------------------------------------------------------------------

    /// Rows `ids` of `table`: `[len(ids), in_features]`. Ids must be below `out_features`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for an id past the table.
    fn embedding(&self, ids: &Indices, table: &Weight) -> Result<Tensor>;

    /// `x @ weight.T + bias`: `[rows, in_features] -> [rows, out_features]`.
    ///
    /// `x` is rounded to a 16-bit weight's dtype first, or quantized to eight bits row by row for a quantized weight
    /// ([`int8_row`](crate::quantize::int8_row)); sums are float32, or exact integers. `bias` is `[1, out_features]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the widths differ.
    fn linear(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor>;

    /// `x / sqrt(mean(x²) + eps) * weight` over each run of `weight.cols()` columns: over a whole row for a layer's norm,
    /// over each head for qk-norm.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the weight's width does not divide the row.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor>;

    /// `(x - mean) / sqrt(variance + eps) * weight + bias` over each row; with a weight of several rows, over as many runs of
    /// its width, of which the n-th has the n-th row: heads with weights of their own.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when weight or bias have another number of elements than a row of `x`.
    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor>;

    /// `x += y`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the shapes differ.
    fn add_assign(&self, x: &mut Tensor, y: &Tensor) -> Result<()>;

    /// `x *= y`, element by element.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the shapes differ.
    fn mul_assign(&self, x: &mut Tensor, y: &Tensor) -> Result<()>;

    /// `residual += x`, then its [`rms_norm`](Self::rms_norm).
    ///
    /// # Errors
    /// As the two ops it is made of.
    fn add_rms_norm(&self, x: &Tensor, residual: &mut Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        self.add_assign(residual, x)?;
        self.rms_norm(residual, weight, eps)
    }

    /// `residual += x`, then its [`layer_norm`](Self::layer_norm).
    ///
    /// # Errors
    /// As the two ops it is made of.
    fn add_layer_norm(
        &self,
        x: &Tensor,
        residual: &mut Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f32,
    ) -> Result<Tensor> {
        self.add_assign(residual, x)?;
        self.layer_norm(residual, weight, bias, eps)
    }

    /// Rotates the first `rope.rotary_dim()` elements of every head of `x` by its row's position, in place.
    ///
    /// Pairs are `(i, i + rotary_dim / 2)`, as in Hugging Face checkpoints. Heads are runs of `head_dim` columns.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when heads do not fill a row or a position is past the table.
    fn rotary(&self, x: &mut Tensor, rope: &RopeTable, positions: &Indices, head_dim: usize) -> Result<()>;

    /// Writes the columns of `part` over the first ones of every head of `x`, in place. Heads are runs of `head_dim` columns.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when heads do not fill a row, or `part` is wider than a head or of other rows.
    fn fill_heads(&self, x: &mut Tensor, part: &Tensor, head_dim: usize) -> Result<()>;

    /// Writes each row's keys and values, `[rows, num_kv_heads * head_dim]`, to its slot, rounded to the cache's dtype:
    /// each head's key and each head's value by [`KvCacheDType::round`](crate::KvCacheDType::round).
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when shapes differ or a slot is past the cache.
    fn write_kv(&self, k: &Tensor, v: &Tensor, layer: &KvCacheLayer, metadata: &AttentionMetadata) -> Result<()>;

    /// What lies between the projection of queries, keys and values, `qkv`, and [`attention`](Self::attention): each head of
    /// queries and keys is normed where there is a `norm`, and [turned](Self::rotary) to its row's position where there is a
    /// `rope`; then keys and values are [written](Self::write_kv). Gives the queries.
    ///
    /// Queries and keys are used up: what their memory holds afterwards is unspecified.
    ///
    /// # Errors
    /// As the ops it is made of, and [`Error::Shape`](crate::Error::Shape) for norms that are not as wide as a head.
    fn rotary_write_kv(
        &self,
        qkv: [Tensor; 3],
        norm: Option<&QkRmsNorm<'_>>,
        rope: Option<&RopeTable>,
        layer: &KvCacheLayer,
        metadata: &AttentionMetadata,
    ) -> Result<Tensor> {
        check::rotary_write_kv(&qkv, norm, rope, layer, metadata)?;
        let [mut q, mut k, v] = qkv;
        if let Some(norm) = norm {
            (q, k) = (self.rms_norm(&q, norm.q, norm.eps)?, self.rms_norm(&k, norm.k, norm.eps)?);
        }
        if let Some(rope) = rope {
            let head_dim = layer.kind().head_dim;
            self.rotary(&mut q, rope, &metadata.positions, head_dim)?;
            self.rotary(&mut k, rope, &metadata.positions, head_dim)?;
        }
        self.write_kv(&k, &v, layer, metadata)?;
        Ok(q)
    }

    /// Causal attention of `q`, `[rows, num_heads * head_dim]`, over the cached keys and values of each row's sequence,
    /// this step's included. Same shape as `q`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when heads, cache and metadata do not fit together.
    fn attention(
        &self,
        q: &Tensor,
        layer: &KvCacheLayer,
        metadata: &AttentionMetadata,
        params: &AttentionParams,
    ) -> Result<Tensor>;

    /// Attention of `q`, `[rows, num_heads * head_dim]`, over all keys and values of each row's sequence, before it and
    /// after it: those of the rows `k` and `v`, `[rows, num_kv_heads * head_dim]`. Same shape as `q`.
    ///
    /// `query_start_loc` has the first row of each sequence, then the number of rows.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when heads, rows and sequences do not fit together.
    fn encoder_attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        query_start_loc: &Indices,
        params: &EncoderAttentionParams,
    ) -> Result<Tensor>;

    /// Each row of `x` among its neighbours, side by side in order: the rows of its sequence from `reach` before it to `reach`
    /// after it, zeros where the sequence has none. `[rows, cols] -> [rows, (2 * reach + 1) * cols]`.
    ///
    /// A convolution over a sequence is a [`linear`](Self::linear) of it. `query_start_loc` is as in
    /// [`encoder_attention`](Self::encoder_attention). By default it is put together on the host.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when rows and sequences do not fit together.
    fn unfold(&self, x: &Tensor, query_start_loc: &Indices, reach: usize) -> Result<Tensor> {
        check::unfold(x, query_start_loc)?;
        let (cols, places) = (x.cols(), 2 * reach + 1);
        let mut values = vec![0.0; x.rows() * places * cols];
        self.read_rows(x, &mut |row, elements| {
            let sequence = query_start_loc.run_of(row);
            for other in sequence.start.max(row.saturating_sub(reach))..sequence.end.min(row + reach + 1) {
                let place = other * places + row + reach - other;
                values[place * cols..(place + 1) * cols].copy_from_slice(elements);
            }
        })?;
        self.tensor(&values, x.rows(), places * cols)
    }

    /// `activation(x)`, elementwise.
    ///
    /// # Errors
    /// A device failure.
    fn activation(&self, x: &Tensor, activation: Activation) -> Result<Tensor>;

    /// `activation(gate) * up` of `[rows, 2 * n]`, gate in the first `n` columns: `[rows, n]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for an odd width.
    fn gated_activation(&self, gate_up: &Tensor, activation: Activation) -> Result<Tensor>;

    /// The experts of each row of a router's `logits`, `[rows, num_experts]`, and what each counts for: see
    /// [`RoutingParams`]. `bias`, `[1, num_experts]`, is added to the scores that experts are chosen by, not to weights.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for more choices than experts or groups that do not divide them.
    fn route(&self, logits: &Tensor, bias: Option<&Tensor>, params: &RoutingParams) -> Result<Routing>;

    /// Multiplies each weight of `routing` by what `scales`, `[1, num_experts]`, has for its expert, in place.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the routing names an expert that `scales` has no number for.
    fn scale_experts(&self, routing: &mut Routing, scales: &Tensor) -> Result<()>;

    /// The sum, in the order of the experts' numbers, of what each row's experts make of it, times their weights:
    /// `sum(weight * down(activation(gate_up(x))))`, as wide as `x`.
    ///
    /// Only the chosen experts are computed, each for all of its rows together, with inputs rounded as in
    /// [`linear`](Self::linear).
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when widths differ or the routing names an expert there is not.
    fn moe(&self, x: &Tensor, routing: &Routing, experts: &[Expert], activation: GatedActivation) -> Result<Tensor>;

    /// [`activation`](Self::activation) of a [`linear`](Self::linear): `[rows, in_features] -> [rows, out_features]`.
    ///
    /// # Errors
    /// As the two ops it is made of.
    fn activated_linear(
        &self,
        x: &Tensor,
        weight: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        self.activation(&self.linear(x, weight, bias)?, activation)
    }

    /// [`gated_activation`](Self::gated_activation) of a [`linear`](Self::linear) whose weight has gate and up one after the
    /// other: `[rows, in_features] -> [rows, out_features / 2]`.
    ///
    /// # Errors
    /// As the two ops it is made of.
    fn gated_linear(
        &self,
        x: &Tensor,
        gate_up: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        self.gated_activation(&self.linear(x, gate_up, bias)?, activation)
    }

    /// The first largest element of each row: `[rows, 2]`, its column (a whole number) and its value. NaN is larger than any
    /// number.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for rows without elements, or with more than float32 counts.
    fn argmax(&self, x: &Tensor) -> Result<Tensor>;

    /// The output projection of a language model: the logits of the first `num_logits` rows of `hidden`, and of each other
    /// row the [`argmax`](Self::argmax) of its logits, which a fast path need not write down.
    ///
    /// # Errors
    /// As the ops it is made of, and [`Error::Shape`](crate::Error::Shape) for more logits than rows.
    fn lm_head(&self, hidden: &Tensor, params: &LmHeadParams, num_logits: usize) -> Result<Predictions> {
        check::lm_head(hidden, params, num_logits)?;
        let mut all = self.linear(hidden, &params.weight, params.bias.as_ref())?;
        if params.multiplier != 1.0 {
            self.scale(&mut all, params.multiplier)?;
        }
        if let Some(cap) = params.soft_cap {
            self.soft_cap(&mut all, cap)?;
        }
        let others = all.row_range(num_logits, hidden.rows() - num_logits)?;
        Ok(Predictions { logits: all.row_range(0, num_logits)?, argmax: self.argmax(&others)? })
    }

    /// `x = cap * tanh(x / cap)`, elementwise, in place.
    ///
    /// # Errors
    /// A device failure.
    fn soft_cap(&self, x: &mut Tensor, cap: f32) -> Result<()>;

    /// `x = min(max(x, -limit), limit)`, elementwise, in place.
    ///
    /// # Errors
    /// A device failure.
    fn clamp(&self, x: &mut Tensor, limit: f32) -> Result<()>;

    /// `x *= factor`, in place.
    ///
    /// # Errors
    /// A device failure.
    fn scale(&self, x: &mut Tensor, factor: f32) -> Result<()>;

    /// Rows `rows` of `x`, in that order.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a row past the end.
    fn gather_rows(&self, x: &Tensor, rows: &Indices) -> Result<Tensor>;
}
