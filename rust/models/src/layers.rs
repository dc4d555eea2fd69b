//! The blocks models are made of. Each is a few calls of the backend; none knows a device, a dtype or a file format.
//!
//! ```text
//!   Decoder    Embedding ─► [Block] * n ─► Norm ─► output projection
//!   Encoder    EncoderEmbedding ─► [Block] * n ─► Head
//!   PreNormBlock  stream ─► Norm ─► Attention   ─┐    stream: a ResidualStream, which adds an output to the residual
//!                 stream ◄───────────────────────┘    only when the next norm reads it, so that both are one op
//!                 stream ─► Norm ─► FeedForward ─┐
//!                 stream ◄───────────────────────┘
//!   SandwichBlock          a Norm after each of the two as well
//!   PostNormBlock          a Norm after each of the two only
//!   NormedSumBlock         a Norm of the stream after each of the two, which then starts anew
//!   ParallelBlock          both on one Norm of the stream
//!   TwoNormParallelBlock   each on a Norm of its own
//! ```

mod attention;
mod block;
mod decoder;
mod encoder;
mod encoder_block;
mod feed_forward;
mod head;
mod latent_attention;
mod linear;
mod moe;
mod norm;
mod residual;

pub(crate) use attention::{Attention, SelfAttention};
pub(crate) use block::{Block, BuildBlock, ParallelBlock, PostNormBlock, PreNormBlock, SandwichBlock};
pub(crate) use decoder::{Decoder, Embedding};
pub(crate) use encoder::{Encoder, EncoderEmbedding};
pub(crate) use encoder_block::{EncoderAttention, EncoderPostNormBlock, EncoderPreNormBlock};
pub(crate) use feed_forward::FeedForward;
pub(crate) use head::{Head, HeadLayer};
pub(crate) use latent_attention::LatentAttention;
pub(crate) use linear::Linear;
pub(crate) use moe::Moe;
pub(crate) use norm::Norm;
pub(crate) use residual::ResidualStream;
