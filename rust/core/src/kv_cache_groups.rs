//! How many blocks sequences hold, by how far the model's layers see.
//!
//! ```text
//!   position      0 ............. next - window + 1 ......... next ......... next + chunk
//!   full          [ held .................................................. | this step ]
//!   window        [ given back  ] [ held: the next token sees it .......... | this step ]
//!                                  rounded outwards to whole blocks
//! ```
//!
//! Layers that see equally far form a group, which has blocks of its own. What a sequence holds in a group with a
//! window stops growing at the window and one step's chunk.

/// The groups of layers that keep keys and values, and what decides how much of a sequence they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvCacheGroups {
    /// Positions that each group's layers see, a token's own included; all before it where `None`.
    pub sliding_windows: Vec<Option<usize>>,
    /// Tokens in a block.
    pub block_size: usize,
    /// Most tokens of a sequence computed in a step.
    pub max_num_batched_tokens: usize,
}

impl KvCacheGroups {
    /// Number of groups.
    pub fn len(&self) -> usize {
        self.sliding_windows.len()
    }

    /// True when nothing keeps keys and values.
    pub fn is_empty(&self) -> bool {
        self.sliding_windows.is_empty()
    }

    /// The first row of a block table that `position` sees through `window`.
    pub(crate) fn first_seen_row(&self, window: Option<usize>, position: usize) -> usize {
        window.map_or(0, |window| (position + 1).saturating_sub(window) / self.block_size)
    }

    /// Most rows that hold blocks at once, for a group of `window`: what the first token of a chunk sees, and the chunk.
    fn most_rows(&self, window: Option<usize>) -> usize {
        // A run of n positions lies in ceil((n - 1) / block_size) + 1 blocks where it fits them worst.
        let run = |window: usize| (window - 1).saturating_add(self.max_num_batched_tokens);
        window.map_or(usize::MAX, |window| (run(window) - 1).div_ceil(self.block_size) + 1)
    }

    /// Most blocks that a sequence holds at once, over all groups, on its way from `num_computed_tokens` to `num_tokens`.
    pub(crate) fn most_blocks(&self, num_computed_tokens: usize, num_tokens: usize) -> usize {
        let num_rows = num_tokens.div_ceil(self.block_size);
        let held = |window: &Option<usize>| {
            (num_rows - self.first_seen_row(*window, num_computed_tokens)).min(self.most_rows(*window))
        };
        self.sliding_windows.iter().map(held).sum()
    }

    /// Most blocks that a sequence of `num_tokens` tokens ever holds at once, over all groups.
    pub fn max_blocks(&self, num_tokens: usize) -> usize {
        self.most_blocks(0, num_tokens)
    }

    /// Tokens of the longest sequence, up to `limit`, that never holds more than `num_blocks` blocks.
    pub fn longest_sequence(&self, num_blocks: usize, limit: usize) -> usize {
        // Needs grow with every row: halve the range of rows between one that fits and one that does not.
        let (mut fits, mut too_long) = (0, limit.div_ceil(self.block_size) + 1);
        while too_long - fits > 1 {
            let rows = fits + (too_long - fits) / 2;
            let is_held = self.max_blocks(rows * self.block_size) <= num_blocks;
            *(if is_held { &mut fits } else { &mut too_long }) = rows;
        }
        (fits * self.block_size).min(limit)
    }

    /// Panics where a group with a window holds more blocks of a sequence than it may.
    pub(crate) fn check_held(&self, group: usize, num_blocks: usize) {
        let most = self.most_rows(self.sliding_windows[group]);
        assert!(num_blocks <= most, "group {group} holds {num_blocks} blocks of a sequence, {most} at most");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(sliding_windows: &[Option<usize>]) -> KvCacheGroups {
        KvCacheGroups { sliding_windows: sliding_windows.to_vec(), block_size: 4, max_num_batched_tokens: 3 }
    }

    #[test]
    fn full_attention_holds_every_block() {
        assert_eq!([0, 1, 4, 5].map(|tokens| groups(&[None]).max_blocks(tokens)), [0, 1, 1, 2]);
        assert_eq!(groups(&[None]).longest_sequence(3, 100), 12);
        assert_eq!(groups(&[None, None]).longest_sequence(7, 100), 12);
        assert_eq!(groups(&[None]).longest_sequence(3, 10), 10, "no longer than asked");
    }

    #[test]
    fn a_window_and_a_chunk_are_what_a_windowed_group_holds() {
        // The worst chunk of 3 with the 5 positions before it: 8 positions in 3 blocks of 4.
        let windowed = groups(&[Some(6)]);
        assert_eq!([4, 8, 12, 16, 1000].map(|tokens| windowed.max_blocks(tokens)), [1, 2, 3, 3, 3]);
        assert_eq!(windowed.longest_sequence(3, 1000), 1000);
        assert_eq!(windowed.longest_sequence(2, 1000), 8);
        assert_eq!(groups(&[None, Some(6)]).longest_sequence(8, 1000), 20, "5 full, 3 of the window");
        let whole = KvCacheGroups { max_num_batched_tokens: 1, ..groups(&[Some(1)]) };
        assert_eq!(whole.max_blocks(100), 1);
    }

    #[test]
    fn rows_behind_the_window_are_not_seen() {
        let seen = |position| groups(&[Some(6)]).first_seen_row(Some(6), position);
        assert_eq!([0, 5, 8, 9, 12, 13].map(seen), [0, 0, 0, 1, 1, 2]);
    }
}
