//! The experts of gpt-oss: biases, and gate and up projections that take turns.
//!
//! ```text
//!   gate_up_proj         [experts, hidden, 2 * inner]    transposed; columns g0 u0 g1 u1 ...
//!   gate_up_proj_blocks  [experts, 2 * inner, hidden / 32, 16], and .._scales: rows g0 u0 g1 u1 ..., in MXFP4
//!   down_proj            [experts, inner, hidden], or _blocks [experts, hidden, inner / 32, 16] and _scales
//!   .._bias              [experts, 2 * inner] and [experts, hidden]
//! ```

use rustllm_ops::{DType, Expert, HostMatrix, Release};
use safetensors::tensor::Dtype;

use super::owned_matrix::{OwnedMatrix, release};
use super::{Loader, Result, mxfp4};
use crate::checkpoint::TensorView;
use crate::config::MoeConfig;
use crate::layers::{Linear, Moe};
use crate::{LoadError, ModelConfig};

/// A tensor of MXFP4, all experts.
struct Packed<'a> {
    blocks: TensorView<'a>,
    scales: TensorView<'a>,
}

impl<'a> Loader<'a> {
    /// The mixture of experts of a layer whose router is called `router`.
    pub(crate) fn biased_moe(&self, config: &ModelConfig, moe: &MoeConfig) -> Result<Moe> {
        let hidden = config.hidden_size;
        let router = self.router("router", moe.num_experts, hidden)?;
        let bias = self.vector(&self.values("router.bias", moe.num_experts)?)?;
        Ok(Moe {
            router: Linear { bias: Some(bias), ..router },
            correction_bias: None,
            routing: moe.routing,
            expert_scales: None,
            experts: self.child("experts").biased_experts(hidden, moe)?,
            activation: moe.activation,
            shared: None,
        })
    }

    fn biased_experts(&self, hidden: usize, moe: &MoeConfig) -> Result<Vec<Expert>> {
        let (n, inner) = (moe.num_experts, moe.intermediate_size);
        let gate_up_bias = self.matrix("gate_up_proj_bias", n, 2 * inner)?;
        let down_bias = self.matrix("down_proj_bias", n, hidden)?;
        let expert = |number: usize, gate_up: &[HostMatrix<'_>], down: &[HostMatrix<'_>]| {
            let format = self.loading.formats.linear;
            let bias = turned_apart(&gate_up_bias.row(number), 1);
            let gate_up = self.pack(gate_up, format, Some(&bias))?;
            let down = self.pack(down, format, Some(&down_bias.row(number)))?;
            Ok(Expert { gate_up: gate_up.weight, gate_up_bias: gate_up.bias, down: down.weight, down_bias: down.bias })
        };
        if self.has("gate_up_proj_blocks") {
            let (gate_up, down) = (
                self.packed_matrices("gate_up_proj", n, 2 * inner, hidden)?,
                self.packed_matrices("down_proj", n, hidden, inner)?,
            );
            return (0..n)
                .map(|number| {
                    let (gate_up, down) =
                        (gate_up.matrix(number, n, hidden, true), down.matrix(number, n, inner, false));
                    expert(number, &[gate_up.view()?], &[down.view()?])
                })
                .collect();
        }
        let gate_ups = self.matrices("gate_up_proj", n, hidden, 2 * inner)?;
        let downs = self.matrices("down_proj", n, inner, hidden)?;
        let experts = gate_ups.into_iter().zip(downs).enumerate();
        experts
            .map(|(number, (gate_up, down))| {
                let rows = gate_up.bytes.chunks_exact(gate_up.cols * gate_up.dtype.size());
                let bytes = rows.flat_map(|row| turned_apart(row, gate_up.dtype.size())).collect();
                let owned = OwnedMatrix { dtype: gate_up.dtype, cols: gate_up.cols, bytes };
                release(&gate_up);
                expert(number, &[owned.view()?.transpose()], &[down.transpose()])
            })
            .collect()
    }

    fn packed_matrices(&self, name: &str, n: usize, rows: usize, cols: usize) -> Result<Packed<'a>> {
        let blocks = cols.div_ceil(mxfp4::BLOCK);
        Ok(Packed {
            blocks: self.bytes(&format!("{name}_blocks"), &[n, rows, blocks, mxfp4::BLOCK / 2])?,
            scales: self.bytes(&format!("{name}_scales"), &[n, rows, blocks])?,
        })
    }

    /// A tensor of bytes.
    fn bytes(&self, name: &str, expected: &[usize]) -> Result<TensorView<'a>> {
        let view = self.view(name, expected)?;
        if view.dtype != Dtype::U8 {
            let (dir, tensor) = (self.loading.checkpoint.dir().into(), self.full(name));
            return Err(LoadError::TensorDType { dir, tensor, found: view.dtype.to_string(), expected: "U8" });
        }
        Ok(view)
    }
}

impl Packed<'_> {
    /// Expert `number` of `n`, a matrix of `cols` columns, its rows apart where gates and ups take turns.
    fn matrix(&self, number: usize, n: usize, cols: usize, taking_turns: bool) -> OwnedMatrix {
        let share = |view: &TensorView<'_>| number * view.bytes.len() / n..(number + 1) * view.bytes.len() / n;
        let (blocks, scales) = (&self.blocks.bytes[share(&self.blocks)], &self.scales.bytes[share(&self.scales)]);
        let mut bytes = mxfp4::dequantize(blocks, scales);
        self.blocks.file.release(blocks);
        if taking_turns {
            bytes = turned_apart(&bytes, cols * DType::BF16.size());
        }
        OwnedMatrix { dtype: DType::BF16, cols, bytes }
    }
}

/// `g0 u0 g1 u1 ...` as `g0 g1 ... u0 u1 ...`, each of `size` elements.
fn turned_apart<T: Copy>(pairs: &[T], size: usize) -> Vec<T> {
    let mut apart = Vec::with_capacity(pairs.len());
    for first in 0..2 {
        pairs.chunks_exact(size).skip(first).step_by(2).for_each(|chunk| apart.extend_from_slice(chunk));
    }
    apart
}
