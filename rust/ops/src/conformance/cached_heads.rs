//! What lies between the projection of queries, keys and values, and attention.

use super::{AttentionCase, Case, random_tensor, rows_of};
use crate::{
    AttentionParams, Backend, KvCacheDType, KvCacheGroup, KvCacheKind, KvCacheSpec, QkRmsNorm, Result, RopeTable,
};

/// Heads inside a fused projection that are normed, turned and cached, and what attention then makes of them.
#[derive(Debug, Clone, Copy)]
pub struct CachedHeads {
    /// Query heads and key/value heads.
    pub heads: (usize, usize),
    /// Elements of a head.
    pub head_dim: usize,
    /// How many of them turn, if any do.
    pub rotary_dim: Option<usize>,
    /// Dtype of the cache.
    pub dtype: KvCacheDType,
}

impl CachedHeads {
    /// A row for each of 21 tokens of a sequence: its queries, and beside them what they attend to. Queries and keys may be
    /// normed; turning and writing is one op, or `apart` two.
    ///
    /// # Errors
    /// What an op fails with.
    pub fn outputs(&self, backend: &dyn Backend, normed: bool, apart: bool) -> Result<Vec<Vec<f32>>> {
        let Self { heads: (num_heads, num_kv_heads), head_dim, dtype, .. } = *self;
        let shape = AttentionParams::new(num_heads, num_kv_heads, head_dim);
        let case = AttentionCase { seqs: vec![], shape, alibi: false, sinks: false, block_size: 16, dtype };
        let cache = backend.alloc_kv_cache(&KvCacheSpec {
            groups: KvCacheGroup::cut(&[KvCacheKind { sliding_window: None, num_kv_heads, head_dim }]),
            block_size: 16,
            num_blocks: 4,
            dtype,
        })?;
        let (layer, metadata) = (cache.layer(0), case.chunk_metadata(backend, 0..21, &[3, 1])?);
        let (q_size, kv_size) = (num_heads * head_dim, num_kv_heads * head_dim);
        let fused = random_tensor(backend, 21, q_size + 2 * kv_size + 3, 80)?;
        let (mut q, mut k) = (fused.columns(1, q_size)?, fused.columns(1 + q_size, kv_size)?);
        let v = fused.columns(1 + q_size + kv_size, kv_size)?;
        let weights = [random_tensor(backend, 1, head_dim, 81)?, random_tensor(backend, 1, head_dim, 82)?];
        let norm = normed.then_some(QkRmsNorm { q: &weights[0], k: &weights[1], eps: 1e-5 });
        let rope = self.rotary_dim.map(|dim| RopeTable::unscaled(backend, 32, dim, 10_000.0)).transpose()?;
        if let (true, Some(rope)) = (apart, &rope) {
            backend.rotary(&mut q, rope, &metadata.positions, head_dim)?;
            backend.rotary(&mut k, rope, &metadata.positions, head_dim)?;
        }
        let rope = rope.as_ref().filter(|_| !apart);
        let q = backend.rotary_write_kv([q, k, v], norm.as_ref(), rope, layer, &metadata)?;
        let attended = rows_of(backend, &backend.attention(&q, layer, &metadata, &case.shape)?)?;
        Ok(rows_of(backend, &q)?.into_iter().zip(attended).map(|(q, attended)| [q, attended].concat()).collect())
    }
}

/// Heads of every kind, for tests that vary them further.
pub fn cached_heads_table() -> Vec<CachedHeads> {
    let shapes = [
        ((1, 1), 2, Some(2)),
        ((4, 2), 40, Some(40)),
        ((3, 3), 64, None),
        ((5, 1), 80, Some(32)),
        ((8, 2), 128, Some(128)),
        ((2, 1), 192, Some(192)),
    ];
    let of_dtype =
        |dtype| shapes.map(|(heads, head_dim, rotary_dim)| CachedHeads { heads, head_dim, rotary_dim, dtype });
    KvCacheDType::ALL.into_iter().flat_map(of_dtype).collect()
}

pub(super) fn cases(cases: &mut Vec<Case>) {
    for heads in cached_heads_table() {
        for normed in [false, true] {
            // Where keys are computed before they are rounded, a narrow dtype may round a last bit to another number, as far from
            // the reference's as neither is wrong: those are compared with the ops they are made of.
            if heads.dtype != KvCacheDType::F32 && (normed || heads.rotary_dim.is_some()) {
                continue;
            }
            let name = format!("rotary_write_kv {heads:?}, normed {normed}");
            cases.push(Case::new(name, 5e-6, move |backend| heads.outputs(backend, normed, false)));
        }
    }
}
