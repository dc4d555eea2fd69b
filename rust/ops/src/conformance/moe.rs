//! Cases of routing and of mixtures of experts.

use super::{Case, FORMATS, numbers, random_tensor, random_weight, rows_of};
use crate::{
    Activation, Backend, DType, Expert, ExpertGroups, GatedActivation, GroupScore, HostMatrix, Result, Routing,
    RoutingParams, Scoring, Tensor, WeightFormat,
};

/// A mixture of experts on random inputs.
#[derive(Debug, Clone, Copy)]
pub struct MoeCase {
    /// Rows of the batch.
    pub rows: usize,
    /// Experts there are, and experts of a row.
    pub experts: (usize, usize),
    /// Width of the rows, and inside an expert.
    pub sizes: (usize, usize),
    /// Of the experts' weights.
    pub format: WeightFormat,
    /// Between an expert's products.
    pub activation: GatedActivation,
    /// Whether the products have biases.
    pub bias: bool,
}

impl MoeCase {
    /// The experts on `backend`.
    ///
    /// # Errors
    /// What loading fails with.
    pub fn load(&self, backend: &dyn Backend) -> Result<Vec<Expert>> {
        let (hidden, inner) = self.sizes;
        let vector = |n, seed| self.bias.then(|| backend.tensor(&sixteenths(n, seed), 1, n)).transpose();
        let expert = |seed| {
            let gate_up: Vec<u8> =
                sixteenths(2 * inner * hidden, seed).iter().flat_map(|value| value.to_le_bytes()).collect();
            let gate_up = HostMatrix::new(DType::F32, 2 * inner, hidden, &gate_up)?;
            Ok(Expert {
                gate_up: backend.load_weight(&[gate_up], self.format)?,
                gate_up_bias: vector(2 * inner, seed + 1)?,
                down: random_weight(backend, hidden, inner, self.format, seed + 2)?,
                down_bias: vector(hidden, seed + 3)?,
            })
        };
        (0..self.experts.0 as u64).map(|i| expert(100 + 4 * i)).collect()
    }

    /// Experts and weights of rows `first ..`: uneven, so that some experts have many rows and some none.
    ///
    /// # Errors
    /// What the allocation fails with.
    pub fn routing(&self, backend: &dyn Backend, first: usize, rows: usize) -> Result<Routing> {
        let (num_experts, top_k) = self.experts;
        let of_row = |row: usize| (0..top_k).map(move |i| ((row * row / 3 + 2 * i) % num_experts) as f32);
        let experts: Vec<f32> = (first..first + rows).flat_map(of_row).collect();
        let weights = numbers((first + rows) * top_k, 60);
        Ok(Routing {
            experts: backend.tensor(&experts, rows, top_k)?,
            weights: backend.tensor(&weights[first * top_k..], rows, top_k)?,
        })
    }

    fn outputs(&self, backend: &dyn Backend) -> Result<Vec<Vec<f32>>> {
        let width = self.sizes.0 + 3;
        let x = backend.tensor(&sixteenths(self.rows * width, 61), self.rows, width)?.columns(2, self.sizes.0)?;
        let routing = self.routing(backend, 0, self.rows)?;
        rows_of(backend, &backend.moe(&x, &routing, &self.load(backend)?, self.activation)?)
    }
}

/// Numbers whose products' sums are exact in float32, in any order. What is between an expert's products is rounded to a weight's
/// dtype: if sums differed in their last bit, a number next to the middle of two would be rounded either way.
fn sixteenths(n: usize, seed: u64) -> Vec<f32> {
    numbers(n, seed).into_iter().map(|value| (16.0 * value).round() / 16.0).collect()
}

/// Mixtures of every format, of one row and of more rows than a register tile has, of one expert a row and of several.
pub fn moe_table() -> Vec<MoeCase> {
    let silu = GatedActivation::Plain(Activation::Silu);
    let clamped = GatedActivation::ClampedSwiglu { alpha: 1.702, limit: 1.5 };
    let mut table = Vec::new();
    for format in FORMATS {
        for (rows, experts, sizes, activation) in [
            (1, (8, 2), (64, 48), silu),
            (5, (7, 3), (70, 33), silu),
            // Exact too, among so many numbers.
            (130, (5, 2), (48, 64), GatedActivation::Plain(Activation::Relu)),
        ] {
            table.push(MoeCase { rows, experts, sizes, format, activation, bias: false });
        }
        table.push(MoeCase { rows: 17, experts: (3, 1), sizes: (33, 40), format, activation: clamped, bias: true });
    }
    // More places than a wave takes.
    let wide = MoeCase { rows: 300, experts: (6, 3), sizes: (16, 16), ..table[0] };
    table.push(wide);
    table
}

pub(super) fn cases(cases: &mut Vec<Case>) {
    for case in moe_table() {
        let MoeCase { rows, experts: (experts, top_k), sizes: (hidden, inner), format, activation, .. } = case;
        let name = format!(
            "moe linear {format} {top_k} of {experts} experts, [{rows}, {hidden}] inner {inner}, {activation:?}"
        );
        // Two linear layers and an activation between them.
        let tolerance = 16.0 * (hidden + inner) as f32 * 2f32.powi(-24);
        cases.push(Case::new(name, tolerance, move |backend| case.outputs(backend)));
    }
    for rows in [1, 130] {
        cases.push(Case::new(format!("scale_experts [{rows}, 3] of 7"), 0.0, move |backend| {
            let mut routing = MoeCase { experts: (7, 3), ..moe_table()[0] }.routing(backend, 0, rows)?;
            backend.scale_experts(&mut routing, &random_tensor(backend, 1, 7, 64)?)?;
            Ok([rows_of(backend, &routing.experts)?, rows_of(backend, &routing.weights)?].concat())
        }));
    }
    for (experts, params) in routings() {
        for rows in [1, 5, 130] {
            for biased in [false, true] {
                let name = format!("route [{rows}, {experts}] {params:?}, bias {biased}");
                cases.push(Case::new(name, 2e-6, move |backend| route(backend, rows, experts, biased, &params)));
            }
        }
    }
}

fn route(
    backend: &dyn Backend,
    rows: usize,
    experts: usize,
    biased: bool,
    params: &RoutingParams,
) -> Result<Vec<Vec<f32>>> {
    let spread = |x: Vec<f32>, factor: f32| x.into_iter().map(|v| factor * v).collect::<Vec<_>>();
    let logits: Tensor = backend.tensor(&spread(numbers(rows * experts, 62), 4.0), rows, experts)?;
    let bias = backend.tensor(&spread(numbers(experts, 63), 0.2), 1, experts)?;
    let routing = backend.route(&logits, biased.then_some(&bias), params)?;
    Ok([rows_of(backend, &routing.experts)?, rows_of(backend, &routing.weights)?].concat())
}

fn routings() -> Vec<(usize, RoutingParams)> {
    let softmax =
        RoutingParams { top_k: 2, scoring: Scoring::Softmax, groups: None, renormalize: true, scaling_factor: 1.0 };
    let groups = |score| Some(ExpertGroups { num_groups: 4, topk_group: 2, score });
    vec![
        (1, RoutingParams { top_k: 1, scoring: Scoring::Sigmoid, renormalize: false, ..softmax }),
        (8, softmax),
        (60, RoutingParams { top_k: 4, renormalize: false, ..softmax }),
        (16, RoutingParams { top_k: 3, groups: groups(GroupScore::Best), scaling_factor: 16.0, ..softmax }),
        (
            32,
            RoutingParams {
                top_k: 6,
                scoring: Scoring::Sigmoid,
                groups: groups(GroupScore::TwoBest),
                scaling_factor: 2.5,
                ..softmax
            },
        ),
    ]
}
