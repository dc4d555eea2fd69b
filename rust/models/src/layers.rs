//! The blocks models are made of. Each is a few calls of the backend; none knows a device, a dtype or a file format.
//!
//! ```text
//!   Decoder    Embedding ─► [Block] * n ─► Norm ─► LmHead
//!   Encoder    EncoderEmbedding ─► [Block] * n ─► Head
//!   PreNormBlock  stream ─► Norm ─► Attention   ─┐    stream: a ResidualStream, which adds an output to the residual
//!                 stream ◄───────────────────────┘    only when the next norm reads it, so that both are one op
//!                 stream ─► Norm ─► FeedForward ─┐
//!                 stream ◄───────────────────────┘
//! ```

mod attention;
mod block;
mod decoder;
mod encoder;
mod encoder_block;
mod feed_forward;
mod head;
mod linear;
mod norm;
mod residual;

pub(crate) use attention::Attention;
pub(crate) use block::{Block, PreNormBlock};
pub(crate) use decoder::{Decoder, Embedding};
pub(crate) use encoder::{Encoder, EncoderEmbedding};
pub(crate) use encoder_block::{EncoderAttention, EncoderPreNormBlock, PostNormBlock};
pub(crate) use feed_forward::FeedForward;
pub(crate) use head::{Head, HeadLayer};
pub(crate) use linear::Linear;
pub(crate) use norm::Norm;
pub(crate) use residual::ResidualStream;
