//! A fixed set of KV blocks: reference counts, the free list, and the index of cached blocks.
//!
//! ```text
//!                 allocate                    register
//!      free ────────────────► used ───────────────────────► used + cached ◄──┐
//!       ▲                      │                             │               │ share (a hit)
//!       │ evicted: reallocated │ released                    │ released      │
//!       │ under a new content  ▼                             ▼               │
//!       └──────────────────── free list, front         free list, back ──────┘
//!                             (nothing to lose)        (still found by its hash)
//!
//!      free list:  front ► [uncached][uncached] [cached, oldest] ... [cached, newest] ◄ back
//!                  `allocate` takes from the front, so the least recently used content dies first
//! ```
//!
//! A block is on the free list exactly when its reference count is 0. It is in the index exactly when it has a hash,
//! and no two blocks have the same hash. The list is doubly linked by index, so a hit leaves it from the middle in
//! constant time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::block_hash::BlockHash;

/// Number of a KV block: its place in the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct BlockId(pub u32);

impl BlockId {
    /// Stands in a block table where a sequence has given a block back. No block has this number.
    pub const NULL: Self = Self(u32::MAX);

    /// Whether it is [`BlockId::NULL`].
    pub fn is_null(self) -> bool {
        self == Self::NULL
    }

    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// End of the linked list.
const NIL: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Block {
    ref_count: u32,
    prev: u32,
    next: u32,
    hash: Option<BlockHash>,
}

/// The blocks of one KV cache. See the module's picture.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    cached: HashMap<BlockHash, BlockId>,
    front: u32,
    back: u32,
    num_free: usize,
}

impl BlockPool {
    /// A pool of `num_blocks` free blocks, handed out in the order of their numbers.
    pub fn new(num_blocks: u32) -> Self {
        let empty = Block { ref_count: 0, prev: NIL, next: NIL, hash: None };
        let blocks = vec![empty; num_blocks as usize];
        // Room for all hashes from the start: a table that grows would stop one step in a while for milliseconds.
        let cached = HashMap::with_capacity(blocks.len());
        let mut pool = Self { blocks, cached, front: NIL, back: NIL, num_free: 0 };
        (0..num_blocks).for_each(|id| pool.push_back(id));
        pool
    }

    /// Number of blocks, used or free.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Number of blocks that no sequence holds; their cached content still counts as free.
    pub fn num_free(&self) -> usize {
        self.num_free
    }

    /// Number of blocks that can be found by their hash.
    pub fn num_cached(&self) -> usize {
        self.cached.len()
    }

    /// Number of block tables that hold the block.
    pub fn ref_count(&self, id: BlockId) -> u32 {
        self.blocks[id.index()].ref_count
    }

    /// The block's hash while it is cached.
    pub fn hash(&self, id: BlockId) -> Option<BlockHash> {
        self.blocks[id.index()].hash
    }

    /// Takes the free block whose loss costs least, forgetting what it held. `None` when every block is used.
    pub fn allocate(&mut self) -> Option<BlockId> {
        if self.front == NIL {
            return None;
        }
        let id = BlockId(self.front);
        self.unlink(id.0);
        self.unregister(id);
        self.blocks[id.index()].ref_count = 1;
        Some(id)
    }

    /// The block that holds the content named by `hash`, used or free.
    pub fn lookup(&self, hash: &BlockHash) -> Option<BlockId> {
        self.cached.get(hash).copied()
    }

    /// One more block table holds the block; a free one comes back into use with its content.
    pub fn share(&mut self, id: BlockId) {
        if self.blocks[id.index()].ref_count == 0 {
            self.unlink(id.0);
        }
        self.blocks[id.index()].ref_count += 1;
    }

    /// Makes a used block findable by `hash`. False, and nothing changes, when another block has that content.
    pub fn register(&mut self, id: BlockId, hash: BlockHash) -> bool {
        debug_assert!(self.blocks[id.index()].ref_count > 0, "only used blocks get content: {id:?}");
        match self.cached.entry(hash) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(id);
                let old = self.blocks[id.index()].hash.replace(hash);
                debug_assert!(old.is_none(), "{id:?} is registered twice");
                true
            }
        }
    }

    /// The block can no longer be found; who holds it keeps it.
    pub fn unregister(&mut self, id: BlockId) {
        if let Some(hash) = self.blocks[id.index()].hash.take() {
            self.cached.remove(&hash);
        }
    }

    /// One block table less holds the block. The last one puts it on the free list: at the back when it is cached,
    /// at the front when it has nothing to lose.
    ///
    /// # Panics
    /// When nobody holds the block: a double free would give one block to two sequences.
    pub fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.index()];
        assert!(block.ref_count > 0, "block {} is released but nobody holds it", id.0);
        block.ref_count -= 1;
        if block.ref_count > 0 {
            return;
        }
        if block.hash.is_some() { self.push_back(id.0) } else { self.push_front(id.0) }
    }

    /// Forgets all cached content. False, and nothing changes, while any block is used.
    pub fn reset_cache(&mut self) -> bool {
        if self.num_free != self.blocks.len() {
            return false;
        }
        self.cached.clear();
        self.blocks.iter_mut().for_each(|block| block.hash = None);
        true
    }

    fn push_back(&mut self, id: u32) {
        let old = std::mem::replace(&mut self.back, id);
        self.blocks[id as usize].prev = old;
        self.blocks[id as usize].next = NIL;
        if old == NIL {
            self.front = id
        } else {
            self.blocks[old as usize].next = id
        }
        self.num_free += 1;
    }

    fn push_front(&mut self, id: u32) {
        let old = std::mem::replace(&mut self.front, id);
        self.blocks[id as usize].prev = NIL;
        self.blocks[id as usize].next = old;
        if old == NIL {
            self.back = id
        } else {
            self.blocks[old as usize].prev = id
        }
        self.num_free += 1;
    }

    fn unlink(&mut self, id: u32) {
        let Block { prev, next, .. } = self.blocks[id as usize];
        if prev == NIL {
            self.front = next
        } else {
            self.blocks[prev as usize].next = next
        }
        if next == NIL {
            self.back = prev
        } else {
            self.blocks[next as usize].prev = prev
        }
        self.num_free -= 1;
    }

    /// Recounts everything against `ref_counts`, how many block tables hold each block.
    ///
    /// # Panics
    /// When a reference count, the free list or the index is wrong, naming the block.
    pub fn check_integrity(&self, ref_counts: &[u32]) {
        assert_eq!(ref_counts.len(), self.blocks.len(), "one count for each block");
        for (id, (block, expected)) in self.blocks.iter().zip(ref_counts).enumerate() {
            assert_eq!(block.ref_count, *expected, "block {id}: reference count against its block tables");
            if let Some(hash) = &block.hash {
                assert_eq!(self.lookup(hash).map(BlockId::index), Some(id), "block {id}: not found by its hash");
            }
        }
        let num_hashed = self.blocks.iter().filter(|block| block.hash.is_some()).count();
        assert_eq!(num_hashed, self.cached.len(), "the index holds hashes of no block");
        self.check_free_list();
    }

    fn check_free_list(&self) {
        let (mut count, mut prev, mut id) = (0, NIL, self.front);
        while id != NIL {
            let block = &self.blocks[id as usize];
            assert_eq!(block.ref_count, 0, "block {id}: used, but on the free list");
            assert_eq!(block.prev, prev, "block {id}: broken link on the free list");
            count += 1;
            assert!(count <= self.num_free, "the free list is longer than its count {}", self.num_free);
            (prev, id) = (id, block.next);
        }
        assert_eq!(self.back, prev, "the free list's back");
        let num_unused = self.blocks.iter().filter(|block| block.ref_count == 0).count();
        assert_eq!((count, self.num_free), (num_unused, num_unused), "unused blocks are not all on the free list");
    }
}

#[cfg(test)]
mod tests;
