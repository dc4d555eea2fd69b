use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustllm_ops::{
    Activation, Arena, AttentionMetadata, AttentionParams, Backend, DType, DeviceMemory, DeviceSampler,
    EncoderAttentionParams, Error, Expert, GatedActivation, Graphs, HostMatrix, Indices, KvCache, KvCacheLayer,
    KvCacheSpec, QkRmsNorm, Result, RopeTable, Routing, RoutingParams, Tensor, Weight, WeightFormat, check,
    checked_size,
};

use crate::buffer::Buffer;
use crate::device::{Device, Grid};
use crate::gemm::CublasLt;
use crate::kernels::{
    Activate, ActivateGated, AddLayerNorm, AddRmsNorm, Combine, EmbedDense, EmbedInt4, EmbedInt8, FillHeads,
    GatherRows, LayerNorm, Rescale, RmsNorm, Rotary, ScaleExperts,
};
use crate::linear::{self, Then};
use crate::moe::ExpertTables;
use crate::view::{Matrix, dense, indices, optional_vector, vector};
use crate::weight::{DeviceWeight, WeightLoader};
use crate::{CudaError, NAME, argmax, kv_cache};

/// Columns that a block of an elementwise kernel takes.
const BLOCK_COLUMNS: usize = 1024;

/// Threads of a block of the kernels here.
const THREADS: u32 = 256;

/// How a [`CudaBackend`] runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Which device, as the driver counts.
    pub ordinal: usize,
    /// Whether a row's result may not depend on the rows beside it, to the bit: products are then this crate's own alone.
    pub deterministic: bool,
}

/// The backend of an NVIDIA GPU.
///
/// Activations are float32; weights may be in any [`WeightFormat`], the cache in any dtype. Its block size is a multiple of 16. Ops are
/// submitted to one stream, in the order they are called.
#[derive(Debug)]
pub struct CudaBackend {
    /// Where results may depend on the batch. Before the device, whose context it needs to its end.
    pub(crate) cublas: Option<CublasLt>,
    pub(crate) device: Arc<Device>,
    /// Tells this backend's tensors from another's.
    pub(crate) id: u64,
    arenas: Mutex<Arenas>,
    weight_loader: Mutex<WeightLoader>,
    pub(crate) expert_tables: ExpertTables,
}

/// Where results live: those of captured work apart from all others, since a graph writes them again whenever it is launched.
#[derive(Debug)]
pub(crate) struct Arenas {
    eager: Arena<Buffer>,
    captured: Arena<Buffer>,
    /// What an op leaves behind for nobody: recorded or not, all share it, since they run one after another.
    workspaces: Arena<Buffer>,
    /// Whether work is being captured.
    pub capturing: bool,
}

impl CudaBackend {
    /// The backend of one of the devices that the driver sees.
    ///
    /// # Errors
    /// [`CudaError`] where there is no such device, or one that is too old.
    pub fn new(options: CudaOptions) -> std::result::Result<Self, CudaError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let arenas = Arenas {
            eager: Arena::default(),
            captured: Arena::of_graphs(),
            workspaces: Arena::of_graphs(),
            capturing: false,
        };
        // What is found takes to the device that is current: this one, from here on.
        let device = Arc::new(Device::open(options.ordinal)?);
        Ok(Self {
            cublas: if options.deterministic { None } else { CublasLt::find() },
            device,
            id,
            arenas: Mutex::new(arenas),
            weight_loader: Mutex::default(),
            expert_tables: ExpertTables::default(),
        })
    }

    /// What the driver calls the device.
    pub fn device_name(&self) -> &str {
        self.device.name()
    }

    /// The device's generation and its place in it.
    pub fn compute_capability(&self) -> (i32, i32) {
        self.device.compute_capability()
    }

    pub(crate) fn view(&self, x: &Tensor) -> Result<Matrix> {
        Matrix::of(x, self.id)
    }

    /// Copies new values to the device: not while work is recorded, since what is launched again would read them again.
    pub(crate) fn send<T: Copy>(&self, values: &[T], to: u64) -> Result<()> {
        if self.arenas().capturing {
            let message = "work that copies new values to the device cannot be recorded".into();
            return Err(Error::Backend { backend: NAME, message });
        }
        self.device.upload(values, to)
    }

    pub(crate) fn arenas(&self) -> MutexGuard<'_, Arenas> {
        // A panic leaves them whole: buffers are handed out one by one.
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn weight_loader(&self) -> MutexGuard<'_, WeightLoader> {
        // A panic leaves it whole: parts of a slab are handed out one by one.
        self.weight_loader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory of the arena for `bytes`.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<Arc<Buffer>> {
        let mut arenas = self.arenas();
        if arenas.capturing {
            return arenas.captured.take(bytes, |bytes| self.buffer(bytes));
        }
        match arenas.eager.take(bytes, |bytes| self.buffer(bytes)) {
            Err(Error::OutOfMemory { .. }) => {
                arenas.eager.give_back();
                arenas.eager.take(bytes, |bytes| self.buffer(bytes))
            }
            taken => taken,
        }
    }

    /// Memory for what is of use inside one op only.
    pub(crate) fn workspace(&self, bytes: usize) -> Result<Arc<Buffer>> {
        self.arenas().workspaces.take(bytes, |bytes| self.buffer(bytes))
    }

    fn buffer(&self, bytes: usize) -> Result<Buffer> {
        Ok(Buffer::new(self.device.alloc(&[bytes], "activations")?, self.id))
    }

    /// A new tensor, with unspecified contents.
    pub(crate) fn result(&self, rows: usize, cols: usize) -> Result<(Tensor, Matrix)> {
        let bytes = checked_size(&[rows, cols, size_of::<f32>()], "activations")?;
        let tensor = Tensor::new(self.scratch(bytes)?, rows, cols);
        let view = self.view(&tensor)?;
        Ok((tensor, view))
    }

    /// The grid of a kernel whose blocks take [`BLOCK_COLUMNS`] of a row.
    fn by_columns(x: Matrix) -> Grid {
        Grid::new((x.num_rows(), x.num_cols().div_ceil(BLOCK_COLUMNS), 1), THREADS)
    }

    /// The grid of a norm over `runs` runs of `width` columns of every row: eight columns for each thread, where a block has as
    /// many. The width alone decides, since with the threads goes the order of additions.
    fn norm_grid(rows: usize, runs: usize, width: usize) -> Grid {
        let threads = width.div_ceil(8).next_power_of_two().clamp(32, 1024);
        Grid::new((rows, runs, 1), threads as u32)
    }

    fn combine(&self, entry: &'static str, x: &Tensor, y: &Tensor) -> Result<()> {
        let (x, y) = (self.view(x)?, self.view(y)?);
        self.device.launch(entry, Self::by_columns(x), &Combine { x, y })
    }

    fn rescale(&self, entry: &'static str, x: &Tensor, by: f32) -> Result<()> {
        let x = self.view(x)?;
        self.device.launch(entry, Self::by_columns(x), &Rescale { x, by })
    }
}

/// The number of an activation in `cuda/activation.cuh`.
pub(crate) fn number_of(activation: Activation) -> i32 {
    match activation {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
        Activation::Tanh => 4,
        Activation::ReluSquared => 5,
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports(&self, format: WeightFormat) -> bool {
        match format {
            WeightFormat::Dense(DType::F32 | DType::F16 | DType::BF16) | WeightFormat::Int8 => true,
            WeightFormat::Int4 { group_size, .. } => WeightFormat::GROUP_SIZES.contains(&group_size),
        }
    }

    fn device_memory(&self) -> Result<Option<DeviceMemory>> {
        let (free, total) = self.device.memory()?;
        Ok(Some(DeviceMemory { free: free as u64, total: total as u64 }))
    }

    fn graphs(&self) -> Option<&dyn Graphs> {
        Some(self)
    }

    fn plan_weights(&self, bytes: u64) {
        self.weight_loader().arena.plan(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    fn sampler(&self) -> Option<&dyn DeviceSampler> {
        Some(self)
    }

    fn load_weight(&self, parts: &[HostMatrix<'_>], format: WeightFormat) -> Result<Weight> {
        let (out_features, in_features) = check::load_weight(parts)?;
        if !self.supports(format) {
            return Err(Error::UnsupportedFormat { backend: NAME, format, what: "weights" });
        }
        let packed = DeviceWeight::load(self, &mut self.weight_loader(), parts, format)?;
        Ok(Weight { format, out_features, in_features, storage: Arc::new(packed) })
    }

    fn tensor(&self, values: &[f32], rows: usize, cols: usize) -> Result<Tensor> {
        check::tensor(values, rows, cols)?;
        let memory = self.device.alloc(&[values.len(), size_of::<f32>()], "a tensor")?;
        self.send(values, memory.address())?;
        Ok(Tensor::new(Arc::new(Buffer::new(memory, self.id)), rows, cols))
    }

    fn indices(&self, values: Vec<u32>) -> Result<Indices> {
        let buffer = self.scratch(size_of_val(values.as_slice()))?;
        self.send(&values, buffer.address())?;
        Ok(Indices::with_device(values, buffer))
    }

    fn read_rows(&self, x: &Tensor, visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let view = self.view(x)?;
        let (rows, cols, stride) = (x.rows(), x.cols(), x.row_stride());
        if rows == 0 {
            return Ok(());
        }
        let mut values = vec![0.0f32; (rows - 1) * stride + cols];
        self.device.download(view.data, &mut values)?;
        for row in 0..rows {
            visit(row, &values[row * stride..row * stride + cols]);
        }
        Ok(())
    }

    fn alloc_kv_cache(&self, spec: &KvCacheSpec) -> Result<KvCache> {
        // Weights are there by now.
        self.weight_loader().give_back_buffers();
        kv_cache::alloc(&self.device, self.id, spec)
    }

    fn kv_cache_block_bytes(&self, spec: &KvCacheSpec) -> usize {
        kv_cache::block_bytes(spec)
    }

    fn embedding(&self, ids: &Indices, table: &Weight) -> Result<Tensor> {
        check::embedding(ids, table)?;
        let weight = DeviceWeight::of(table, self.id)?;
        let (result, to) = self.result(ids.len(), table.in_features)?;
        let (ids, stride, grid) = (indices(ids, self.id)?, weight.stride as i64, Self::by_columns(to));
        match table.format {
            WeightFormat::Dense(dtype) => {
                let entry = match dtype {
                    DType::F32 => "embedding_f32",
                    DType::F16 => "embedding_f16",
                    DType::BF16 => "embedding_bf16",
                };
                self.device.launch(entry, grid, &EmbedDense { to, ids, table: weight.codes(), stride })?;
            }
            WeightFormat::Int8 => {
                let (codes, scales) = (weight.codes(), weight.scales());
                self.device.launch("embedding_int8", grid, &EmbedInt8 { to, ids, codes, stride, scales })?;
            }
            WeightFormat::Int4 { group_size, .. } => {
                let (codes, scales, zeros) = (weight.codes(), weight.scales(), weight.zeros());
                let (groups, group_size) = (weight.groups as i32, group_size as i32);
                let embed = EmbedInt4 { to, ids, codes, stride, scales, zeros, groups, group_size };
                self.device.launch("embedding_int4", grid, &embed)?;
            }
        }
        Ok(result)
    }

    fn linear(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        check::linear(x, weight, bias)?;
        linear::linear(self, x, weight, bias, Then::Nothing)
    }

    fn activated_linear(
        &self,
        x: &Tensor,
        weight: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        check::linear(x, weight, bias)?;
        linear::linear(self, x, weight, bias, Then::Activate(activation))
    }

    fn gated_linear(
        &self,
        x: &Tensor,
        gate_up: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        check::linear(x, gate_up, bias)?;
        if !gate_up.out_features.is_multiple_of(2) {
            return self.gated_activation(&self.linear(x, gate_up, bias)?, activation);
        }
        linear::linear(self, x, gate_up, bias, Then::Gate(activation))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        check::rms_norm(x, weight)?;
        let x = self.view(x)?;
        let (result, to) = self.result(x.num_rows(), x.num_cols())?;
        let runs = x.num_cols() / weight.cols();
        let norm = RmsNorm { to, x, weight: vector(weight, self.id)?, width: weight.cols() as i32, eps };
        self.device.launch("rms_norm", Self::norm_grid(x.num_rows(), runs, weight.cols()), &norm)?;
        Ok(result)
    }

    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
        check::layer_norm(x, weight, bias)?;
        let (x, runs, width) = (self.view(x)?, weight.rows(), weight.cols());
        let (weight, bias) = (dense(weight, self.id)?, bias.map_or(Ok(0), |bias| dense(bias, self.id))?);
        let (result, to) = self.result(x.num_rows(), x.num_cols())?;
        let norm = LayerNorm { to, x, weight, bias, width: width as i32, eps };
        self.device.launch("layer_norm", Self::norm_grid(x.num_rows(), runs, width), &norm)?;
        Ok(result)
    }

    fn add_assign(&self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        check::same_shape("add_assign", x, y)?;
        check::disjoint("add_assign", x, y)?;
        self.combine("add_assign", x, y)
    }

    fn mul_assign(&self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        check::same_shape("mul_assign", x, y)?;
        check::disjoint("mul_assign", x, y)?;
        self.combine("mul_assign", x, y)
    }

    fn add_rms_norm(&self, x: &Tensor, residual: &mut Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        check::same_shape("add_assign", residual, x)?;
        check::rms_norm(residual, weight)?;
        check::disjoint("add_rms_norm", residual, x)?;
        check::disjoint("add_rms_norm", residual, weight)?;
        if weight.cols() != residual.cols() {
            self.add_assign(residual, x)?;
            return self.rms_norm(residual, weight, eps);
        }
        let (x, residual, weight) = (self.view(x)?, self.view(residual)?, vector(weight, self.id)?);
        let (result, to) = self.result(x.num_rows(), x.num_cols())?;
        let norm = AddRmsNorm { to, residual, x, weight, eps };
        self.device.launch("add_rms_norm", Self::norm_grid(x.num_rows(), 1, x.num_cols()), &norm)?;
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
        if weight.rows() > 1 {
            self.add_assign(residual, x)?;
            return self.layer_norm(residual, weight, bias, eps);
        }
        let (x, residual) = (self.view(x)?, self.view(residual)?);
        let (weight, bias) = (vector(weight, self.id)?, optional_vector(bias, self.id)?);
        let (result, to) = self.result(x.num_rows(), x.num_cols())?;
        let norm = AddLayerNorm { to, residual, x, weight, bias, eps };
        self.device.launch("add_layer_norm", Self::norm_grid(x.num_rows(), 1, x.num_cols()), &norm)?;
        Ok(result)
    }

    fn rotary(&self, x: &mut Tensor, rope: &RopeTable, positions: &Indices, head_dim: usize) -> Result<()> {
        check::rotary(x, rope, positions, head_dim)?;
        check::same_shape("rotary", &rope.cos, &rope.sin)?;
        check::disjoint("rotary", x, &rope.cos)?;
        check::disjoint("rotary", x, &rope.sin)?;
        let (x, pairs) = (self.view(x)?, rope.cos.cols());
        let turned = x.num_cols() / head_dim * pairs;
        let rotary = Rotary {
            x,
            cosines: vector(&rope.cos, self.id)?,
            sines: vector(&rope.sin, self.id)?,
            positions: indices(positions, self.id)?,
            head_dim: head_dim as i32,
            pairs: pairs as i32,
        };
        let grid = Grid::new((x.num_rows(), turned.div_ceil(THREADS as usize), 1), THREADS);
        self.device.launch("rotary", grid, &rotary)
    }

    fn fill_heads(&self, x: &mut Tensor, part: &Tensor, head_dim: usize) -> Result<()> {
        check::fill_heads(x, part, head_dim)?;
        check::disjoint("fill_heads", x, part)?;
        let (x, part) = (self.view(x)?, self.view(part)?);
        self.device.launch("fill_heads", Self::by_columns(x), &FillHeads { x, part, head_dim: head_dim as i32 })
    }

    fn write_kv(&self, k: &Tensor, v: &Tensor, layer: &KvCacheLayer, metadata: &AttentionMetadata) -> Result<()> {
        check::write_kv(k, v, layer, metadata)?;
        kv_cache::write(self, k, v, layer, metadata)
    }

    fn rotary_write_kv(
        &self,
        qkv: [Tensor; 3],
        norm: Option<&QkRmsNorm<'_>>,
        rope: Option<&RopeTable>,
        layer: &KvCacheLayer,
        metadata: &AttentionMetadata,
    ) -> Result<Tensor> {
        check::rotary_write_kv(&qkv, norm, rope, layer, metadata)?;
        kv_cache::write_turned(self, &qkv, norm, rope, layer, metadata)?;
        let [q, ..] = qkv;
        Ok(q)
    }

    fn attention(
        &self,
        q: &Tensor,
        layer: &KvCacheLayer,
        metadata: &AttentionMetadata,
        params: &AttentionParams,
    ) -> Result<Tensor> {
        check::attention(q, layer, metadata, params)?;
        self.paged_attention(q, layer, metadata, params)
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
        self.attention_of_own_rows(q, k, v, query_start_loc, params)
    }

    fn activation(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let x = self.view(x)?;
        let (result, to) = self.result(x.num_rows(), x.num_cols())?;
        let activation = number_of(activation);
        self.device.launch("activation", Self::by_columns(to), &Activate { to, x, activation })?;
        Ok(result)
    }

    fn gated_activation(&self, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
        check::gated_activation(gate_up)?;
        let gate_up = self.view(gate_up)?;
        let (result, to) = self.result(gate_up.num_rows(), gate_up.num_cols() / 2)?;
        let activation = number_of(activation);
        self.device.launch("gated_activation", Self::by_columns(to), &ActivateGated { to, gate_up, activation })?;
        Ok(result)
    }

    fn route(&self, logits: &Tensor, bias: Option<&Tensor>, params: &RoutingParams) -> Result<Routing> {
        check::route(logits, bias, params)?;
        self.route_rows(logits, bias, params)
    }

    /// A routing that names an expert there is not gets weights of NaN: what stands in the device's memory is not looked at here.
    fn scale_experts(&self, routing: &mut Routing, scales: &Tensor) -> Result<()> {
        check::same_shape("scale_experts", &routing.experts, &routing.weights)?;
        let (weights, experts) = (self.view(&routing.weights)?, self.view(&routing.experts)?);
        let (factors, num_experts) = (vector(scales, self.id)?, scales.cols() as i32);
        let scale = ScaleExperts { weights, experts, factors, num_experts };
        self.device.launch("scale_experts", Grid::new((weights.num_rows(), 1, 1), 32), &scale)
    }

    fn moe(&self, x: &Tensor, routing: &Routing, experts: &[Expert], activation: GatedActivation) -> Result<Tensor> {
        check::moe(x, routing, experts)?;
        self.mixture(x, routing, experts, activation)
    }

    fn argmax(&self, x: &Tensor) -> Result<Tensor> {
        check::argmax(x)?;
        argmax::argmax(self, x)
    }

    fn soft_cap(&self, x: &mut Tensor, cap: f32) -> Result<()> {
        self.rescale("soft_cap", x, cap)
    }

    fn clamp(&self, x: &mut Tensor, limit: f32) -> Result<()> {
        self.rescale("clamp", x, limit)
    }

    fn scale(&self, x: &mut Tensor, factor: f32) -> Result<()> {
        self.rescale("scale", x, factor)
    }

    fn gather_rows(&self, x: &Tensor, rows: &Indices) -> Result<Tensor> {
        check::gather_rows(x, rows)?;
        let from = self.view(x)?;
        let (result, to) = self.result(rows.len(), x.cols())?;
        let rows = indices(rows, self.id)?;
        self.device.launch("gather_rows", Self::by_columns(to), &GatherRows { to, from, rows })?;
        Ok(result)
    }
}
