//! The block tables of the sequences.
//!
//! ```text
//!   tokens        [ 0 .. 15 ][ 16 .. 31 ][ 32 .. 47 ][ 48 .. 52 ]      block_size 16, 53 tokens
//!   block_table   [   b7    ][    b2    ][    b9    ][    b4     ]
//!                   shared      shared     registered   partial: ours alone, no hash
//! ```
//!
//! A table has exactly as many blocks as `num_computed_tokens` needs. Only full blocks have a hash and are shared, and
//! nobody writes into a full block, so sharing needs no copy on write.

use crate::block_pool::{BlockId, BlockPool};
use crate::sequence::Sequence;

#[derive(Debug)]
pub(crate) struct BlockManager {
    pool: BlockPool,
    block_size: usize,
    enable_prefix_caching: bool,
    /// The blocks of the prefix found last; kept for its memory.
    hits: Vec<BlockId>,
}

impl BlockManager {
    pub(crate) fn new(num_blocks: u32, block_size: usize, enable_prefix_caching: bool) -> Self {
        Self { pool: BlockPool::new(num_blocks), block_size, enable_prefix_caching, hits: Vec::new() }
    }

    pub(crate) fn pool(&self) -> &BlockPool {
        &self.pool
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
        let num_revived = self.hits.iter().filter(|id| self.pool.ref_count(**id) == 0).count();
        let num_new = sequence.num_tokens().div_ceil(self.block_size) - self.hits.len();
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

    /// Fills `hits` with the cached blocks that continue the sequence's full blocks, leaving the last token over.
    fn find_cached_prefix(&mut self, sequence: &mut Sequence) {
        self.hits.clear();
        if !self.enable_prefix_caching || sequence.skips_prefix_cache() {
            return;
        }
        let first = sequence.num_computed_tokens / self.block_size;
        let end = (sequence.num_tokens() - 1) / self.block_size;
        for index in first..end {
            let hash = sequence.block_hash(index, self.block_size);
            let Some(id) = self.pool.lookup(&hash) else { break };
            self.hits.push(id);
        }
    }

    fn take_hits(&mut self, sequence: &mut Sequence) {
        if self.hits.is_empty() {
            return;
        }
        let num_full = sequence.num_computed_tokens / self.block_size;
        self.hits.iter().for_each(|id| self.pool.share(*id));
        sequence.block_table.drain(num_full..).for_each(|partial| self.pool.release(partial));
        sequence.block_table.extend_from_slice(&self.hits);
        sequence.num_computed_tokens = (num_full + self.hits.len()) * self.block_size;
    }

    /// True when `num_tokens` more tokens of the sequence have blocks, its own or free ones.
    pub(crate) fn can_append(&self, sequence: &Sequence, num_tokens: usize) -> bool {
        self.num_new_blocks(sequence, num_tokens) <= self.pool.num_free()
    }

    fn num_new_blocks(&self, sequence: &Sequence, num_tokens: usize) -> usize {
        let needed = (sequence.num_computed_tokens + num_tokens).div_ceil(self.block_size);
        needed - sequence.block_table.len()
    }

    /// Gives the sequence blocks for its next `num_tokens` tokens, counts these as computed, and registers the blocks
    /// that become full, adding them to `registered`. Ask [`Self::can_append`] first.
    pub(crate) fn append(&mut self, sequence: &mut Sequence, num_tokens: usize, registered: &mut Vec<BlockId>) {
        for _ in 0..self.num_new_blocks(sequence, num_tokens) {
            let id = self.pool.allocate().expect("can_append has seen a free block for every new one");
            sequence.block_table.push(id);
        }
        let first = sequence.num_computed_tokens / self.block_size;
        sequence.num_computed_tokens += num_tokens;
        if !self.enable_prefix_caching {
            return;
        }
        for index in first..sequence.num_computed_tokens / self.block_size {
            let id = sequence.block_table[index];
            if self.pool.register(id, sequence.block_hash(index, self.block_size)) {
                registered.push(id);
            }
        }
    }

    /// Takes all blocks from the sequence, the last ones first: a prefix, which more requests have in common, stays
    /// cached longer than what follows it.
    pub(crate) fn free(&mut self, sequence: &mut Sequence) {
        sequence.block_table.drain(..).rev().for_each(|id| self.pool.release(id));
        sequence.num_computed_tokens = 0;
    }

    /// Makes blocks unfindable whose content cannot be trusted.
    pub(crate) fn unregister(&mut self, ids: &[BlockId]) {
        ids.iter().for_each(|id| self.pool.unregister(*id));
    }
}
