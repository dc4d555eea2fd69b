use crate::{Indices, KvCacheLayer, Tensor};

/// Which tokens of the flat batch belong to whom, and where their keys and values are.
///
/// ```text
///   rows       0   1   2   3   4   5   6         three sequences: a prefill chunk of 4 tokens, a chunk of 2, a decode
///   sequence   a   a   a   a   b   b   c
///   query_start_loc = [0, 4, 6, 7]
///   positions       = [0, 1, 2, 3, 8, 9, 41]     b has 8 tokens computed before, c 41
///   seq_lens        = [4, 10, 42]                keys visible to the last row of each
///
///   groups[0]       full attention                      groups[1]    a window of 20
///   slot_mapping[r] = where row r's key and value go    the same, in blocks of its own
///   block_table     = [[3, -, -], [7, -, -], [1, 9, 4]]              [[5, -, -], [2, -, -], [x, 6, 8]]
///                     flattened, max_blocks_per_seq to a row; block_size 16
/// ```
///
/// Row `r` at position `p` attends to positions `0..=p` of its sequence (less, with a sliding window). Blocks that no row
/// sees are not read: `x` may be any number.
#[derive(Debug, Clone)]
pub struct AttentionMetadata {
    /// Position of each row in its sequence, `[num_tokens]`.
    pub positions: Indices,
    /// First row of each sequence, then the number of rows, `[num_seqs + 1]`.
    pub query_start_loc: Indices,
    /// Tokens of each sequence whose keys exist once this step has written its own, `[num_seqs]`.
    pub seq_lens: Indices,
    /// Where each group of the cache's layers keeps its keys and values.
    pub groups: Vec<GroupMetadata>,
}

/// Where the layers of one [`KvCacheGroup`](crate::KvCacheGroup) keep keys and values.
#[derive(Debug, Clone)]
pub struct GroupMetadata {
    /// Cache slot each row's key and value are written to, `[num_tokens]`.
    pub slot_mapping: Indices,
    /// Blocks of each sequence in order, `[num_seqs, max_blocks_per_seq]`. Entries past a sequence's end are not read, nor
    /// those wholly before what its first row sees.
    pub block_table: Indices,
    /// Row length of `block_table`.
    pub max_blocks_per_seq: usize,
}

impl AttentionMetadata {
    /// Sequences in the batch.
    pub fn num_seqs(&self) -> usize {
        self.seq_lens.len()
    }

    /// Rows of the batch.
    pub fn num_tokens(&self) -> usize {
        self.positions.len()
    }

    /// Where a layer's keys and values are. Operand checks have seen that it is there.
    pub fn group(&self, layer: &KvCacheLayer) -> &GroupMetadata {
        &self.groups[layer.group]
    }
}

/// What a model's attention layer computes.
///
/// A row `q` at position `p` weighs the keys `k` that it sees, at positions `i`, by the softmax of
///
/// ```text
///   score(i) = soft_cap * tanh(scale * q . k(i) / soft_cap) + alibi_slope * (i - p)
/// ```
///
/// whose sum has one more term, of the sink, that no value belongs to. What is `None` is left out.
#[derive(Debug, Clone)]
pub struct AttentionParams {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; each serves `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// With `Some(w)`, position `p` sees positions `p - w + 1 ..= p` only.
    pub sliding_window: Option<usize>,
    /// What scores are kept below in magnitude (Gemma 2, arXiv:2408.00118).
    pub soft_cap: Option<f32>,
    /// What each query head adds to a score for every position between, `[1, num_heads]` (ALiBi, arXiv:2108.12409).
    pub alibi_slopes: Option<Tensor>,
    /// Score of each query head's sink, `[1, num_heads]` (arXiv:2309.17453, as gpt-oss learns them).
    pub sinks: Option<Tensor>,
}

impl AttentionParams {
    /// Attention to all positions before, scores scaled by `1 / sqrt(head_dim)`.
    pub fn new(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Self {
        Self {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            sliding_window: None,
            soft_cap: None,
            alibi_slopes: None,
            sinks: None,
        }
    }
}

/// [Norms](crate::Backend::rms_norm) of each head of queries and of keys.
#[derive(Debug, Clone, Copy)]
pub struct QkRmsNorm<'a> {
    /// Weight of queries, `[1, head_dim]`.
    pub q: &'a Tensor,
    /// Weight of keys, `[1, head_dim]`.
    pub k: &'a Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

/// What an encoder's attention layer computes: a row sees the rows of its sequence on both sides.
#[derive(Debug, Clone)]
pub struct EncoderAttentionParams {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; each serves `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// With `Some(w)`, rows see each other if they are at most `w` apart.
    pub window: Option<usize>,
    /// Added to the scaled scores by head and distance, `[num_heads, 2 * reach + 1]`: column `reach + d` is for a key `d`
    /// rows after the query. Distances past the reach have its outermost columns.
    pub relative_bias: Option<Tensor>,
    /// What distances themselves are asked and answer, where they do.
    pub disentangled: Option<DisentangledParams>,
}

/// Keys and queries of distances (DeBERTa, arXiv:2006.03654).
///
/// The score of query `q(i)` and key `k(j)`, of rows `i` and `j`, becomes
///
/// ```text
///   score = scale * (q(i) . k(j) + q(i) . keys[b] + queries[b] . k(j)),   b = buckets[reach + j - i]
/// ```
///
/// What is `None` is left out. There are as many key/value heads as query heads.
#[derive(Debug, Clone)]
pub struct DisentangledParams {
    /// A key of all heads for each bucket of distances, `[num_buckets, num_heads * head_dim]`.
    pub keys: Option<Tensor>,
    /// The same of queries.
    pub queries: Option<Tensor>,
    /// The bucket of each distance, `[2 * reach + 1]`: entry `reach + d` is for a key `d` rows after the query. Distances past
    /// the reach have its outermost entries.
    pub buckets: Indices,
}

impl DisentangledParams {
    /// The bucket of a key `distance` rows after the query. Operand checks have seen that there is one.
    pub fn bucket(&self, distance: isize) -> usize {
        let reach = self.buckets.len() / 2;
        self.buckets.as_slice()[reach.saturating_add_signed(distance).min(2 * reach)] as usize
    }
}
