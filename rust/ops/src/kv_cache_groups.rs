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
//! back as its window moves on, any other can take.

/// Layers that see equally far, and have blocks in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvCacheGroup {
    /// Positions that the layers see, a token's own included; all before it where `None`.
    pub sliding_window: Option<usize>,
    /// The model's layers, in the order of their places in a block.
    pub layers: Vec<usize>,
}

/// Groups a model may be cut into, if it has not more kinds of layers: each costs a block table.
const MAX_GROUPS: usize = 8;

impl KvCacheGroup {
    /// Cuts a model's layers, whose windows these are, into groups.
    ///
    /// A group holds layers of one window. Blocks hold as many layers as leave the fewest places unused in groups that
    /// see all positions, since those grow with the context; then the fewest in all; then make the fewest groups; among
    /// sizes that make 8 groups at most, or one for each window if there are more windows.
    pub fn cut(sliding_windows: &[Option<usize>]) -> Vec<Self> {
        let mut kinds: Vec<Self> = Vec::new();
        for (layer, window) in sliding_windows.iter().enumerate() {
            match kinds.iter_mut().find(|kind| kind.sliding_window == *window) {
                Some(kind) => kind.layers.push(layer),
                None => kinds.push(Self { sliding_window: *window, layers: vec![layer] }),
            }
        }
        kinds.sort_by_key(|kind| kind.sliding_window);
        let largest = kinds.iter().map(|kind| kind.layers.len()).max().unwrap_or(0);
        let num_groups = |size: usize| kinds.iter().map(|kind| kind.layers.len().div_ceil(size)).sum::<usize>();
        let unused = |kind: &Self, size: usize| kind.layers.len().next_multiple_of(size) - kind.layers.len();
        let cost = |size: &usize| {
            let full = kinds.iter().filter(|kind| kind.sliding_window.is_none());
            let in_full: usize = full.map(|kind| unused(kind, *size)).sum();
            let in_all: usize = kinds.iter().map(|kind| unused(kind, *size)).sum();
            (in_full, in_all, num_groups(*size))
        };
        let most = MAX_GROUPS.max(kinds.len());
        let Some(size) = (1..=largest).filter(|size| num_groups(*size) <= most).min_by_key(cost) else {
            return kinds;
        };
        let runs =
            kinds.iter().flat_map(|kind| kind.layers.chunks(size).map(move |layers| (kind.sliding_window, layers)));
        runs.map(|(sliding_window, layers)| Self { sliding_window, layers: layers.to_vec() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of the groups of `full` layers without a window and `windowed` with one.
    fn sizes(full: usize, windowed: usize) -> Vec<(Option<usize>, usize)> {
        let windows: Vec<_> = (0..full).map(|_| None).chain((0..windowed).map(|_| Some(9))).collect();
        KvCacheGroup::cut(&windows).into_iter().map(|group| (group.sliding_window, group.layers.len())).collect()
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
        assert_eq!(sizes(1, 31).len(), 8, "a layer a block would be 32 groups");
    }

    #[test]
    fn every_layer_has_one_place() {
        let windows = [Some(4), Some(4), None, Some(8), Some(4), Some(4), None, Some(8), Some(4)];
        let groups = KvCacheGroup::cut(&windows);
        let mut layers: Vec<usize> = groups.iter().flat_map(|group| group.layers.clone()).collect();
        layers.sort_unstable();
        assert!(layers.into_iter().eq(0..9));
        assert!(groups.iter().all(|group| group.layers.iter().all(|layer| windows[*layer] == group.sliding_window)));
    }
}
