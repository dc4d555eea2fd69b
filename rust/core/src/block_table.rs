//! Where a sequence's keys and values lie.
//!
//! ```text
//!   tokens       [ 0 .. 15 ][ 16 .. 31 ][ 32 .. 47 ][ 48 .. 52 ]      block_size 16, 53 tokens
//!   full         [   b7    ][    b2    ][    b9    ][    b4     ]
//!   window 20    [    -    ][    -     ][    b3    ][    b8     ]      the next token, 53, sees 34 ..= 53
//!                  row 0       row 1       row 2       row 3
//! ```
//!
//! A row holds `block_size` tokens and has a block for each group of layers, so that all groups have rows for the same
//! tokens. Where no token to come sees a row, the null block stands in a group's place.

use crate::block_pool::BlockId;

/// The blocks of a sequence, row by row. See the module's picture.
#[derive(Clone, Debug)]
pub struct BlockTable {
    /// The rows one after another, so that a table is one stretch of memory however many groups there are.
    ids: Vec<BlockId>,
    num_groups: usize,
}

impl BlockTable {
    pub(crate) fn new(num_groups: usize) -> Self {
        Self { ids: Vec::new(), num_groups }
    }

    /// Rows, of `block_size` tokens each.
    pub fn num_rows(&self) -> usize {
        self.ids.len() / self.num_groups
    }

    /// Entries of all rows.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// A group's block in a row: [`BlockId::NULL`] where it has been given back.
    pub fn get(&self, group: usize, row: usize) -> BlockId {
        self.ids[row * self.num_groups + group]
    }

    /// A group's blocks in order: token `i` is in block `i / block_size` at offset `i % block_size`.
    pub fn group(&self, group: usize) -> impl Iterator<Item = BlockId> + Clone {
        self.ids.iter().copied().skip(group).step_by(self.num_groups)
    }

    /// Every block held, row after row.
    pub fn held(&self) -> impl DoubleEndedIterator<Item = BlockId> {
        self.ids.iter().copied().filter(|id| !id.is_null())
    }

    /// Adds the block of the next group, or of the next row's first.
    pub(crate) fn push(&mut self, id: BlockId) {
        self.ids.push(id);
    }

    /// Adds whole rows.
    pub(crate) fn extend(&mut self, rows: &[BlockId]) {
        self.ids.extend_from_slice(rows);
    }

    /// Takes the blocks held from row `num_rows` on, and all after it.
    pub(crate) fn truncate(&mut self, num_rows: usize) -> impl Iterator<Item = BlockId> {
        self.ids.drain(num_rows * self.num_groups..).filter(|id| !id.is_null())
    }

    /// Takes a group's block out of a row, leaving the null block.
    pub(crate) fn take(&mut self, group: usize, row: usize) -> BlockId {
        std::mem::replace(&mut self.ids[row * self.num_groups + group], BlockId::NULL)
    }

    pub(crate) fn clear(&mut self) {
        self.ids.clear();
    }
}
