use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustllm_ops::{
    Activation, Arena, AttentionMetadata, AttentionParams, Backend, DType, EncoderAttentionParams, Error, Expert,
    GatedActivation, HostMatrix, Indices, KvCache, KvCacheLayer, KvCacheSpec, LmHeadParams, Predictions, Result,
    RopeTable, Routing, RoutingParams, Tensor, Weight, WeightFormat, check,
};

use crate::argmax::Largest;
use crate::attend::Work;
use crate::attention_scores::ScoreRules;
use crate::buffer::Buffer;
use crate::kernels::Kernels;
use crate::kv_cache::{self, KvBlocks};
use crate::moe::{self, PackedExpert};
use crate::pack::{Layout, PackedWeight};
use crate::pool::{Pool, default_num_threads};
use crate::route::route_row;
use crate::step::Step;
use crate::view::View;
use crate::{CpuError, Isa, attend, encoder_attend, linear, select_isa};

/// The name of the backend.
pub(crate) const NAME: &str = "cpu";

/// How a [`CpuBackend`] runs; the default is the best the machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute, the caller's included; [`default_num_threads`] if not given.
    pub num_threads: Option<usize>,
    /// Instruction set; [`select_isa`] if not given.
    pub isa: Option<Isa>,
}

/// The backend of this machine's processor.
///
/// Activations are float32; weights may be in any [`WeightFormat`], the cache in any [`KvCacheDType`]. Its block size is a multiple of
/// 16. Ops of one backend run one at a time, whichever threads call them, each on all threads of the pool.
#[derive(Debug)]
pub struct CpuBackend {
    isa: Isa,
    kernels: &'static Kernels,
    num_threads: usize,
    /// Tells this backend's tensors from another's.
    id: u64,
    step: Mutex<Step>,
}

impl CpuBackend {
    /// A backend with threads of its own.
    ///
    /// # Errors
    /// [`CpuError`] for an instruction set the machine lacks or a number of threads it cannot start.
    pub fn new(options: CpuOptions) -> std::result::Result<Self, CpuError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let isa = match options.isa {
            Some(isa) => isa.require()?,
            None => select_isa()?,
        };
        let unavailable = || CpuError::UnavailableIsa { isa, available: crate::available_isas() };
        let kernels = Kernels::of(isa).ok_or_else(unavailable)?;
        let num_threads = options.num_threads.unwrap_or_else(default_num_threads);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let step = Step { arena: Arena::default(), pool: Pool::new(num_threads)?, work: Work::default(), backend: id };
        Ok(Self { isa, kernels, num_threads, id, step: Mutex::new(step) })
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that compute.
    pub fn num_threads(&self) -> usize {
        self.num_threads
    }

    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    pub(crate) fn step(&self) -> MutexGuard<'_, Step> {
        // A panic in a kernel is caught in the pool and leaves the step whole.
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self, x: &Tensor) -> Result<View> {
        View::new(x, self.id)
    }

    fn packed<'a>(&self, weight: &'a Weight) -> Result<&'a PackedWeight> {
        let packed = weight.storage.as_any().downcast_ref::<PackedWeight>();
        packed.filter(|packed| packed.layout() == layout_of(weight)).ok_or(Error::ForeignStorage { backend: NAME })
    }

    fn cache<'a>(&self, layer: &'a KvCacheLayer) -> Result<&'a KvBlocks> {
        let blocks = layer.storage.as_any().downcast_ref::<KvBlocks>();
        blocks
            .filter(|blocks| blocks.backend() == self.id && Arc::ptr_eq(blocks.spec(), &layer.spec))
            .ok_or(Error::ForeignStorage { backend: NAME })
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports(&self, format: WeightFormat) -> bool {
        match format {
            WeightFormat::Dense(DType::F32 | DType::F16 | DType::BF16) | WeightFormat::Int8 => true,
            WeightFormat::Int4 { group_size, .. } => WeightFormat::GROUP_SIZES.contains(&group_size),
        }
    }

    fn load_weight(&self, parts: &[HostMatrix<'_>], format: WeightFormat) -> Result<Weight> {
        let (out_features, in_features) = check::load_weight(parts)?;
        if !self.supports(format) {
            return Err(Error::UnsupportedFormat { backend: NAME, format, what: "weights" });
        }
        let packed = PackedWeight::zeroed(Layout { format, out_features, in_features })?;
        let (panels, task_panels) = (packed.layout().panels(), packed.task_panels(parts));
        self.step().run(panels.div_ceil(task_panels), |_, task| {
            let first = task * task_panels;
            // SAFETY: each panel exists and is one task's; the kernels were chosen among those the machine runs.
            unsafe { packed.pack(self.kernels, parts, first, (first + task_panels).min(panels)) };
        })?;
        Ok(Weight { format, out_features, in_features, storage: Arc::new(packed) })
    }

    fn tensor(&self, values: &[f32], rows: usize, cols: usize) -> Result<Tensor> {
        check::tensor(values, rows, cols)?;
        let buffer = Buffer::permanent(values.len(), self.id)?;
        // SAFETY: the buffer is new and as long as the values.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), buffer.as_ptr(), values.len()) };
        Ok(Tensor::new(Arc::new(buffer), rows, cols))
    }

    fn read_rows(&self, x: &Tensor, visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let view = self.view(x)?;
        let mut values = vec![0.0; view.cols];
        for row in 0..view.rows {
            // Copied, because `visit` may call ops of this backend.
            let step = self.step();
            // SAFETY: the row exists, and no op runs while the step is locked.
            values.copy_from_slice(unsafe { view.row_slice(row) });
            drop(step);
            visit(row, &values);
        }
        Ok(())
    }

    fn visit_rows(&self, x: &Tensor, visit: &(dyn Fn(usize, &[f32]) + Sync)) -> Result<()> {
        let view = self.view(x)?;
        // SAFETY: the row exists, and no op writes while this one runs.
        self.step().for_rows(view.rows, view.cols, |row| visit(row, unsafe { view.row_slice(row) }))
    }

    fn alloc_kv_cache(&self, spec: &KvCacheSpec) -> Result<KvCache> {
        kv_cache::alloc(spec, self.id)
    }

    fn kv_cache_block_bytes(&self, spec: &KvCacheSpec) -> usize {
        kv_cache::block_bytes(spec)
    }

    fn embedding(&self, ids: &Indices, table: &Weight) -> Result<Tensor> {
        check::embedding(ids, table)?;
        let (packed, ids) = (self.packed(table)?, ids.as_slice());
        let mut step = self.step();
        let (result, to) = step.result(ids.len(), table.in_features)?;
        step.for_rows(ids.len(), to.cols, |row| {
            // SAFETY: each row of the new result is one task's.
            packed.unpack_row(ids[row] as usize, unsafe { to.row_slice_mut(row) });
        })?;
        Ok(result)
    }

    fn linear(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        self.linear_then(x, weight, bias, None)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        check::rms_norm(x, weight)?;
        let (from, weight) = (self.view(x)?, self.view(weight)?);
        let mut step = self.step();
        let (result, to) = step.result(from.rows, from.cols)?;
        step.for_rows(from.rows, from.cols, |row| rms_norm_row(self.kernels, from, weight, to, row, eps))?;
        Ok(result)
    }

    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
        check::layer_norm(x, weight, bias)?;
        let from = self.view(x)?;
        let vectors = self.norm_vectors(weight, bias)?;
        let mut step = self.step();
        let (result, to) = step.result(from.rows, from.cols)?;
        step.for_rows(from.rows, from.cols, |row| layer_norm_row(self.kernels, from, vectors, to, row, eps))?;
        Ok(result)
    }

    fn add_assign(&self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        check::same_shape("add_assign", x, y)?;
        check::disjoint("add_assign", x, y)?;
        let (to, from) = (self.view(x)?, self.view(y)?);
        // SAFETY: both rows exist and overlap in nothing or entirely; each is one task's.
        let add = |row| unsafe { (self.kernels.add_assign)(to.row(row), from.row(row), to.cols) };
        self.step().for_rows(to.rows, to.cols, add)
    }

    fn mul_assign(&self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        check::same_shape("mul_assign", x, y)?;
        check::disjoint("mul_assign", x, y)?;
        let (to, from) = (self.view(x)?, self.view(y)?);
        // SAFETY: as in `add_assign`.
        let multiply = |row| unsafe { (self.kernels.mul_assign)(to.row(row), from.row(row), to.cols) };
        self.step().for_rows(to.rows, to.cols, multiply)
    }

    fn add_rms_norm(&self, x: &Tensor, residual: &mut Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        check::same_shape("add_assign", residual, x)?;
        check::rms_norm(residual, weight)?;
        check::disjoint("add_rms_norm", residual, x)?;
        check::disjoint("add_rms_norm", residual, weight)?;
        let (from, sum, weight) = (self.view(x)?, self.view(residual)?, self.view(weight)?);
        let mut step = self.step();
        let (result, to) = step.result(sum.rows, sum.cols)?;
        step.for_rows(sum.rows, sum.cols, |row| {
            // SAFETY: as in `add_assign`.
            unsafe { (self.kernels.add_assign)(sum.row(row), from.row(row), sum.cols) };
            rms_norm_row(self.kernels, sum, weight, to, row, eps);
        })?;
        Ok(result)
    }

    fn add_layer_norm(
        &self,
        x: &Tensor,
        residual: &mut Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f32,
    ) -> Result<Tensor> {
        check::same_shape("add_assign", residual, x)?;
        check::layer_norm(residual, weight, bias)?;
        check::disjoint("add_layer_norm", residual, x)?;
        check::disjoint("add_layer_norm", residual, weight)?;
        bias.map_or(Ok(()), |bias| check::disjoint("add_layer_norm", residual, bias))?;
        let (from, sum) = (self.view(x)?, self.view(residual)?);
        let vectors = self.norm_vectors(weight, bias)?;
        let mut step = self.step();
        let (result, to) = step.result(sum.rows, sum.cols)?;
        step.for_rows(sum.rows, sum.cols, |row| {
            // SAFETY: as in `add_assign`.
            unsafe { (self.kernels.add_assign)(sum.row(row), from.row(row), sum.cols) };
            layer_norm_row(self.kernels, sum, vectors, to, row, eps);
        })?;
        Ok(result)
    }

    fn rotary(&self, x: &mut Tensor, rope: &RopeTable, positions: &Indices, head_dim: usize) -> Result<()> {
        check::rotary(x, rope, positions, head_dim)?;
        check::same_shape("rotary", &rope.cos, &rope.sin)?;
        check::disjoint("rotary", x, &rope.cos)?;
        check::disjoint("rotary", x, &rope.sin)?;
        let (to, cos, sin) = (self.view(x)?, self.view(&rope.cos)?, self.view(&rope.sin)?);
        let positions = positions.as_slice();
        self.step().for_rows(to.rows, to.cols, |row| {
            let position = positions[row] as usize;
            for head in (0..to.cols).step_by(head_dim) {
                // SAFETY: the head is inside the row, twice the table's width inside the head, the position in the table.
                unsafe {
                    let head = to.row(row).add(head);
                    (self.kernels.rotary)(head, cos.row(position), sin.row(position), cos.cols);
                }
            }
        })
    }

    fn fill_heads(&self, x: &mut Tensor, part: &Tensor, head_dim: usize) -> Result<()> {
        check::fill_heads(x, part, head_dim)?;
        check::disjoint("fill_heads", x, part)?;
        let (to, from) = (self.view(x)?, self.view(part)?);
        self.step().for_rows(to.rows, to.cols, |row| {
            // SAFETY: the rows exist and share no element; each is one task's.
            let (to, from) = unsafe { (to.row_slice_mut(row), from.row_slice(row)) };
            to.chunks_exact_mut(head_dim).for_each(|head| head[..from.len()].copy_from_slice(from));
        })
    }

    fn write_kv(&self, k: &Tensor, v: &Tensor, layer: &KvCacheLayer, metadata: &AttentionMetadata) -> Result<()> {
        check::write_kv(k, v, layer, metadata)?;
        let (cache, keys, values) = (self.cache(layer)?, self.view(k)?, self.view(v)?);
        let (slots, head_dim) = (metadata.group(layer).slot_mapping.as_slice(), layer.kind().head_dim);
        // One task a head, so that rows with the same slot are written in order.
        self.step().for_rows(layer.kind().num_kv_heads, slots.len() * head_dim, |head| {
            for (row, slot) in slots.iter().enumerate() {
                // SAFETY: rows, slots and heads were checked; this task alone writes the head.
                unsafe {
                    let columns = head * head_dim..(head + 1) * head_dim;
                    let (key, value) = (&keys.row_slice(row)[columns.clone()], &values.row_slice(row)[columns]);
                    cache.write(self.kernels, head, *slot as usize, key, value);
                }
            }
        })
    }

    fn attention(
        &self,
        q: &Tensor,
        layer: &KvCacheLayer,
        metadata: &AttentionMetadata,
        params: &AttentionParams,
    ) -> Result<Tensor> {
        check::attention(q, layer, metadata, params)?;
        let (cache, queries) = (self.cache(layer)?, self.view(q)?);
        let mut step = self.step();
        let (result, to) = step.result(q.rows(), q.cols())?;
        let of_heads = |values: &Option<Tensor>| -> Result<*const f32> {
            values.as_ref().map_or(Ok(std::ptr::null()), |values| Ok(self.view(values)?.row(0).cast_const()))
        };
        let rules = ScoreRules {
            soft_cap: params.soft_cap,
            alibi_slopes: of_heads(&params.alibi_slopes)?,
            sinks: of_heads(&params.sinks)?,
        };
        let metadata = (metadata, metadata.group(layer));
        attend::attend(&mut step, self.kernels, queries, cache, metadata, (params, rules), to)?;
        Ok(result)
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
        let view = |x: &Option<Tensor>| x.as_ref().map(|x| self.view(x)).transpose();
        let bias = view(&params.relative_bias)?;
        let distances = match &params.disentangled {
            Some(distances) => (view(&distances.keys)?, view(&distances.queries)?),
            None => (None, None),
        };
        let (q, k, v) = (self.view(q)?, self.view(k)?, self.view(v)?);
        let mut step = self.step();
        let (result, out) = step.result(q.rows, q.cols)?;
        let operands = encoder_attend::Operands { q, k, v, bias, distances, out };
        encoder_attend::attend(&mut step, self.kernels, operands, query_start_loc.as_slice(), params)?;
        Ok(result)
    }

    fn unfold(&self, x: &Tensor, query_start_loc: &Indices, reach: usize) -> Result<Tensor> {
        check::unfold(x, query_start_loc)?;
        let from = self.view(x)?;
        let mut step = self.step();
        let (result, to) = step.result(from.rows, (2 * reach + 1) * from.cols)?;
        step.for_rows(from.rows, to.cols, |row| {
            let sequence = query_start_loc.run_of(row);
            // SAFETY: rows of the new result are each one task's.
            let places = unsafe { to.row_slice_mut(row) }.chunks_exact_mut(from.cols.max(1));
            for (place, to) in places.enumerate() {
                match (row + place).checked_sub(reach).filter(|other| sequence.contains(other)) {
                    // SAFETY: sequences are of rows that exist, and nothing writes these.
                    Some(other) => to.copy_from_slice(unsafe { from.row_slice(other) }),
                    None => to.fill(0.0),
                }
            }
        })?;
        Ok(result)
    }

    fn activation(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let from = self.view(x)?;
        let mut step = self.step();
        let (result, to) = step.result(from.rows, from.cols)?;
        // SAFETY: rows of `cols` elements, those of the new result each one task's.
        let row = |row| unsafe { (self.kernels.activation)(activation, from.row(row), to.row(row), to.cols) };
        step.for_rows(from.rows, from.cols, row)?;
        Ok(result)
    }

    fn gated_activation(&self, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
        check::gated_activation(gate_up)?;
        let (from, half) = (self.view(gate_up)?, gate_up.cols() / 2);
        let mut step = self.step();
        let (result, to) = step.result(from.rows, half)?;
        step.for_rows(from.rows, from.cols, |row| {
            let gate = from.row(row);
            // SAFETY: rows of twice `half` elements, those of the new result each one task's.
            unsafe { (self.kernels.gated_activation)(activation, gate, gate.add(half), to.row(row), half) };
        })?;
        Ok(result)
    }

    fn route(&self, logits: &Tensor, bias: Option<&Tensor>, params: &RoutingParams) -> Result<Routing> {
        check::route(logits, bias, params)?;
        let (from, bias) = (self.view(logits)?, bias.map(|bias| self.view(bias)).transpose()?);
        let mut step = self.step();
        let (_scratch, scratch) = step.result(from.rows, 2 * from.cols)?;
        let (experts, chosen) = step.result(from.rows, params.top_k)?;
        let (weights, weighted) = step.result(from.rows, params.top_k)?;
        step.for_rows(from.rows, from.cols * params.top_k, |row| {
            // SAFETY: rows exist; those of the new tensors are each one task's.
            unsafe {
                let bias = bias.as_ref().map(|bias| bias.row_slice(0));
                let (chosen, weighted) = (chosen.row_slice_mut(row), weighted.row_slice_mut(row));
                route_row(from.row_slice(row), bias, params, scratch.row_slice_mut(row), chosen, weighted);
            }
        })?;
        Ok(Routing { experts, weights })
    }

    fn scale_experts(&self, routing: &mut Routing, scales: &Tensor) -> Result<()> {
        check::same_shape("scale_experts", &routing.experts, &routing.weights)?;
        let (experts, weights, table) =
            (self.view(&routing.experts)?, self.view(&routing.weights)?, self.view(scales)?);
        for row in 0..experts.rows {
            // SAFETY: the rows exist, and nobody else touches them; the check has seen that there is one row of scales.
            let (experts, weights) = unsafe { (experts.row_slice(row), weights.row_slice_mut(row)) };
            for (expert, weight) in experts.iter().zip(weights) {
                let number = check::scale_of_expert(*expert, scales)?;
                // SAFETY: as above.
                *weight *= unsafe { table.row_slice(0) }[number];
            }
        }
        Ok(())
    }

    fn moe(&self, x: &Tensor, routing: &Routing, experts: &[Expert], activation: GatedActivation) -> Result<Tensor> {
        check::moe(x, routing, experts)?;
        let (from, routes) = (self.view(x)?, (self.view(&routing.experts)?, self.view(&routing.weights)?));
        let experts = experts.iter().map(|expert| self.expert(expert)).collect::<Result<Vec<_>>>()?;
        let mut step = self.step();
        let (result, to) = step.result(from.rows, from.cols)?;
        moe::moe(&mut step, self.kernels, from, routes, &experts, activation, to)?;
        Ok(result)
    }

    fn activated_linear(
        &self,
        x: &Tensor,
        weight: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        self.linear_then(x, weight, bias, Some(activation))
    }

    fn gated_linear(
        &self,
        x: &Tensor,
        gate_up: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        if !linear::gates_are_panels(gate_up.out_features) {
            return self.gated_activation(&self.linear(x, gate_up, bias)?, activation);
        }
        check::linear(x, gate_up, bias)?;
        let packed = self.packed(gate_up)?;
        let (input, bias) = (self.view(x)?, bias.map(|bias| self.view(bias)).transpose()?);
        let mut step = self.step();
        let (result, to) = step.result(x.rows(), gate_up.out_features / 2)?;
        linear::gated_linear(&mut step, self.kernels, input, (packed, bias), activation, to)?;
        Ok(result)
    }

    fn argmax(&self, x: &Tensor) -> Result<Tensor> {
        check::argmax(x)?;
        let from = self.view(x)?;
        let mut step = self.step();
        let (result, to) = step.result(from.rows, Largest::WIDTH)?;
        // SAFETY: rows of at least one element, those of the new result each one task's.
        let row = |row| unsafe { (self.kernels.argmax)(from.row(row), from.cols, 0, to.row(row).cast()) };
        step.for_rows(from.rows, from.cols, row)?;
        Ok(result)
    }

    fn lm_head(&self, hidden: &Tensor, params: &LmHeadParams, num_logits: usize) -> Result<Predictions> {
        check::lm_head(hidden, params, num_logits)?;
        let packed = self.packed(&params.weight)?;
        let (input, bias) = (self.view(hidden)?, params.bias.as_ref().map(|bias| self.view(bias)).transpose()?);
        let finish = linear::Finish { multiplier: params.multiplier, soft_cap: params.soft_cap };
        let mut step = self.step();
        let (logits, to) = step.result(num_logits, params.weight.out_features)?;
        let (argmax, largest) = step.result(hidden.rows() - num_logits, Largest::WIDTH)?;
        linear::lm_head(&mut step, self.kernels, input, (packed, bias), finish, (to, largest))?;
        Ok(Predictions { logits, argmax })
    }

    fn soft_cap(&self, x: &mut Tensor, cap: f32) -> Result<()> {
        let to = self.view(x)?;
        // SAFETY: rows of `cols` elements, each one task's.
        self.step().for_rows(to.rows, to.cols, |row| unsafe { (self.kernels.soft_cap)(to.row(row), cap, to.cols) })
    }

    fn clamp(&self, x: &mut Tensor, limit: f32) -> Result<()> {
        let to = self.view(x)?;
        // SAFETY: rows of `cols` elements, each one task's.
        self.step().for_rows(to.rows, to.cols, |row| unsafe { (self.kernels.clamp)(to.row(row), limit, to.cols) })
    }

    fn scale(&self, x: &mut Tensor, factor: f32) -> Result<()> {
        let to = self.view(x)?;
        // SAFETY: rows of `cols` elements, each one task's.
        self.step().for_rows(to.rows, to.cols, |row| unsafe { (self.kernels.scale)(to.row(row), factor, to.cols) })
    }

    fn gather_rows(&self, x: &Tensor, rows: &Indices) -> Result<Tensor> {
        check::gather_rows(x, rows)?;
        let (from, rows) = (self.view(x)?, rows.as_slice());
        let mut step = self.step();
        let (result, to) = step.result(rows.len(), from.cols)?;
        step.for_rows(rows.len(), from.cols, |row| {
            // SAFETY: indices were checked; rows of the new result are each one task's.
            unsafe { to.row_slice_mut(row).copy_from_slice(from.row_slice(rows[row] as usize)) };
        })?;
        Ok(result)
    }
}

impl CpuBackend {
    fn expert<'a>(&self, expert: &'a Expert) -> Result<PackedExpert<'a>> {
        let bias = |bias: &Option<Tensor>| bias.as_ref().map(|bias| self.view(bias)).transpose();
        Ok(PackedExpert {
            gate_up: self.packed(&expert.gate_up)?,
            gate_up_bias: bias(&expert.gate_up_bias)?,
            down: self.packed(&expert.down)?,
            down_bias: bias(&expert.down_bias)?,
        })
    }

    fn linear_then(
        &self,
        x: &Tensor,
        weight: &Weight,
        bias: Option<&Tensor>,
        activation: Option<Activation>,
    ) -> Result<Tensor> {
        check::linear(x, weight, bias)?;
        let packed = self.packed(weight)?;
        let (input, bias) = (self.view(x)?, bias.map(|bias| self.view(bias)).transpose()?);
        let mut step = self.step();
        let (result, to) = step.result(x.rows(), weight.out_features)?;
        linear::linear(&mut step, self.kernels, input, (packed, bias), activation, to)?;
        Ok(result)
    }

    fn norm_vectors(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<(View, Option<View>)> {
        Ok((self.view(weight)?, bias.map(|bias| self.view(bias)).transpose()?))
    }
}

fn layout_of(weight: &Weight) -> Layout {
    Layout { format: weight.format, out_features: weight.out_features, in_features: weight.in_features }
}

/// Normalizes every run of `weight.cols` columns of a row. Shapes are checked, the row of `to` the caller's alone.
fn rms_norm_row(kernels: &Kernels, from: View, weight: View, to: View, row: usize, eps: f32) {
    for col in (0..from.cols).step_by(weight.cols) {
        // SAFETY: the weight's width divides the row.
        unsafe { (kernels.rms_norm)(from.row(row).add(col), weight.row(0), to.row(row).add(col), weight.cols, eps) };
    }
}

/// Normalizes every run of `weight.cols` columns of a row by its row of the weight. Shapes are checked, the row of `to` the
/// caller's alone.
fn layer_norm_row(kernels: &Kernels, from: View, (weight, bias): (View, Option<View>), to: View, row: usize, eps: f32) {
    for run in 0..weight.rows {
        let start = run * weight.cols;
        let bias = bias.map_or(std::ptr::null(), |bias| bias.row(run).cast_const());
        // SAFETY: the runs fill the rows, which exist; weight and bias have a row for each; the row of `to` is the caller's alone.
        unsafe {
            let (from, to) = (from.row(row).add(start), to.row(row).add(start));
            (kernels.layer_norm)(from, weight.row(run), bias, to, weight.cols, eps);
        }
    }
}
