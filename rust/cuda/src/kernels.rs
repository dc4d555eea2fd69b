//! The kernels of `cuda/*.cu` as they are launched: their names and the types of their arguments.
//!
//! A struct here has a field for each argument of its kernels, in their order. Tests hold the table to the arguments that
//! the compiled kernels have.

use std::ffi::c_void;

use crate::attention::{Partials, ScoreRules, Sequences};
use crate::encoder_attention::SplitRows;
use crate::kv_cache::{HeadRules, KvBlocks};
use crate::linear::LinearOperands;
use crate::moe::{MoeOperands, RoutingRules};
use crate::sampling::SamplingScratch;
use crate::view::{Address, Matrix};

/// The arguments of kernels that take the same ones.
pub(crate) trait Kernel {
    /// The file of `cuda/` they are in, without its ending.
    const FILE: &'static str;
    /// Their names.
    const ENTRIES: &'static [&'static str];
    /// The sizes of their arguments.
    const ARGUMENT_BYTES: &'static [usize];

    /// Gives `call` a pointer to each argument.
    fn with_arguments<T>(&self, call: impl FnOnce(&mut [*mut c_void]) -> T) -> T;
}

/// A line of the launch table.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    /// The file of `cuda/`, without its ending.
    pub file: &'static str,
    /// The kernel's name.
    pub entry: &'static str,
    /// The sizes in bytes of its arguments.
    pub argument_bytes: &'static [usize],
}

macro_rules! kernels {
    ($($(#[$attribute:meta])* $file:literal [$($entry:literal),+ $(,)?] $name:ident { $($field:ident: $type:ty),+ $(,)? })+) => {
        $(
            $(#[$attribute])*
            #[derive(Debug, Clone, Copy)]
            #[repr(C)]
            pub(crate) struct $name {
                $(pub(crate) $field: $type,)+
            }

            impl Kernel for $name {
                const FILE: &'static str = $file;
                const ENTRIES: &'static [&'static str] = &[$($entry),+];
                const ARGUMENT_BYTES: &'static [usize] = &[$(size_of::<$type>()),+];

                fn with_arguments<T>(&self, call: impl FnOnce(&mut [*mut c_void]) -> T) -> T {
                    call(&mut [$((&raw const self.$field).cast_mut().cast()),+])
                }
            }
        )+

        /// Every kernel that is launched.
        pub static LAUNCHES: &[Launch] = &[
            $($(Launch { file: $file, entry: $entry, argument_bytes: $name::ARGUMENT_BYTES },)+)+
        ];
    };
}

kernels! {
    "argmax" ["argmax_rows"] ArgmaxRows { to: Matrix, x: Matrix, best: Address, runs: i32 }
    "argmax" ["argmax_runs"] ArgmaxRuns { x: Matrix, best: Address }
    "attention" ["attention_f32", "attention_f16", "attention_bf16", "attention_int8"] Attention {
        to: Matrix, q: Matrix, cache: KvBlocks, seqs: Sequences, rules: ScoreRules, partials: Partials,
    }
    "attention" ["merge_splits"] MergeSplits { to: Matrix, seqs: Sequences, rules: ScoreRules, partials: Partials }
    "attention_decode" [
        "attention_decode_f16_64", "attention_decode_f16_128", "attention_decode_f16_256",
        "attention_decode_bf16_64", "attention_decode_bf16_128", "attention_decode_bf16_256",
        "attention_decode_int8_64", "attention_decode_int8_128", "attention_decode_int8_256",
    ] AttentionDecode {
        to: Matrix, q: Matrix, cache: KvBlocks, seqs: Sequences, rules: ScoreRules, partials: Partials, tiles: i32,
        most_rows: i32,
    }
    "attention_prefill" [
        "attention_prefill_f16_64", "attention_prefill_f16_128", "attention_prefill_f16_256",
        "attention_prefill_bf16_64", "attention_prefill_bf16_128", "attention_prefill_bf16_256",
        "attention_prefill_int8_64", "attention_prefill_int8_128", "attention_prefill_int8_256",
    ] AttentionPrefill {
        to: Matrix, q: Matrix, cache: KvBlocks, seqs: Sequences, rules: ScoreRules, most_rows: i32,
    }
    "chain" ["chain_ids"] ChainIds { to: Address, ids: Address, rows: Address, tokens: Matrix, n: i32 }
    "chain" ["keep_tokens"] KeepTokens { to: Matrix, tokens: Matrix }
    "distance_products" ["distance_products"] MultiplyDistances {
        to: Address, x: Matrix, of_distances: Matrix, first: i32, num_buckets: i32, head_dim: i32,
    }
    "elementwise" ["activation"] Activate { to: Matrix, x: Matrix, activation: i32 }
    "elementwise" ["gated_activation"] ActivateGated { to: Matrix, gate_up: Matrix, activation: i32 }
    "elementwise" ["add_assign", "mul_assign"] Combine { x: Matrix, y: Matrix }
    "elementwise" ["scale", "clamp", "soft_cap"] Rescale { x: Matrix, by: f32 }
    "elementwise" ["gather_rows"] GatherRows { to: Matrix, from: Matrix, rows: Address }
    "elementwise" ["fill_heads"] FillHeads { x: Matrix, part: Matrix, head_dim: i32 }
    "embedding" ["embedding_f32", "embedding_f16", "embedding_bf16"] EmbedDense {
        to: Matrix, ids: Address, table: Address, stride: i64,
    }
    "embedding" ["embedding_int8"] EmbedInt8 { to: Matrix, ids: Address, codes: Address, stride: i64, scales: Address }
    "embedding" ["embedding_int4"] EmbedInt4 {
        to: Matrix, ids: Address, codes: Address, stride: i64, scales: Address, zeros: Address, groups: i32, group_size: i32,
    }
    "encoder_attention" ["encoder_attention"] EncoderAttention {
        to: Matrix, q: Matrix, k: Matrix, v: Matrix, seqs: Sequences, head_dim: i32, rules: ScoreRules,
    }
    "encoder_attention" ["encoder_attention_64", "encoder_attention_128"] EncoderAttentionOfTiles {
        to: Matrix, q: Matrix, rows: SplitRows, seqs: Sequences, rules: ScoreRules,
    }
    "encoder_attention" ["split_rows_64", "split_rows_128"] SplitIntoTiles {
        k: Matrix, v: Matrix, rows: SplitRows, seqs: Sequences,
    }
    "kv_cache" ["write_kv_f32", "write_kv_f16", "write_kv_bf16", "write_kv_int8"] WriteKv {
        k: Matrix, v: Matrix, cache: KvBlocks, slots: Address,
    }
    "linear_input" ["input_f32", "input_f16", "input_bf16"] InputDense { to: Address, stride: i64, x: Matrix }
    "linear_input" ["input_int8"] InputInt8 { to: Address, stride: i64, scales: Address, x: Matrix, for_int4: i32 }
    "linear_row" [
        "row_16_f32", "row_16_f16", "row_16_bf16", "row_16_int8", "row_16_int4_g32", "row_16_int4_g64", "row_16_int4_g128",
        "row_32_f32", "row_32_f16", "row_32_bf16", "row_32_int8", "row_32_int4_g32", "row_32_int4_g64", "row_32_int4_g128",
    ] RowProducts { linear: LinearOperands, x: Matrix }
    "linear_skinny" [
        "skinny_8x16_f32", "skinny_8x16_f16", "skinny_8x16_bf16", "skinny_8x16_int8", "skinny_8x16_int4_g32", "skinny_8x16_int4_g64", "skinny_8x16_int4_g128",
        "skinny_8x32_f32", "skinny_8x32_f16", "skinny_8x32_bf16", "skinny_8x32_int8", "skinny_8x32_int4_g32", "skinny_8x32_int4_g64", "skinny_8x32_int4_g128",
        "skinny_16x32_f32", "skinny_16x32_f16", "skinny_16x32_bf16", "skinny_16x32_int8", "skinny_16x32_int4_g32", "skinny_16x32_int4_g64", "skinny_16x32_int4_g128",
    ] SkinnyProducts { linear: LinearOperands }
    "linear_tiled" [
        "tiled_64x128_f32", "tiled_64x128_f16", "tiled_64x128_bf16", "tiled_64x128_int8", "tiled_64x128_int4_g32", "tiled_64x128_int4_g64", "tiled_64x128_int4_g128",
        "tiled_128x128_f16", "tiled_128x128_bf16", "tiled_128x128_int8",
        "sum_parts_dense", "sum_parts_int8", "sum_parts_int4",
    ] TiledProducts { linear: LinearOperands }
    "logits" ["copy_logits"] CopyLogits { to: Matrix, from: Matrix, rows: Address }
    "logits" ["edit_logits"] EditLogits { to: Matrix, from: Matrix, rows: Address, edits: Address }
    "logprobs" ["logprobs_gather"] LogprobsGather {
        logits: Matrix, requests: Address, chunks: Address, masses: Address, chunk_lists: Address, top: i32, rows: Address,
        likeliest: Address,
    }
    "logprobs" ["logprobs_sum"] LogprobsSum { logits: Matrix, requests: Address, chunks: Address, masses: Address }
    "moe" ["moe_combine"] MoeCombine {
        to: Matrix, outputs: Matrix, chosen: Matrix, weights: Matrix, num_experts: i32,
    }
    "moe" ["moe_group"] MoeGroup {
        chosen: Matrix, num_experts: i32, tile_rows: i32, order: Address, tiles: Address, num_tiles: i32,
    }
    "moe_products" [
        "moe_skinny_8x32_f32", "moe_skinny_8x32_f16", "moe_skinny_8x32_bf16", "moe_skinny_8x32_int8",
        "moe_skinny_8x32_int4_g32", "moe_skinny_8x32_int4_g64", "moe_skinny_8x32_int4_g128",
        "moe_tiled_64x128_f32", "moe_tiled_64x128_f16", "moe_tiled_64x128_bf16", "moe_tiled_64x128_int8",
        "moe_tiled_64x128_int4_g32", "moe_tiled_64x128_int4_g64", "moe_tiled_64x128_int4_g128",
    ] MoeProducts { moe: MoeOperands }
    "norm" ["rms_norm"] RmsNorm { to: Matrix, x: Matrix, weight: Address, width: i32, eps: f32 }
    "norm" ["add_rms_norm"] AddRmsNorm { to: Matrix, residual: Matrix, x: Matrix, weight: Address, eps: f32 }
    "norm" ["layer_norm"] LayerNorm {
        to: Matrix, x: Matrix, weight: Address, bias: Address, width: i32, eps: f32,
    }
    "norm" ["add_layer_norm"] AddLayerNorm {
        to: Matrix, residual: Matrix, x: Matrix, weight: Address, bias: Address, eps: f32,
    }
    "rotary" ["rotary"] Rotary {
        x: Matrix, cosines: Address, sines: Address, positions: Address, head_dim: i32, pairs: i32,
    }
    "rotary_write_kv" ["rotary_write_kv_f32", "rotary_write_kv_f16", "rotary_write_kv_bf16", "rotary_write_kv_int8"] RotaryWriteKv {
        q: Matrix, k: Matrix, v: Matrix, cache: KvBlocks, slots: Address, rules: HeadRules,
    }
    "route" ["route"] Route { experts: Matrix, weights: Matrix, logits: Matrix, bias: Address, rules: RoutingRules }
    "route" ["scale_experts"] ScaleExperts { weights: Matrix, experts: Matrix, factors: Address, num_experts: i32 }
    "sampling" ["sampling_draw"] SamplingDraw { to: Matrix, logits: Matrix, rows: Address, scratch: SamplingScratch }
    "sampling" ["sampling_scan"] SamplingScan { logits: Matrix, chunks: Address, buckets: Address }
    "sampling" ["sampling_weigh"] SamplingWeigh { logits: Matrix, rows: Address, scratch: SamplingScratch }
    "weight" ["decode_f32", "decode_f16", "decode_bf16"] Decode {
        to: Matrix, from: Address, transposed: i32, first_row: i64, from_rows: i64,
    }
    "weight" ["encode_f32", "encode_f16", "encode_bf16"] EncodeDense { to: Address, stride: i64, from: Matrix }
    "weight" ["encode_int8"] EncodeInt8 { to: Address, stride: i64, scales: Address, from: Matrix }
    "weight" ["encode_int4"] EncodeInt4 {
        to: Address, stride: i64, scales: Address, zeros: Address, group_size: i32, symmetric: i32, from: Matrix,
    }
}
