//! From checkpoint tensors to weights: the one place that fuses, transposes, renames and converts them.

mod biased_experts;
mod distances;
mod encoder;
mod experts;
mod fp8;
mod latent_attention;
mod layers;
mod mxfp4;
mod owned_matrix;
mod pieces;
mod qkv;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt::{self, Display};

use rustllm_ops::{Backend, DType, HostMatrix, RopeTable, Tensor, Weight, WeightFormat};

use crate::checkpoint::{Checkpoint, TensorView, weight_dtype};
use crate::config::{Fp8Config, NormConfig, NormKind};
use crate::layers::{Linear, Norm};
use crate::rope::RopeConfig;
use crate::{LoadError, ModelConfig};

type Result<T> = std::result::Result<T, LoadError>;

/// The most bytes of cosines and sines a rotary table may take.
const MAX_ROPE_BYTES: u64 = 1 << 30;

/// What a model's weights are converted to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Formats {
    /// Of tables that are looked up in.
    table: WeightFormat,
    /// Of the output projection, and of the embedding that is one with it.
    lm_head: WeightFormat,
    /// Of all other linear layers.
    linear: WeightFormat,
}

impl Formats {
    /// `quantization` for linear layers, eight bits at least for the output projection, which decides between tokens.
    pub(crate) fn new(dtype: DType, quantization: Option<WeightFormat>) -> Self {
        let table = WeightFormat::Dense(dtype);
        let lm_head = if quantization.is_some() { WeightFormat::Int8 } else { table };
        Self { table, lm_head, linear: quantization.unwrap_or(table) }
    }

    /// Bytes that the matrices of `checkpoint` take at least.
    pub(crate) fn least_bytes(self, checkpoint: &Checkpoint) -> u64 {
        let bits = match self.linear {
            WeightFormat::Dense(dtype) => 8 * dtype.size() as u64,
            WeightFormat::Int8 => 8,
            WeightFormat::Int4 { .. } => 4,
        };
        checkpoint.num_matrix_elements() * bits / 8
    }

    /// Each once.
    pub(crate) fn all(self) -> [WeightFormat; 3] {
        [self.table, self.lm_head, self.linear]
    }
}

/// One load in progress.
pub(crate) struct Loading<'a> {
    backend: &'a dyn Backend,
    checkpoint: &'a Checkpoint,
    formats: Formats,
    /// Whether the output projection is wanted.
    generates: bool,
    /// Blocks of weights in FP8, where there may be any.
    pub(crate) fp8: Option<Fp8Config>,
    total_bytes: u64,
    used: RefCell<HashSet<String>>,
    bytes: Cell<u64>,
    parameters: Cell<u64>,
    /// Rotary tables made so far, which layers share.
    ropes: RefCell<Vec<(RopeConfig, RopeTable)>>,
    progress: RefCell<&'a mut dyn FnMut(u64, u64)>,
}

impl<'a> Loading<'a> {
    /// A load of `checkpoint` onto `backend`, its matrices converted to `formats`, to generate or for the hidden states.
    pub(crate) fn new(
        backend: &'a dyn Backend,
        checkpoint: &'a Checkpoint,
        formats: Formats,
        generates: bool,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        backend.plan_weights(formats.least_bytes(checkpoint));
        Self {
            backend,
            checkpoint,
            formats,
            generates,
            fp8: None,
            total_bytes: checkpoint.total_bytes(),
            used: RefCell::default(),
            bytes: Cell::new(0),
            parameters: Cell::new(0),
            ropes: RefCell::default(),
            progress: RefCell::new(progress),
        }
    }

    /// Takes note of a tensor whose elements the model now has.
    fn loaded(&self, name: &str, view: &TensorView<'_>) {
        if !self.used.borrow_mut().insert(name.to_owned()) {
            return;
        }
        self.parameters.set(self.parameters.get() + view.shape.iter().product::<usize>() as u64);
        self.bytes.set(self.bytes.get() + view.bytes.len() as u64);
        (self.progress.borrow_mut())(self.bytes.get(), self.total_bytes);
    }

    /// Checks that the model has a place for every tensor, and returns the number of parameters.
    ///
    /// `is_buffer` tells tensors that hold no parameters (masks and frequencies that old checkpoints carry along).
    pub(crate) fn finish(&self, architecture: &str, is_buffer: impl Fn(&str) -> bool) -> Result<u64> {
        let used = self.used.borrow();
        let mut unexpected =
            self.checkpoint.names().filter(|name| !used.contains(*name) && !is_buffer(name)).peekable();
        if unexpected.peek().is_some() {
            return Err(LoadError::UnexpectedTensors {
                dir: self.checkpoint.dir().into(),
                architecture: architecture.into(),
                tensors: unexpected.take(5).map(str::to_owned).collect(),
            });
        }
        if self.bytes.get() < self.total_bytes {
            (self.progress.borrow_mut())(self.total_bytes, self.total_bytes);
        }
        Ok(self.parameters.get())
    }
}

/// Some rows of a fused weight.
struct Part<'a> {
    name: &'a str,
    out_features: usize,
    /// `(rotary_dim, head_dim)` where neighbours become halves of the rotary part of each head.
    order: Option<(usize, usize)>,
}

impl<'a> Part<'a> {
    fn new(name: &'a str, out_features: usize) -> Self {
        Self { name, out_features, order: None }
    }

    /// The checkpoint's rows in the order in which they are used.
    fn rows(&self) -> impl Iterator<Item = usize> {
        let order = self.order;
        (0..self.out_features).map(move |row| match order {
            Some((rotary_dim, head_dim)) if row % head_dim < rotary_dim => {
                let (head, element, half) = (row / head_dim * head_dim, row % head_dim, rotary_dim / 2);
                head + 2 * (element % half) + element / half
            }
            _ => row,
        })
    }
}

/// Reads the tensors under one prefix of names, each checked against the shape the configuration says.
#[derive(Clone)]
pub(crate) struct Loader<'a> {
    loading: &'a Loading<'a>,
    prefix: String,
}

impl fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl<'a> Loader<'a> {
    /// The loader of full names.
    pub(crate) fn new(loading: &'a Loading<'a>) -> Self {
        Self { loading, prefix: String::new() }
    }

    /// The loader of the names under `name.`.
    pub(crate) fn child(&self, name: impl Display) -> Self {
        Self { loading: self.loading, prefix: format!("{}{name}.", self.prefix) }
    }

    /// The loader of the base model: under `name.`, or here where checkpoints of the bare base model have it.
    pub(crate) fn base_model(&self, name: &str, probe: &str) -> Self {
        let child = self.child(name);
        if !child.has(probe) && self.has(probe) { self.clone() } else { child }
    }

    /// Whether the checkpoint has a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.loading.checkpoint.get(&self.full(name)).is_some()
    }

    /// The loader of what is under the first of `names` that has a tensor `probe`, or else the first.
    pub(crate) fn first_child(&self, names: [&str; 2], probe: &str) -> Self {
        let [first, second] = names.map(|name| self.child(name));
        if !first.has(probe) && second.has(probe) { second } else { first }
    }

    /// `name.weight`, `[out_features, in_features]`, and `name.bias` if the layer has one.
    pub(crate) fn linear(&self, name: &str, out_features: usize, in_features: usize, bias: bool) -> Result<Linear> {
        self.side_by_side(&[Part::new(name, out_features)], in_features, bias)
    }

    /// Several linear layers of one input as one, their outputs side by side: `parts`, or the tensor `fused` that a checkpoint may
    /// have in their place.
    pub(crate) fn fused_linear(
        &self,
        fused: &str,
        parts: &[(&str, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear> {
        if self.has(&format!("{fused}.weight")) {
            return self.linear(fused, parts.iter().map(|(_, out_features)| out_features).sum(), in_features, bias);
        }
        let parts: Vec<_> = parts.iter().map(|(name, out_features)| Part::new(name, *out_features)).collect();
        self.side_by_side(&parts, in_features, bias)
    }

    /// The query, key and value projections of layer `layer` as one: `parts`, or the tensor `fused`.
    ///
    /// Where rotary pairs are neighbours, the rows of queries and keys are put in the order in which halves pair up: a score
    /// is the same in any order of the elements of a head.
    pub(crate) fn qkv_linear(
        &self,
        fused: &str,
        parts: [&str; 3],
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Linear> {
        let (hidden, bias) = (config.hidden_size, config.attention.qkv_bias);
        let sizes = [config.q_size(), config.kv_size(), config.kv_size()];
        let order = qkv::rotary_order(config, layer);
        if order.is_none() {
            let [q, k, v] = parts;
            return self.fused_linear(fused, &[(q, sizes[0]), (k, sizes[1]), (v, sizes[2])], hidden, bias);
        }
        let part = |i: usize| Part { order: order.filter(|_| i < 2), ..Part::new(parts[i], sizes[i]) };
        self.side_by_side(&[part(0), part(1), part(2)], hidden, bias)
    }

    fn side_by_side(&self, parts: &[Part<'_>], in_features: usize, bias: bool) -> Result<Linear> {
        let stored = parts.iter().map(|part| self.stored_matrix(part.name, part.out_features, in_features));
        let stored = stored.collect::<Result<Vec<_>>>()?;
        let (mut matrices, mut ordered, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for (part, stored) in parts.iter().zip(&stored) {
            let matrix = stored.view()?;
            let row_bytes = in_features * matrix.dtype.size();
            let row = |row: usize| &matrix.bytes[row * row_bytes..(row + 1) * row_bytes];
            ordered.push(part.order.map(|_| part.rows().flat_map(row).copied().collect::<Vec<u8>>()));
            matrices.push(matrix);
            if bias {
                let values = self.values(&format!("{}.bias", part.name), part.out_features)?;
                biases.extend(part.rows().map(|row| values[row]));
            }
        }
        for (matrix, bytes) in matrices.iter_mut().zip(&ordered) {
            if let Some(bytes) = bytes {
                (matrix.bytes, matrix.source) = (bytes, None);
            }
        }
        self.pack(&matrices, self.loading.formats.linear, bias.then_some(biases.as_slice()))
    }

    /// A linear layer stored as `[in_features, out_features]`, and its bias.
    pub(crate) fn transposed_linear(&self, name: &str, out_features: usize, in_features: usize) -> Result<Linear> {
        let matrix = self.matrix(&format!("{name}.weight"), in_features, out_features)?.transpose();
        let bias = self.values(&format!("{name}.bias"), out_features)?;
        self.pack(&[matrix], self.loading.formats.linear, Some(&bias))
    }

    /// `name.weight`, a table of `rows` rows.
    pub(crate) fn embedding(&self, name: &str, rows: usize, width: usize) -> Result<Weight> {
        self.weight(name, rows, width, self.loading.formats.table)
    }

    /// `name.weight`, the table of the tokens: in the output projection's format where it is the same weight.
    pub(crate) fn token_embedding(&self, name: &str, config: &ModelConfig) -> Result<Weight> {
        let Formats { table, lm_head, .. } = self.loading.formats;
        let format = if config.tie_word_embeddings && self.loading.generates { lm_head } else { table };
        self.weight(name, config.vocab_size, config.embedding_size, format)
    }

    /// The output projection: `name.weight` from here, or the embedding `table` of `base` itself where `tied`.
    ///
    /// A tied checkpoint may have both, with the same elements; where they differ it was not tied after all. A model that is
    /// not to generate asks for neither, and gets the table, which costs nothing.
    pub(crate) fn lm_head(&self, name: &str, tied: bool, base: &Self, table: (&str, &Weight)) -> Result<Linear> {
        if !self.loading.generates {
            self.ignore(&format!("{name}.weight"));
            self.ignore(&format!("{name}.bias"));
            return Ok(Linear { weight: table.1.clone(), bias: None });
        }
        let (key, source) = (self.full(name) + ".weight", base.full(table.0) + ".weight");
        let (rows, width) = (table.1.out_features, table.1.in_features);
        let (own, shared) = (self.loading.checkpoint.get(&key), self.loading.checkpoint.get(&source));
        let differs = own.zip(shared).is_some_and(|(own, shared)| own.bytes != shared.bytes);
        if !tied || differs {
            let weight = self.weight(name, rows, width, self.loading.formats.lm_head)?;
            return Ok(Linear { weight, bias: None });
        }
        if own.is_some() {
            self.loading.used.borrow_mut().insert(key);
        }
        Ok(Linear { weight: table.1.clone(), bias: None })
    }

    /// Takes note of a tensor that is not needed, should it be there.
    pub(crate) fn ignore(&self, name: &str) {
        self.loading.used.borrow_mut().insert(self.full(name));
    }

    /// Factor on rows of a table, rounded as the table is: models are trained with it in the table's element type.
    pub(crate) fn rounded_multiplier(&self, multiplier: f32) -> f32 {
        match self.loading.formats.table {
            WeightFormat::Dense(dtype) => dtype.round(multiplier),
            _ => multiplier,
        }
    }

    /// `name.weight`, and `name.bias` if the kind of norm has one.
    pub(crate) fn norm(&self, name: &str, width: usize, NormConfig { kind, eps }: NormConfig) -> Result<Norm> {
        let mut weight = self.values(&format!("{name}.weight"), width)?;
        if kind == NormKind::RmsPlusOne {
            weight.iter_mut().for_each(|weight| *weight += 1.0);
        }
        let weight = self.vector(&weight)?;
        match kind {
            NormKind::Rms | NormKind::RmsPlusOne => Ok(Norm::Rms { weight, eps }),
            NormKind::Layer { bias } => {
                let bias = bias.then(|| self.vector(&self.values(&format!("{name}.bias"), width)?)).transpose()?;
                Ok(Norm::Layer { weight, bias, eps })
            }
        }
    }

    /// A root mean square norm whose weight is the tensor `name` times `factor`, ones where there is no tensor.
    pub(crate) fn scaled_norm(&self, name: Option<&str>, width: usize, factor: f32, eps: f32) -> Result<Norm> {
        let weight = name.map_or_else(|| Ok(vec![1.0; width]), |name| self.values(name, width))?;
        let scaled: Vec<f32> = weight.iter().map(|weight| weight * factor).collect();
        Ok(Norm::Rms { weight: self.vector(&scaled)?, eps })
    }

    /// The number that the tensor `name` holds.
    pub(crate) fn scalar(&self, name: &str) -> Result<f32> {
        Ok(self.values(name, 1)?[0])
    }

    /// The score of each head's attention sink.
    pub(crate) fn sinks(&self, num_heads: usize) -> Result<Tensor> {
        self.vector(&self.values("sinks", num_heads)?)
    }

    /// The rotary tables of layer `layer`, if it has rotary positions.
    pub(crate) fn rope(&self, config: &ModelConfig, layer: usize) -> Result<Option<RopeTable>> {
        let rope = config.layers[layer].rope.as_ref();
        rope.map(|rope| self.rope_table(rope, config.max_model_len)).transpose()
    }

    /// The rotary tables of `max_model_len` positions.
    pub(crate) fn rope_table(&self, rope: &RopeConfig, max_model_len: usize) -> Result<RopeTable> {
        let mut ropes = self.loading.ropes.borrow_mut();
        if let Some((_, table)) = ropes.iter().find(|(made, _)| made == rope) {
            return Ok(table.clone());
        }
        let row_bytes = (rope.rotary_dim * size_of::<f32>()) as u64;
        let bytes = row_bytes.saturating_mul(max_model_len as u64);
        if bytes > MAX_ROPE_BYTES {
            let limit = (MAX_ROPE_BYTES / row_bytes) as usize;
            return Err(LoadError::RopeTableTooLarge { max_model_len, bytes, limit });
        }
        let frequencies = rope.frequencies(max_model_len);
        let table = RopeTable::new(self.loading.backend, max_model_len, &frequencies, rope.attention_factor())?;
        ropes.push((rope.clone(), table.clone()));
        Ok(table)
    }

    fn vector(&self, values: &[f32]) -> Result<Tensor> {
        Ok(self.loading.backend.tensor(values, 1, values.len())?)
    }

    fn weight(&self, name: &str, rows: usize, width: usize, format: WeightFormat) -> Result<Weight> {
        Ok(self.pack(&[self.matrix(&format!("{name}.weight"), rows, width)?], format, None)?.weight)
    }

    fn pack(&self, matrices: &[HostMatrix<'_>], format: WeightFormat, bias: Option<&[f32]>) -> Result<Linear> {
        let backend = self.loading.backend;
        let bias = bias.map(|values| self.vector(values)).transpose()?;
        Ok(Linear { weight: backend.load_weight(matrices, format)?, bias })
    }

    fn values(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let (dtype, view) = self.tensor(name, &[len])?;
        Ok(dtype.decode(view.bytes))
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<HostMatrix<'a>> {
        let (dtype, view) = self.tensor(name, &[rows, cols])?;
        Ok(HostMatrix::new(dtype, rows, cols, view.bytes)?.released_by(view.file))
    }

    fn tensor(&self, name: &str, expected: &[usize]) -> Result<(DType, TensorView<'a>)> {
        let view = self.view(name, expected)?;
        match weight_dtype(view.dtype) {
            Some(dtype) => Ok((dtype, view)),
            None => Err(LoadError::TensorDType {
                dir: self.loading.checkpoint.dir().into(),
                tensor: self.full(name),
                found: view.dtype.to_string(),
                expected: "F32, F16 or BF16",
            }),
        }
    }

    fn view(&self, name: &str, expected: &[usize]) -> Result<TensorView<'a>> {
        let (dir, tensor) = (self.loading.checkpoint.dir(), self.full(name));
        let Some(view) = self.loading.checkpoint.get(&tensor) else {
            return Err(LoadError::MissingTensor { dir: dir.into(), tensor });
        };
        if view.shape != expected {
            let (found, expected) = (view.shape.to_vec(), expected.to_vec());
            return Err(LoadError::TensorShape { dir: dir.into(), tensor, found, expected });
        }
        self.loading.loaded(&tensor, &view);
        Ok(view)
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
