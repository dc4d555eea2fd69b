//! The operand checks every backend makes before it computes: one rule, one message.

use std::ptr;
use std::sync::Arc;

use crate::{
    AttentionMetadata, AttentionParams, DisentangledParams, EncoderAttentionParams, Error, Expert, ExpertGroups,
    GroupMetadata, HostMatrix, Indices, KvCacheLayer, LmHeadParams, QkRmsNorm, Result, RopeTable, Routing,
    RoutingParams, Tensor, Weight,
};

fn refuse(op: &'static str, detail: String) -> Result<()> {
    Err(Error::Shape { op, detail })
}

fn require(holds: bool, op: &'static str, detail: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { refuse(op, detail()) }
}

/// Parts of a fused weight: at least one, all of one width. Returns `(out_features, in_features)`.
///
/// # Errors
/// [`Error::Shape`] naming the widths.
pub fn load_weight(parts: &[HostMatrix<'_>]) -> Result<(usize, usize)> {
    let Some(first) = parts.first() else {
        return Err(Error::Shape { op: "load_weight", detail: "no parts".into() });
    };
    for part in parts {
        require(part.cols == first.cols, "load_weight", || {
            format!("parts of {} and {} input features cannot be fused", first.cols, part.cols)
        })?;
    }
    Ok((parts.iter().map(|part| part.rows).sum(), first.cols))
}

/// `values` fills `[rows, cols]`.
///
/// # Errors
/// [`Error::Shape`] with both sizes.
pub fn tensor(values: &[f32], rows: usize, cols: usize) -> Result<()> {
    require(rows.checked_mul(cols) == Some(values.len()), "tensor", || {
        format!("{} values do not fill [{rows}, {cols}]", values.len())
    })
}

/// Every id is a row of the table.
///
/// # Errors
/// [`Error::Shape`] naming the first id that is not.
pub fn embedding(ids: &Indices, table: &Weight) -> Result<()> {
    let limit = table.out_features;
    match ids.as_slice().iter().find(|id| **id as usize >= limit) {
        Some(id) => refuse("embedding", format!("id {id} of a table with {limit} rows")),
        None => Ok(()),
    }
}

/// `x` is as wide as the weight, the bias as its output.
///
/// # Errors
/// [`Error::Shape`] with the widths.
pub fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<()> {
    require(x.cols() == weight.in_features, "linear", || {
        format!("{} columns into a weight of {} input features", x.cols(), weight.in_features)
    })?;
    match bias {
        Some(bias) => vector("linear", "bias", bias, weight.out_features),
        None => Ok(()),
    }
}

/// The weight's width divides the row.
///
/// # Errors
/// [`Error::Shape`] with the widths.
pub fn rms_norm(x: &Tensor, weight: &Tensor) -> Result<()> {
    let width = weight.cols();
    require(weight.rows() == 1 && width > 0 && x.cols().is_multiple_of(width), "rms_norm", || {
        format!("a weight of [{}, {width}] does not divide rows of {}", weight.rows(), x.cols())
    })
}

/// Weight and bias have an element for each of the row's.
///
/// # Errors
/// [`Error::Shape`] with the sizes.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    let (runs, width) = (weight.rows(), weight.cols());
    require(runs > 0 && runs * width == x.cols(), "layer_norm", || {
        format!("weight is [{runs}, {width}] for rows of {}", x.cols())
    })?;
    bias.map_or(Ok(()), |bias| same_shape("layer_norm", weight, bias))
}

/// Two tensors of one shape.
///
/// # Errors
/// [`Error::Shape`] with both shapes.
pub fn same_shape(op: &'static str, x: &Tensor, y: &Tensor) -> Result<()> {
    require(x.rows() == y.rows() && x.cols() == y.cols(), op, || {
        format!("[{}, {}] and [{}, {}]", x.rows(), x.cols(), y.rows(), y.cols())
    })
}

/// `written` may be changed while `read` is read: they are one view, or share no element.
///
/// # Errors
/// [`Error::Shape`] where they overlap otherwise.
pub fn disjoint(op: &'static str, written: &Tensor, read: &Tensor) -> Result<()> {
    let apart = |a: &Tensor, b: &Tensor| {
        let (a_col, b_col) = (a.offset() % a.row_stride().max(1), b.offset() % b.row_stride().max(1));
        a.row_stride() == b.row_stride() && (a_col + a.cols() <= b_col || b_col + b.cols() <= a_col)
    };
    let one = written.offset() == read.offset() && written.row_stride() == read.row_stride();
    let same_storage = ptr::addr_eq(Arc::as_ptr(written.storage()), Arc::as_ptr(read.storage()));
    require(!same_storage || one || apart(written, read), op, || "the operands overlap in memory".into())
}

/// Heads fill the rows, every row has a position and the table reaches it.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn rotary(x: &Tensor, rope: &RopeTable, positions: &Indices, head_dim: usize) -> Result<()> {
    require(head_dim > 0 && x.cols().is_multiple_of(head_dim) && rope.rotary_dim() <= head_dim, "rotary", || {
        format!("heads of {head_dim}, {} of them rotated, in rows of {}", rope.rotary_dim(), x.cols())
    })?;
    rows("rotary", "positions", positions, x.rows())?;
    below("rotary", "position", positions, rope.num_positions())
}

/// Heads fill the rows, and `part` has as many rows and is no wider than a head.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn fill_heads(x: &Tensor, part: &Tensor, head_dim: usize) -> Result<()> {
    let heads = head_dim > 0 && x.cols().is_multiple_of(head_dim);
    require(heads && part.rows() == x.rows() && part.cols() <= head_dim, "fill_heads", || {
        format!("[{}, {}] into heads of {head_dim} in [{}, {}]", part.rows(), part.cols(), x.rows(), x.cols())
    })
}

/// Keys, values, slots and cache fit together.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn write_kv(k: &Tensor, v: &Tensor, layer: &KvCacheLayer, metadata: &AttentionMetadata) -> Result<()> {
    let (spec, kind, group) = (&layer.spec, layer.kind(), group("write_kv", layer, metadata)?);
    same_shape("write_kv", k, v)?;
    require(k.cols() == kind.columns(), "write_kv", || {
        format!("rows of {} into {} heads of {}", k.cols(), kind.num_kv_heads, kind.head_dim)
    })?;
    rows("write_kv", "slot_mapping", &group.slot_mapping, k.rows())?;
    below("write_kv", "slot", &group.slot_mapping, spec.num_blocks * spec.block_size)
}

/// Queries, keys and values are rows of whole heads that the norms, the rotary table and the cache fit.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn rotary_write_kv(
    [q, k, v]: &[Tensor; 3],
    norm: Option<&QkRmsNorm<'_>>,
    rope: Option<&RopeTable>,
    layer: &KvCacheLayer,
    metadata: &AttentionMetadata,
) -> Result<()> {
    write_kv(k, v, layer, metadata)?;
    let (op, head_dim) = ("rotary_write_kv", layer.kind().head_dim);
    require(q.rows() == k.rows() && q.cols().is_multiple_of(head_dim), op, || {
        format!("queries [{}, {}] beside keys [{}, {}] of heads of {head_dim}", q.rows(), q.cols(), k.rows(), k.cols())
    })?;
    [k, v].into_iter().try_for_each(|read| disjoint(op, q, read))?;
    if let Some(norm) = norm {
        vector(op, "the queries' norm", norm.q, head_dim)?;
        vector(op, "the keys' norm", norm.k, head_dim)?;
    }
    if let Some(rope) = rope {
        same_shape(op, &rope.cos, &rope.sin)?;
        rotary(q, rope, &metadata.positions, head_dim)?;
    }
    Ok(())
}

fn group<'a>(op: &'static str, layer: &KvCacheLayer, metadata: &'a AttentionMetadata) -> Result<&'a GroupMetadata> {
    let detail = || format!("a layer of group {}, block tables of {} groups", layer.group, metadata.groups.len());
    metadata.groups.get(layer.group).ok_or_else(|| Error::Shape { op, detail: detail() })
}

/// Queries, cache, metadata and parameters fit together, and every block that will be read exists.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn attention(
    q: &Tensor,
    layer: &KvCacheLayer,
    metadata: &AttentionMetadata,
    params: &AttentionParams,
) -> Result<()> {
    let (spec, kind, group) = (&layer.spec, layer.kind(), group("attention", layer, metadata)?);
    require(
        params.head_dim == kind.head_dim
            && params.num_kv_heads == kind.num_kv_heads
            && params.num_kv_heads > 0
            && params.num_heads.is_multiple_of(params.num_kv_heads)
            && q.cols() == params.num_heads * params.head_dim,
        "attention",
        || format!("rows of {}, {params:?}, cache of {} heads of {}", q.cols(), kind.num_kv_heads, kind.head_dim),
    )?;
    for (name, of_heads) in [("alibi_slopes", &params.alibi_slopes), ("sinks", &params.sinks)] {
        of_heads.as_ref().map_or(Ok(()), |values| vector("attention", name, values, params.num_heads))?;
    }
    require(params.soft_cap.is_none_or(|cap| cap > 0.0), "attention", || {
        format!("soft_cap must be above 0, got {:?}", params.soft_cap)
    })?;
    rows("attention", "positions", &metadata.positions, q.rows())?;
    rows("attention", "query_start_loc", &metadata.query_start_loc, metadata.num_seqs() + 1)?;
    rows("attention", "block_table", &group.block_table, metadata.num_seqs() * group.max_blocks_per_seq)?;
    sequences("attention", &metadata.query_start_loc, q.rows())?;
    let starts = metadata.query_start_loc.as_slice();
    for (seq, &len) in metadata.seq_lens.as_slice().iter().enumerate() {
        let blocks = (len as usize).div_ceil(spec.block_size);
        require(blocks <= group.max_blocks_per_seq, "attention", || {
            format!("sequence {seq} of {len} tokens needs {blocks} blocks")
        })?;
        let positions = &metadata.positions.as_slice()[starts[seq] as usize..starts[seq + 1] as usize];
        require(positions.iter().all(|position| *position < len), "attention", || {
            format!("sequence {seq} has a row past its {len} tokens")
        })?;
        let own = &group.block_table.as_slice()[seq * group.max_blocks_per_seq..][..blocks];
        let seen = own.get(first_seen(positions, params) / spec.block_size..).unwrap_or(&[]);
        require(seen.iter().all(|block| (*block as usize) < spec.num_blocks), "attention", || {
            format!("sequence {seq} sees a block past the cache's {}", spec.num_blocks)
        })?;
    }
    Ok(())
}

/// The first position that any of a sequence's rows, at `positions`, sees. Blocks wholly before it need not exist: none at all,
/// where there are no rows.
pub(crate) fn first_seen(positions: &[u32], params: &AttentionParams) -> usize {
    let Some(first) = positions.iter().min() else { return usize::MAX };
    params.sliding_window.map_or(0, |window| (*first as usize + 1).saturating_sub(window))
}

/// Queries, keys, values, sequences and parameters fit together.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn encoder_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    query_start_loc: &Indices,
    params: &EncoderAttentionParams,
) -> Result<()> {
    same_shape("encoder_attention", k, v)?;
    let EncoderAttentionParams { num_heads, num_kv_heads, head_dim, relative_bias, .. } = params;
    require(
        *num_kv_heads > 0
            && num_heads.is_multiple_of(*num_kv_heads)
            && q.cols() == num_heads * head_dim
            && k.cols() == num_kv_heads * head_dim
            && q.rows() == k.rows(),
        "encoder_attention",
        || format!("q [{}, {}], k [{}, {}], {params:?}", q.rows(), q.cols(), k.rows(), k.cols()),
    )?;
    if let Some(bias) = relative_bias {
        require(bias.rows() == *num_heads && bias.cols() % 2 == 1, "encoder_attention", || {
            format!("a relative bias of [{}, {}] for {num_heads} heads", bias.rows(), bias.cols())
        })?;
    }
    params.disentangled.as_ref().map_or(Ok(()), |distances| disentangled(distances, params))?;
    sequences("encoder_attention", query_start_loc, q.rows())
}

/// Every row is of a sequence.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn unfold(x: &Tensor, query_start_loc: &Indices) -> Result<()> {
    sequences("unfold", query_start_loc, x.rows())
}

fn disentangled(distances: &DisentangledParams, params: &EncoderAttentionParams) -> Result<()> {
    let DisentangledParams { keys, queries, buckets } = distances;
    let EncoderAttentionParams { num_heads, num_kv_heads, head_dim, .. } = params;
    let op = "encoder_attention";
    require(num_heads == num_kv_heads, op, || {
        format!("distances of {num_heads} heads, but {num_kv_heads} key/value heads")
    })?;
    require(buckets.len() % 2 == 1, op, || format!("{} distances have no middle", buckets.len()))?;
    for (name, of_distances) in [("keys", keys), ("queries", queries)] {
        let Some(of_distances) = of_distances else { continue };
        require(of_distances.cols() == num_heads * head_dim, op, || {
            format!("{name} of distances of {} columns for {num_heads} heads of {head_dim}", of_distances.cols())
        })?;
        below(op, "bucket", buckets, of_distances.rows())?;
    }
    Ok(())
}

/// Rows have elements, and no more than float32 counts one by one.
///
/// # Errors
/// [`Error::Shape`] with the width.
pub fn argmax(x: &Tensor) -> Result<()> {
    argmax_of(x.cols())
}

fn argmax_of(cols: usize) -> Result<()> {
    require((1..=1 << f32::MANTISSA_DIGITS).contains(&cols), "argmax", || format!("rows of {cols}"))
}

/// Hidden states, weight and bias fit together, and logits are asked for of rows that exist.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn lm_head(hidden: &Tensor, params: &LmHeadParams, num_logits: usize) -> Result<()> {
    linear(hidden, &params.weight, params.bias.as_ref())?;
    argmax_of(params.weight.out_features)?;
    require(num_logits <= hidden.rows(), "lm_head", || format!("logits of {num_logits} rows of {}", hidden.rows()))
}

/// An even width.
///
/// # Errors
/// [`Error::Shape`] with the width.
pub fn gated_activation(gate_up: &Tensor) -> Result<()> {
    require(gate_up.cols().is_multiple_of(2), "gated_activation", || {
        format!("{} columns are not a gate and an equally wide up projection", gate_up.cols())
    })
}

/// There are as many experts and groups as are chosen, and the bias is as wide as the logits.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn route(logits: &Tensor, bias: Option<&Tensor>, params: &RoutingParams) -> Result<()> {
    let experts = logits.cols();
    let ExpertGroups { num_groups, topk_group, .. } =
        params.groups.unwrap_or(ExpertGroups { num_groups: 1, topk_group: 1, score: crate::GroupScore::Best });
    let grouped = num_groups > 0 && experts.is_multiple_of(num_groups) && (1..=num_groups).contains(&topk_group);
    require(grouped && (1..=experts / num_groups * topk_group).contains(&params.top_k), "route", || {
        format!("{} of {experts} experts in {num_groups} groups, {topk_group} of them chosen", params.top_k)
    })?;
    bias.map_or(Ok(()), |bias| vector("route", "bias", bias, experts))
}

/// `scales` is a vector, and has a number for `expert`, which it returns the place of.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn scale_of_expert(expert: f32, scales: &Tensor) -> Result<usize> {
    let number = expert as usize;
    let fits = scales.rows() == 1 && number as f32 == expert && number < scales.cols();
    require(fits, "scale_experts", || format!("expert {expert} of [{}, {}] scales", scales.rows(), scales.cols()))?;
    Ok(number)
}

/// Rows, routing and experts fit together, and all experts are of one shape.
///
/// # Errors
/// [`Error::Shape`] naming what does not fit.
pub fn moe(x: &Tensor, routing: &Routing, experts: &[Expert]) -> Result<()> {
    same_shape("moe", &routing.experts, &routing.weights)?;
    require(routing.experts.rows() == x.rows(), "moe", || {
        format!("a routing of {} rows for {}", routing.experts.rows(), x.rows())
    })?;
    let inner = experts.first().map_or(0, |expert| expert.down.in_features);
    for Expert { gate_up, gate_up_bias, down, down_bias } in experts {
        let fits = gate_up.in_features == x.cols() && down.out_features == x.cols() && down.in_features == inner;
        require(fits && gate_up.out_features == 2 * inner, "moe", || {
            let (up, down) = ((gate_up.out_features, gate_up.in_features), (down.out_features, down.in_features));
            format!("an expert of {up:?} and {down:?} for rows of {} and an inner width of {inner}", x.cols())
        })?;
        gate_up_bias.as_ref().map_or(Ok(()), |bias| vector("moe", "gate_up_bias", bias, 2 * inner))?;
        down_bias.as_ref().map_or(Ok(()), |bias| vector("moe", "down_bias", bias, x.cols()))?;
    }
    Ok(())
}

/// Every number is one of the experts'.
///
/// # Errors
/// [`Error::Shape`] naming the first that is not.
pub fn expert_numbers(numbers: impl IntoIterator<Item = f32>, num_experts: usize) -> Result<()> {
    match numbers.into_iter().find(|number| !(0.0..num_experts as f32).contains(number)) {
        Some(number) => refuse("moe", format!("expert {number} of {num_experts}")),
        None => Ok(()),
    }
}

/// Every index is a row of `x`.
///
/// # Errors
/// [`Error::Shape`] naming the first that is not.
pub fn gather_rows(x: &Tensor, indices: &Indices) -> Result<()> {
    below("gather_rows", "row", indices, x.rows())
}

fn sequences(op: &'static str, query_start_loc: &Indices, rows: usize) -> Result<()> {
    let starts = query_start_loc.as_slice();
    let covers = starts.is_sorted() && starts.first() == Some(&0) && starts.last() == Some(&(rows as u32));
    require(covers, op, || format!("query_start_loc {starts:?} for {rows} rows"))
}

fn vector(op: &'static str, name: &str, value: &Tensor, width: usize) -> Result<()> {
    require(value.rows() == 1 && value.cols() == width, op, || {
        format!("{name} is [{}, {}], expected [1, {width}]", value.rows(), value.cols())
    })
}

fn rows(op: &'static str, name: &str, indices: &Indices, want: usize) -> Result<()> {
    require(indices.len() == want, op, || format!("{name} has {} entries, expected {want}", indices.len()))
}

fn below(op: &'static str, name: &str, indices: &Indices, limit: usize) -> Result<()> {
    match indices.as_slice().iter().find(|index| **index as usize >= limit) {
        Some(index) => refuse(op, format!("{name} {index} is not below {limit}")),
        None => Ok(()),
    }
}
