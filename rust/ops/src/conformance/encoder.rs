//! Attention among the rows of each sequence.

use std::ops::Range;

use super::{Case, numbers, random_tensor, rows_of};
use crate::{Backend, DisentangledParams, EncoderAttentionParams, Result};

/// Sequences of one batch, and how their rows see each other.
#[derive(Debug, Clone)]
pub struct EncoderCase {
    /// Rows of each sequence.
    pub seqs: Vec<usize>,
    /// Query heads, key/value heads, elements of a head.
    pub heads: (usize, usize, usize),
    /// How far rows see.
    pub window: Option<usize>,
    /// Reach of a bias by distance, if there is one.
    pub bias: Option<usize>,
    /// What distances stand for, if they do.
    pub distances: Option<DistanceCase>,
}

/// Keys and queries of distances.
#[derive(Debug, Clone, Copy)]
pub struct DistanceCase {
    /// How far distances are told apart.
    pub reach: usize,
    /// Distances past this many to a side share buckets, ever more of them.
    pub exact: usize,
    /// Whether distances have keys.
    pub keys: bool,
    /// Whether distances have queries.
    pub queries: bool,
}

impl DistanceCase {
    /// Distances one by one at first, then by the squares that lie between them and those.
    fn params(&self, backend: &dyn Backend, width: usize) -> Result<DisentangledParams> {
        let &Self { reach, exact, keys, queries } = self;
        let steps = |away: usize| away.min(exact) + away.saturating_sub(exact).isqrt();
        let bucket = |at: usize| match at < reach {
            true => steps(reach) - steps(reach - at),
            false => steps(reach) + steps(at - reach),
        };
        let buckets = backend.indices((0..=2 * reach).map(|at| bucket(at) as u32).collect())?;
        let rows = |seed| random_tensor(backend, 2 * steps(reach) + 1, width, seed);
        Ok(DisentangledParams {
            keys: keys.then(|| rows(6)).transpose()?,
            queries: queries.then(|| rows(7)).transpose()?,
            buckets,
        })
    }
}

impl EncoderCase {
    /// The op's parameters on a backend.
    ///
    /// # Errors
    /// No memory.
    pub fn params(&self, backend: &dyn Backend) -> Result<EncoderAttentionParams> {
        let (num_heads, num_kv_heads, head_dim) = self.heads;
        let bias = |reach: usize| random_tensor(backend, num_heads, 2 * reach + 1, 4);
        Ok(EncoderAttentionParams {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: self.window,
            relative_bias: self.bias.map(bias).transpose()?,
            disentangled: self.distances.map(|case| case.params(backend, num_heads * head_dim)).transpose()?,
        })
    }

    /// Attends. Row `i` of sequence `s` has the same numbers whatever the other sequences are; keys and values lie side by
    /// side, as in a fused projection.
    ///
    /// # Errors
    /// What the op fails with.
    pub fn outputs(&self, backend: &dyn Backend) -> Result<Vec<Vec<f32>>> {
        let (num_heads, num_kv_heads, head_dim) = self.heads;
        let (q_size, kv_size) = (num_heads * head_dim, num_kv_heads * head_dim);
        let width = q_size + 2 * kv_size;
        let rows = self.seqs.iter().enumerate().flat_map(|(seq, len)| {
            (0..*len).flat_map(move |row| numbers(width, ((seq as u64) << 16 | row as u64) + 5))
        });
        let values: Vec<f32> = rows.map(|value| 2.0 * value).collect();
        let qkv = backend.tensor(&values, values.len() / width, width)?;
        let starts = self.seqs.iter().scan(0, |end, len| {
            *end += *len as u32;
            Some(*end)
        });
        let starts = backend.indices(std::iter::once(0).chain(starts).collect())?;
        let (q, k) = (qkv.columns(0, q_size)?, qkv.columns(q_size, kv_size)?);
        let v = qkv.columns(q_size + kv_size, kv_size)?;
        rows_of(backend, &backend.encoder_attention(&q, &k, &v, &starts, &self.params(backend)?)?)
    }

    /// The rows that sequence `seq` has among the [`outputs`](Self::outputs), and the same sequence in a batch where the others
    /// have none.
    pub fn alone(&self, seq: usize) -> (Range<usize>, Self) {
        let first = self.seqs[..seq].iter().sum();
        let mut seqs = vec![0; self.seqs.len()];
        seqs[seq] = self.seqs[seq];
        (first..first + seqs[seq], Self { seqs, ..self.clone() })
    }
}

/// The cases, for tests that vary them further.
pub fn encoder_table() -> Vec<EncoderCase> {
    let ragged = vec![1, 21, 0, 64, 16, 5, 33];
    // Around multiples of the few hundred positions a softmax may be cut at.
    let long = vec![255, 3, 300, 600];
    let shapes = [
        ((1, 1, 8), None, None, &ragged),
        ((12, 12, 32), None, None, &ragged),
        ((4, 2, 40), None, None, &ragged),
        ((3, 3, 64), None, None, &ragged),
        ((4, 4, 24), Some(1), None, &ragged),
        ((2, 2, 64), Some(17), None, &ragged),
        ((4, 4, 16), None, Some(3), &ragged),
        ((4, 2, 16), Some(6), Some(40), &ragged),
        ((2, 2, 32), None, None, &long),
        ((2, 1, 16), Some(64), None, &long),
        ((2, 2, 16), Some(270), Some(128), &long),
    ];
    let case = |(heads, window, bias, seqs): ((usize, usize, usize), _, _, &Vec<usize>)| EncoderCase {
        seqs: seqs.clone(),
        heads,
        window,
        bias,
        distances: None,
    };
    let disentangled = [
        // heads, head_dim, reach, exact, keys, queries
        ((3, 8), (4, 4, true, true), &ragged),
        ((2, 40), (63, 9, true, true), &ragged),
        ((2, 16), (70, 70, true, false), &ragged),
        ((2, 16), (20, 6, false, true), &ragged),
        ((2, 32), (511, 32, true, true), &long),
        ((1, 16), (128, 128, true, true), &long),
    ];
    let of_distances = |((heads, head_dim), (reach, exact, keys, queries), seqs): (_, _, &Vec<usize>)| EncoderCase {
        seqs: seqs.clone(),
        heads: (heads, heads, head_dim),
        window: None,
        bias: None,
        distances: Some(DistanceCase { reach, exact, keys, queries }),
    };
    let mut cases: Vec<_> = shapes.into_iter().map(case).chain(disentangled.into_iter().map(of_distances)).collect();
    if let Some(last) = cases.last_mut() {
        // All at once.
        (last.window, last.bias) = (Some(200), Some(30));
    }
    cases
}

pub(super) fn encoder_attention_cases(cases: &mut Vec<Case>) {
    for case in encoder_table() {
        let (num_heads, num_kv_heads, head_dim) = case.heads;
        let EncoderCase { window, bias, distances, .. } = case;
        let longest = case.seqs.iter().max().copied().unwrap_or(0);
        let name = format!(
            "encoder_attention {num_heads}/{num_kv_heads} heads of {head_dim}, {longest} rows, window {window:?}, bias \
             {bias:?}, {distances:?}"
        );
        // As for causal attention.
        cases.push(Case::new(name, 5e-6, move |backend| case.outputs(backend)));
    }
}

pub(super) fn unfold_cases(cases: &mut Vec<Case>) {
    for (cols, reach) in [(1, 1), (33, 1), (16, 0), (20, 3)] {
        cases.push(Case::new(format!("unfold {cols} columns, {reach} to a side"), 0.0, move |backend| {
            let x = random_tensor(backend, 12, cols + 2, 8)?.columns(1, cols)?;
            let starts = backend.indices(vec![0, 1, 1, 3, 12])?;
            rows_of(backend, &backend.unfold(&x, &starts, reach)?)
        }));
    }
}
