//! Mixture of experts: the kernels of `cuda/route.cu`, `cuda/moe.cu` and `cuda/moe_products.cu`, one after another.
//!
//! ```text
//!   route                        logits ──► experts, weights                 [rows, top_k], never read by the host
//!   moe     group                experts ──► choices sorted by expert, in tiles of one expert each
//!           products             x ──► inner, activated                      a row a choice
//!           products             inner ──► outputs                           a row a choice
//!           combine              outputs, weights ──► result                 summed in the order of the experts' numbers
//! ```
//!
//! Nothing here waits for the device: grids have room for the most tiles that a routing can make.

use std::sync::{Mutex, PoisonError};

use rustllm_ops::{
    Error, Expert, ExpertGroups, GatedActivation, GroupScore, Result, Routing, RoutingParams, Scoring, Tensor, Weight,
    WeightFormat, checked_size,
};

use crate::backend::{CudaBackend, number_of};
use crate::device::Grid;
use crate::kernels::{MoeCombine, MoeGroup, MoeProducts, Route};
use crate::linear::{Inputs, LinearOperands, PARTS, SLAB_BYTES, THREADS, entries, pick, tile_rows, weight_slab_bytes};
use crate::memory::DeviceMemory;
use crate::view::{Address, Matrix, optional_vector};
use crate::weight::DeviceWeight;

/// Rows of a block of `route`.
const ROUTE_ROWS: usize = 4;

/// `RoutingRules` of `cuda/route.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct RoutingRules {
    top_k: i32,
    is_sigmoid: i32,
    num_groups: i32,
    topk_group: i32,
    counts_two_best: i32,
    renormalizes: i32,
    scaling_factor: f32,
}

impl From<&RoutingParams> for RoutingRules {
    fn from(params: &RoutingParams) -> Self {
        let one = ExpertGroups { num_groups: 1, topk_group: 1, score: GroupScore::Best };
        let ExpertGroups { num_groups, topk_group, score } = params.groups.unwrap_or(one);
        Self {
            top_k: params.top_k as i32,
            is_sigmoid: (params.scoring == Scoring::Sigmoid).into(),
            num_groups: num_groups as i32,
            topk_group: topk_group as i32,
            counts_two_best: (score == GroupScore::TwoBest).into(),
            renormalizes: params.renormalize.into(),
            scaling_factor: params.scaling_factor,
        }
    }
}

/// `Gate` of `cuda/activation.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Gate {
    activation: i32,
    clamps: i32,
    alpha: f32,
    limit: f32,
}

impl From<GatedActivation> for Gate {
    fn from(activation: GatedActivation) -> Self {
        match activation {
            GatedActivation::Plain(activation) => {
                Self { activation: number_of(activation), clamps: 0, alpha: 0.0, limit: 0.0 }
            }
            GatedActivation::ClampedSwiglu { alpha, limit } => Self { activation: 0, clamps: 1, alpha, limit },
        }
    }
}

/// `ExpertWeight` of `cuda/moe.cuh`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
struct ExpertWeight {
    codes: Address,
    scales: Address,
    zeros: Address,
    bias: Address,
}

/// `ExpertWeights` of `cuda/moe.cuh`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
struct ExpertWeights {
    gate_up: ExpertWeight,
    down: ExpertWeight,
}

/// `MoeOperands` of `cuda/moe_products.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct MoeOperands {
    linear: LinearOperands,
    experts: Address,
    tiles: Address,
    order: Address,
    gate: Gate,
    choices_of_row: i32,
    reserved: i32,
}

/// Bytes of a `Tile` of `cuda/moe.cuh`.
const TILE_BYTES: usize = 16;

/// Lists of experts that have been uploaded: one for each mixture of a model.
///
/// A list is known again by its addresses, so that a step uploads nothing once each of its mixtures has run. What is kept
/// are addresses only: of weights that are gone nobody asks again, or the addresses mean the same to those who do.
#[derive(Debug, Default)]
pub(crate) struct ExpertTables(Mutex<Vec<ExpertTable>>);

#[derive(Debug)]
struct ExpertTable {
    experts: Vec<ExpertWeights>,
    memory: DeviceMemory,
}

impl ExpertTables {
    /// Where the device has the table of `experts`. A new one cannot be recorded: a mixture runs once before it is captured.
    fn find(&self, backend: &CudaBackend, experts: Vec<ExpertWeights>) -> Result<Address> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.iter().find(|table| table.experts == experts) {
            return Ok(table.memory.address());
        }
        let memory = backend.device.alloc(&[experts.len(), size_of::<ExpertWeights>()], "experts")?;
        backend.send(&experts, memory.address())?;
        let address = memory.address();
        tables.push(ExpertTable { experts, memory });
        Ok(address)
    }
}

/// A shape of tiles: choices and weight rows of one, and bytes of shared memory in slabs. `cuda/moe_products.cu` has the same.
struct Tiles {
    entries: [&'static str; 7],
    choices: usize,
    weight_rows: usize,
    /// Slabs of the tile in shared memory at once.
    slabs: usize,
}

const SKINNY: Tiles = Tiles { entries: entries!("moe_skinny_8x32"), choices: 8, weight_rows: 32, slabs: 2 * PARTS };
const TILED: Tiles = Tiles { entries: entries!("moe_tiled_64x128"), choices: 64, weight_rows: 128, slabs: 4 };

impl Tiles {
    /// The tiles for experts that have as many choices on average.
    fn of(choices_of_expert: usize) -> &'static Self {
        if choices_of_expert <= 2 * SKINNY.choices { &SKINNY } else { &TILED }
    }
}

/// The operands of `moe` that its products share.
struct Mixture {
    num_experts: usize,
    top_k: usize,
    num_choices: usize,
    tiles: &'static Tiles,
    num_tiles: usize,
    /// In the device's memory: the experts, their tiles, and the order of the choices.
    addresses: [Address; 3],
    gate: Gate,
}

impl CudaBackend {
    pub(crate) fn route_rows(&self, logits: &Tensor, bias: Option<&Tensor>, params: &RoutingParams) -> Result<Routing> {
        let logits = self.view(logits)?;
        let (rows, num_experts) = (logits.num_rows(), logits.num_cols());
        let (experts, to_experts) = self.result(rows, params.top_k)?;
        let (weights, to_weights) = self.result(rows, params.top_k)?;
        let (bias, rules) = (optional_vector(bias, self.id)?, RoutingRules::from(params));
        let shared = ROUTE_ROWS * (2 * num_experts + rules.num_groups as usize) * size_of::<f32>();
        if shared > self.device.max_shared_bytes() {
            return Err(Error::Shape { op: "route", detail: format!("{num_experts} experts do not fit in a block") });
        }
        let grid = Grid { blocks: (rows.div_ceil(ROUTE_ROWS), 1, 1), threads: 128, shared_bytes: shared as u32 };
        let route = Route { experts: to_experts, weights: to_weights, logits, bias, rules };
        self.device.launch("route", grid, &route)?;
        Ok(Routing { experts, weights })
    }

    /// A row whose routing names an expert there is not becomes NaN: the numbers are on the device, where nobody can refuse
    /// them.
    pub(crate) fn mixture(
        &self,
        x: &Tensor,
        routing: &Routing,
        experts: &[Expert],
        activation: GatedActivation,
    ) -> Result<Tensor> {
        let (result, to) = self.result(x.rows(), x.cols())?;
        if x.rows() == 0 {
            return Ok(result);
        }
        let first =
            experts.first().ok_or_else(|| Error::Shape { op: "moe", detail: "rows for no experts".to_owned() })?;
        let (chosen, weights) = (self.view(&routing.experts)?, self.view(&routing.weights)?);
        let (num_choices, top_k) = (chosen.num_rows() * chosen.num_cols(), chosen.num_cols());
        if i32::try_from(num_choices).is_err() {
            return Err(Error::Shape { op: "moe", detail: format!("{top_k} experts for each of {} rows", x.rows()) });
        }
        let tiles = Tiles::of(num_choices / experts.len());
        // Every expert may leave one tile partly empty.
        let num_tiles = num_choices.min(num_choices / tiles.choices + experts.len());
        let order = self.scratch(checked_size(&[num_choices, size_of::<u32>()], "a routing")?)?;
        let tile_list = self.scratch(checked_size(&[num_tiles, TILE_BYTES], "a routing")?)?;
        let table = self.expert_tables.find(self, self.addresses(experts, first.gate_up.format)?)?;
        let mixture = Mixture {
            num_experts: experts.len(),
            top_k,
            num_choices,
            tiles,
            num_tiles,
            addresses: [table, tile_list.address(), order.address()],
            gate: activation.into(),
        };
        self.group(chosen, &mixture)?;
        let (_inner, inner) = self.products(self.view(x)?, &mixture, &first.gate_up, true)?;
        let (_outputs, outputs) = self.products(inner, &mixture, &first.down, false)?;
        let grid = Grid {
            blocks: (x.rows(), x.cols().div_ceil(1024), 1),
            threads: 256,
            shared_bytes: (top_k * size_of::<i32>()) as u32,
        };
        let num_experts = experts.len() as i32;
        self.device.launch("moe_combine", grid, &MoeCombine { to, outputs, chosen, weights, num_experts })?;
        Ok(result)
    }

    fn addresses(&self, experts: &[Expert], format: WeightFormat) -> Result<Vec<ExpertWeights>> {
        let weight = |weight: &Weight, bias: &Option<Tensor>| {
            if weight.format != format {
                let detail = format!("experts of {format} and of {}", weight.format);
                return Err(Error::Shape { op: "moe", detail });
            }
            let (packed, bias) = (DeviceWeight::of(weight, self.id)?, optional_vector(bias.as_ref(), self.id)?);
            Ok(ExpertWeight { codes: packed.codes(), scales: packed.scales(), zeros: packed.zeros(), bias })
        };
        let of_expert = |expert: &Expert| {
            let gate_up = weight(&expert.gate_up, &expert.gate_up_bias)?;
            Ok(ExpertWeights { gate_up, down: weight(&expert.down, &expert.down_bias)? })
        };
        experts.iter().map(of_expert).collect()
    }

    fn group(&self, chosen: Matrix, mixture: &Mixture) -> Result<()> {
        let num_experts = mixture.num_experts;
        let shared_bytes = 3 * num_experts * size_of::<i32>();
        if shared_bytes > self.device.max_shared_bytes() {
            return Err(Error::Shape { op: "moe", detail: format!("{num_experts} experts do not fit in a block") });
        }
        let [_, tiles, order] = mixture.addresses;
        let group = MoeGroup {
            chosen,
            num_experts: num_experts as i32,
            tile_rows: mixture.tiles.choices as i32,
            order,
            tiles,
            num_tiles: mixture.num_tiles as i32,
        };
        let grid = Grid { blocks: (1, 1, 1), threads: 1024, shared_bytes: shared_bytes as u32 };
        self.device.launch("moe_group", grid, &group)
    }

    /// What each choice's expert makes of its row of x: gate and up, and the activation between them, or the second product,
    /// for which x has a row a choice. `weight` is the first expert's.
    fn products(&self, x: Matrix, mixture: &Mixture, weight: &Weight, gated: bool) -> Result<(Tensor, Matrix)> {
        let cols = if gated { weight.out_features / 2 } else { weight.out_features };
        let (result, to) = self.result(mixture.num_choices, cols)?;
        let inputs = Inputs::new(self, x, weight.format)?;
        let linear = LinearOperands {
            to,
            gemm: inputs.times(DeviceWeight::of(weight, self.id)?, weight.format),
            x_scales: inputs.scales(),
            bias: 0,
            part_sums: 0,
            weight_rows: weight.out_features as i32,
            activation: -1,
            gated: gated.into(),
            reserved: 0,
        };
        let (tiles, [experts, tile_list, order]) = (mixture.tiles, mixture.addresses);
        let choices_of_row = if gated { mixture.top_k as i32 } else { 1 };
        let (gate, reserved) = (mixture.gate, 0);
        let moe = MoeOperands { linear, experts, tiles: tile_list, order, gate, choices_of_row, reserved };
        let slab_bytes = tiles.weight_rows * weight_slab_bytes(weight.format) + tiles.choices * SLAB_BYTES;
        let grid = Grid {
            blocks: (mixture.num_tiles, tile_rows(&linear).div_ceil(tiles.weight_rows), 1),
            threads: THREADS,
            shared_bytes: (tiles.slabs * slab_bytes) as u32,
        };
        self.device.launch(pick(weight.format, tiles.entries), grid, &MoeProducts { moe })?;
        Ok((result, to))
    }
}
