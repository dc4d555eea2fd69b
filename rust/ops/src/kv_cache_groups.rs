//! Which layers keep their keys and values in the same blocks.
//!
//! ```text
//!   layers    0 1 2 3 4 5 6 7 8 9 10 11        w: see a window, F: see all positions before
//!             w w w w w F w w w w w  F
//!
//!   block     [ place 0 | place 1 ]             two layers' keys and values of block_size tokens
//!   group 0   [ layer 5 | layer 11 ]            full attention
//!   group 1   [ layer 0 | layer 1  ]            window
//!   ...
//!   group 5   [ layer 9 | layer 10 ]            window
//! ```
//!
//! A block belongs to one group at a time, and all blocks are of one size, so that groups share one pool: what one gives
//! back as its window moves on, any other can take. Where layers keep heads of different sizes, a block holds more of the
//! narrow ones:
//!
//! ```text
//!   block     [ full layer, heads twice as wide   ]     as many columns either way
//!             [ windowed layer  | windowed layer  ]
//! ```

/// What a layer keeps of every token, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheKind {
    /// Positions that the layer sees, a token's own included; all before it where `None`.
    pub sliding_window: Option<usize>,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl KvCacheKind {
    /// Elements of a token's keys, and of its values.
    pub fn columns(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }
}

/// Layers of one kind that have blocks in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvCacheGroup {
    /// What each of the layers keeps.
    pub kind: KvCacheKind,
    /// The model's layers, in the order of their places in a block.
    pub layers: Vec<usize>,
}

/// Groups a model may be cut into, if it has not more kinds of layers: each costs a block table.
const MAX_GROUPS: usize = 12;

impl KvCacheGroup {
    /// Cuts the layers that keep keys and values, whose kinds these are, into groups.
    ///
    /// A group holds layers of one kind. Blocks hold as many columns as leave the fewest unused in groups that see all
    /// positions, since those grow with the context; then the fewest in all; then make the fewest groups; among sizes that
    /// make 12 groups at most, or one for each kind if there are more kinds.
    pub fn cut(layers: &[KvCacheKind]) -> Vec<Self> {
        let mut kinds: Vec<Self> = Vec::new();
        for (layer, kind) in layers.iter().enumerate() {
            match kinds.iter_mut().find(|group| group.kind == *kind) {
                Some(group) => group.layers.push(layer),
                None => kinds.push(Self { kind: *kind, layers: vec![layer] }),
            }
        }
        kinds.sort_by_key(|group| group.kind.sliding_window);
        let Some(block) = columns_of_a_block(&kinds) else { return kinds };
        let runs = kinds.iter().flat_map(|group| {
            group.layers.chunks(block / group.kind.columns()).map(|layers| (group.kind, layers.to_vec()))
        });
        runs.map(|(kind, layers)| Self { kind, layers }).collect()
    }
}

/// Columns of the blocks that suit layers of these kinds best; `None` where no size makes few enough groups.
fn columns_of_a_block(kinds: &[KvCacheGroup]) -> Option<usize> {
    let sizes = |group: &KvCacheGroup| {
        let columns = group.kind.columns();
        (1..=group.layers.len()).map(move |layers| layers * columns)
    };
    let widest = kinds.iter().map(|group| group.kind.columns()).max()?;
    let num_groups = |group: &KvCacheGroup, size: usize| group.layers.len().div_ceil(size / group.kind.columns());
    let all = |size: usize| kinds.iter().map(|group| num_groups(group, size)).sum::<usize>();
    let unused =
        |group: &KvCacheGroup, size: usize| num_groups(group, size) * size - group.layers.len() * group.kind.columns();
    let cost = |size: &usize| {
        let full = kinds.iter().filter(|group| group.kind.sliding_window.is_none());
        let in_full: usize = full.map(|group| unused(group, *size)).sum();
        let in_all: usize = kinds.iter().map(|group| unused(group, *size)).sum();
        (in_full, in_all, all(*size))
    };
    let most = MAX_GROUPS.max(kinds.len());
    let fits = |size: &usize| *size >= widest && all(*size) <= most;
    kinds.iter().flat_map(sizes).filter(fits).min_by_key(|size| (cost(size), *size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(sliding_window: Option<usize>, num_kv_heads: usize, head_dim: usize) -> KvCacheKind {
        KvCacheKind { sliding_window, num_kv_heads, head_dim }
    }

    /// Sizes of the groups of `full` layers without a window and `windowed` with one.
    fn sizes(full: usize, windowed: usize) -> Vec<(Option<usize>, usize)> {
        sizes_of_kinds((full, kind(None, 2, 8)), (windowed, kind(Some(9), 2, 8)))
    }

    fn sizes_of_kinds(full: (usize, KvCacheKind), windowed: (usize, KvCacheKind)) -> Vec<(Option<usize>, usize)> {
        let layers = [vec![full.1; full.0], vec![windowed.1; windowed.0]].concat();
        KvCacheGroup::cut(&layers).into_iter().map(|group| (group.kind.sliding_window, group.layers.len())).collect()
    }

    #[test]
    fn layers_of_one_kind_are_one_group() {
        assert_eq!(sizes(32, 0), [(None, 32)]);
        assert_eq!(sizes(0, 32), [(Some(9), 32)]);
        assert_eq!(KvCacheGroup::cut(&[]), []);
    }

    #[test]
    fn blocks_hold_as_many_layers_as_waste_least() {
        let windowed = |sizes: &[usize]| sizes.iter().map(|size| (Some(9), *size)).collect::<Vec<_>>();
        assert_eq!(sizes(12, 12), [(None, 12), (Some(9), 12)]);
        assert_eq!(sizes(4, 22), [vec![(None, 4)], windowed(&[4, 4, 4, 4, 4, 2])].concat());
        assert_eq!(sizes(8, 40), [vec![(None, 8)], windowed(&[8; 5])].concat());
        assert_eq!(sizes(10, 52), [vec![(None, 10)], windowed(&[10, 10, 10, 10, 10, 2])].concat());
        assert_eq!(sizes(6, 9), [vec![(None, 3); 2], windowed(&[3; 3])].concat(), "a common divisor");
        assert_eq!(sizes(1, 31).len(), 12, "a layer a block would be 32 groups");
    }

    #[test]
    fn blocks_hold_more_layers_of_narrow_heads() {
        let windowed = |sizes: &[usize]| sizes.iter().map(|size| (Some(9), *size)).collect::<Vec<_>>();
        // Full layers with heads twice as wide, as Gemma 4 E2B and E4B have them.
        let wide = kind(None, 1, 512);
        assert_eq!(
            sizes_of_kinds((3, wide), (12, kind(Some(9), 1, 256))),
            [vec![(None, 3)], windowed(&[6, 6])].concat()
        );
        assert_eq!(
            sizes_of_kinds((4, wide), (20, kind(Some(9), 1, 256))),
            [vec![(None, 2); 2], windowed(&[4; 5])].concat()
        );
        // Full layers with half as many columns, as Gemma 4 31B has them.
        let few = (10, kind(None, 4, 512));
        assert_eq!(sizes_of_kinds(few, (50, kind(Some(9), 16, 256))), [vec![(None, 10)], windowed(&[5; 10])].concat());
    }

    #[test]
    fn every_layer_has_one_place() {
        let windows = [Some(4), Some(4), None, Some(8), Some(4), Some(4), None, Some(8), Some(4)];
        let kinds = windows.map(|window| kind(window, 1, if window.is_none() { 16 } else { 8 }));
        let groups = KvCacheGroup::cut(&kinds);
        let mut layers: Vec<usize> = groups.iter().flat_map(|group| group.layers.clone()).collect();
        layers.sort_unstable();
        assert!(layers.into_iter().eq(0..9));
        assert!(groups.iter().all(|group| group.layers.iter().all(|layer| kinds[*layer] == group.kind)));
    }
}
