//! The block tables of the sequences, whose picture is in [`crate::block_table`].
//!
//! A table has exactly as many rows as `num_computed_tokens` needs. Only full blocks have a hash and are shared, and
//! nobody writes into a full block, so sharing needs no copy on write.
//!
//! # Windows
//! Before a sequence's next tokens are scheduled, groups with a window give back the blocks that those tokens and all
//! later ones no longer see. Such a block stays in the index as any released one does. Steps are executed in the order
//! they were scheduled, so whoever gets the block next writes it after its last reader.
//!
//! ```text
//!   a cached prefix of 5 rows, window of 2 rows        full      [ hit ][ hit ][ hit ][ hit ][ hit ]
//!                                                      window    [  -  ][  -  ][  -  ][ hit ][ hit ]
//! ```
//!
//! A cached prefix needs all its rows of groups without a window, and of those with one what its next token sees.

use crate::block_pool::{BlockId, BlockPool};
use crate::block_table::BlockTable;
use crate::kv_cache_groups::KvCacheGroups;
use crate::sequence::Sequence;

#[derive(Debug)]
pub(crate) struct BlockManager {
    pool: BlockPool,
    groups: KvCacheGroups,
    /// Those of the groups that have a window, and the window.
    windowed: Vec<(usize, usize)>,
    enable_prefix_caching: bool,
    /// The rows of the prefix found last; kept for their memory.
    hits: Vec<BlockId>,
    /// For each group, the first row of that prefix from which on it is cached; kept for its memory.
    cached_from: Vec<usize>,
}

impl BlockManager {
    pub(crate) fn new(num_blocks: u32, groups: KvCacheGroups, enable_prefix_caching: bool) -> Self {
        let pool = BlockPool::new(num_blocks);
        let windows = groups.sliding_windows.iter().enumerate();
        let windowed = windows.filter_map(|(group, window)| Some((group, (*window)?))).collect();
        Self { pool, groups, windowed, enable_prefix_caching, hits: Vec::new(), cached_from: Vec::new() }
    }

    pub(crate) fn pool(&self) -> &BlockPool {
        &self.pool
    }

    pub(crate) fn groups(&self) -> &KvCacheGroups {
        &self.groups
    }

    pub(crate) fn reset_prefix_cache(&mut self) -> bool {
        self.pool.reset_cache()
    }

    /// Starts a sequence that holds no blocks with the longest cached prefix of its tokens. False, and nothing
    /// changes, unless blocks for all its tokens are there: a prompt that is begun shall be finished.
    pub(crate) fn admit(&mut self, sequence: &mut Sequence) -> bool {
        debug_assert!(sequence.block_table.is_empty(), "a queued sequence holds no blocks");
        if self.pool.num_free() == 0 {
            return false; // the last token is always computed, so one new block is always needed
        }
        self.find_cached_prefix(sequence);
        let (mut num_held, mut num_revived) = (0, 0);
        for id in self.hits.iter().filter(|id| !id.is_null()) {
            num_held += 1;
            num_revived += usize::from(self.pool.ref_count(*id) == 0);
        }
        let num_cached_tokens = self.hits.len() / self.groups.len() * self.groups.block_size;
        let num_new = self.groups.most_blocks(num_cached_tokens, sequence.num_tokens()) - num_held;
        if num_new + num_revived > self.pool.num_free() {
            return false;
        }
        self.take_hits(sequence);
        true
    }

    /// Moves a sequence that is catching up with its tokens over blocks that others have cached meanwhile, and
    /// returns the number of tokens it need not compute. Its own partial block gives way to the full cached one.
    pub(crate) fn extend_cached_prefix(&mut self, sequence: &mut Sequence) -> usize {
        let before = sequence.num_computed_tokens;
        self.find_cached_prefix(sequence);
        self.take_hits(sequence);
        sequence.num_computed_tokens - before
    }

    /// Fills `hits` with the cached rows that continue the sequence's full ones, leaving the last token over.
    fn find_cached_prefix(&mut self, sequence: &mut Sequence) {
        self.hits.clear();
        if !self.enable_prefix_caching || sequence.skips_prefix_cache() {
            return;
        }
        let first = sequence.num_computed_tokens / self.groups.block_size;
        let end = (sequence.num_tokens() - 1) / self.groups.block_size;
        for row in first..end {
            if !self.push_hit(sequence, row) {
                break;
            }
        }
        self.shorten_to_windows(sequence, first);
    }

    /// Adds a row that every group without a window has cached; groups with one are left open. False if one has not.
    fn push_hit(&mut self, sequence: &mut Sequence, row: usize) -> bool {
        let before = self.hits.len();
        let hash = sequence.block_hash(row, self.groups.block_size);
        for (group, window) in self.groups.sliding_windows.iter().enumerate() {
            let id = if window.is_none() { self.pool.lookup(&hash.of_group(group)) } else { Some(BlockId::NULL) };
            let Some(id) = id else {
                self.hits.truncate(before);
                return false;
            };
            self.hits.push(id);
        }
        true
    }

    /// Cuts `hits`, which start at row `first`, to the most rows whose next token finds all that it sees in groups with
    /// a window, and fills that in. Every row of a group is looked up once at most: a miss excludes all prefixes that end after it.
    fn shorten_to_windows(&mut self, sequence: &mut Sequence, first: usize) {
        let (num_groups, block_size) = (self.groups.len(), self.groups.block_size);
        let mut end = first + self.hits.len() / num_groups;
        self.cached_from.clear();
        self.cached_from.resize(num_groups, end);
        let mut group = 0;
        while group < num_groups && end > first {
            let window = self.groups.sliding_windows[group];
            let from = self.cached_from[group].min(end);
            if window.is_none() || from <= self.groups.first_seen_row(window, end * block_size).max(first) {
                group += 1;
                continue;
            }
            let row = from - 1;
            let hash = sequence.block_hash(row, block_size).of_group(group);
            self.cached_from[group] = row;
            match self.pool.lookup(&hash) {
                Some(id) => self.hits[(row - first) * num_groups + group] = id,
                // A shorter prefix ends here, and sees other rows in the groups before.
                None => (end, group) = (row, 0),
            }
        }
        self.hits.truncate((end - first) * num_groups);
    }

    fn take_hits(&mut self, sequence: &mut Sequence) {
        if self.hits.is_empty() {
            return;
        }
        let block_size = self.groups.block_size;
        let num_full = sequence.num_computed_tokens / block_size;
        self.hits.iter().filter(|id| !id.is_null()).for_each(|id| self.pool.share(*id));
        sequence.block_table.truncate(num_full).for_each(|partial| self.pool.release(partial));
        sequence.num_computed_tokens = (num_full + self.hits.len() / self.groups.len()) * block_size;
        self.release_unseen(sequence);
        sequence.block_table.extend(&self.hits);
    }

    /// Gives back the blocks that neither the sequence's next token nor any later one sees.
    pub(crate) fn release_unseen(&mut self, sequence: &mut Sequence) {
        for (group, window) in self.windowed.iter().copied() {
            let table = &mut sequence.block_table;
            let end = self.groups.first_seen_row(Some(window), sequence.num_computed_tokens).min(table.num_rows());
            // Null blocks are a stretch from the first row on: what was given back before, and what a hit had no need of.
            for row in (0..end).rev() {
                let id = table.take(group, row);
                if id.is_null() {
                    break;
                }
                self.pool.release(id);
            }
        }
    }

    /// True when `num_tokens` more tokens of the sequence have blocks in all groups, its own or free ones.
    pub(crate) fn can_append(&self, sequence: &Sequence, num_tokens: usize) -> bool {
        self.num_new_blocks(sequence, num_tokens) <= self.pool.num_free()
    }

    /// True when each of the sequences has blocks for one token more.
    pub(crate) fn can_append_to_all<'a>(&self, sequences: impl Iterator<Item = &'a Sequence>) -> bool {
        sequences.map(|sequence| self.num_new_blocks(sequence, 1)).sum::<usize>() <= self.pool.num_free()
    }

    fn num_new_blocks(&self, sequence: &Sequence, num_tokens: usize) -> usize {
        let num_rows = (sequence.num_computed_tokens + num_tokens).div_ceil(self.groups.block_size);
        num_rows * self.groups.len() - sequence.block_table.len()
    }

    /// Gives the sequence blocks for its next `num_tokens` tokens, counts these as computed, and registers the blocks
    /// that become full, adding them to `registered`. Ask [`Self::can_append`] first.
    pub(crate) fn append(&mut self, sequence: &mut Sequence, num_tokens: usize, registered: &mut Vec<BlockId>) {
        let first = sequence.num_computed_tokens / self.groups.block_size;
        self.extend_table(sequence, num_tokens);
        for row in first..sequence.num_computed_tokens / self.groups.block_size {
            self.register_row(sequence, row, registered);
        }
    }

    /// As [`Self::append`] for a token that is not known yet: a block that it fills stays unregistered.
    pub(crate) fn append_unknown(&mut self, sequence: &mut Sequence) {
        self.extend_table(sequence, 1);
    }

    fn extend_table(&mut self, sequence: &mut Sequence, num_tokens: usize) {
        for _ in 0..self.num_new_blocks(sequence, num_tokens) {
            let id = self.pool.allocate().expect("can_append has seen a free block for every new one");
            sequence.block_table.push(id);
        }
        sequence.num_computed_tokens += num_tokens;
    }

    /// Registers the row that the first `num_tokens` tokens of the sequence end with, if they fill it and it still holds them.
    pub(crate) fn register_row_before(&mut self, sequence: &mut Sequence, num_tokens: usize) {
        let block_size = self.groups.block_size;
        if num_tokens.is_multiple_of(block_size) && num_tokens <= sequence.num_computed_tokens {
            self.register_row(sequence, num_tokens / block_size - 1, &mut Vec::new());
        }
    }

    /// Makes a full row findable in every group that has a block of it.
    fn register_row(&mut self, sequence: &mut Sequence, row: usize, registered: &mut Vec<BlockId>) {
        if !self.enable_prefix_caching {
            return;
        }
        let hash = sequence.block_hash(row, self.groups.block_size);
        for group in 0..self.groups.len() {
            let id = sequence.block_table.get(group, row);
            if !id.is_null() && self.pool.register(id, hash.of_group(group)) {
                registered.push(id);
            }
        }
    }

    /// Takes all blocks from the sequence, the last ones first: a prefix, which more requests have in common, stays
    /// cached longer than what follows it.
    pub(crate) fn free(&mut self, sequence: &mut Sequence) {
        sequence.block_table.held().rev().for_each(|id| self.pool.release(id));
        sequence.block_table.clear();
        sequence.num_computed_tokens = 0;
    }

    /// Makes blocks unfindable whose content cannot be trusted.
    pub(crate) fn unregister(&mut self, ids: &[BlockId]) {
        ids.iter().for_each(|id| self.pool.unregister(*id));
    }

    /// Makes unfindable what a sequence holds, and what it has given back of the same tokens.
    pub(crate) fn unregister_sequence(&mut self, sequence: &Sequence) {
        let table: &BlockTable = sequence.block_table();
        for row in 0..table.num_rows() {
            let hash = sequence.known_block_hash(row);
            for group in 0..self.groups.len() {
                let id = match table.get(group, row) {
                    BlockId::NULL => hash.and_then(|hash| self.pool.lookup(&hash.of_group(group))),
                    held => Some(held),
                };
                id.into_iter().for_each(|id| self.pool.unregister(id));
            }
        }
    }
}
