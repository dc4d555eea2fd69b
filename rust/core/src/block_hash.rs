//! The name of a block's content.
//!
//! ```text
//!   salt ──► root ──► H(root, tokens of block 0) ──► H(that, tokens of block 1) ──► ...
//! ```
//!
//! Keys and values of a token depend on every token before it, so a block is named by its whole prefix: each hash
//! takes in its parent's. 256 bits of BLAKE3 make "same hash" mean "same content": a collision, even one that is
//! searched for, is out of reach, and with a salt one tenant cannot guess another's blocks.

use std::hash::{Hash, Hasher};

/// 256-bit hash of a full block and everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHash([u8; 32]);

impl BlockHash {
    /// Groups of layers whose blocks have names of their own.
    pub(crate) const MAX_GROUPS: usize = 256;

    /// The parent of a first block: the hash of the salt.
    pub fn root(salt: Option<&str>) -> Self {
        let salt_hash = salt.map(|salt| *blake3::hash(salt.as_bytes()).as_bytes());
        Self(salt_hash.unwrap_or_default())
    }

    /// The hash of the block holding `tokens` after the block (or root) `self`.
    pub fn chain(&self, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        let mut bytes = [0; 256];
        for tokens in tokens.chunks(bytes.len() / 4) {
            for (bytes, token) in bytes.chunks_exact_mut(4).zip(tokens) {
                bytes.copy_from_slice(&token.to_le_bytes());
            }
            hasher.update(&bytes[..tokens.len() * 4]);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The name of the same tokens' content in another group of layers; group 0's is the hash itself.
    /// Of more than [`MAX_GROUPS`](Self::MAX_GROUPS) groups some have the same.
    pub(crate) fn of_group(mut self, group: usize) -> Self {
        // With 256 variants of a hash, a search for collisions is as hopeless as it was. Changing all bytes alike is one
        // operation of the processor's; writing to some would make the next read of the whole wait for them.
        for byte in &mut self.0 {
            *byte ^= group as u8;
        }
        self
    }
}

impl Hash for BlockHash {
    /// Eight bytes of an even hash are enough for a table; the table's own random key does the rest.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_prefix_same_hash_and_any_difference_changes_it() {
        let root = BlockHash::root(None);
        let hash = root.chain(&[1, 2, 3, 4]).chain(&[5, 6, 7, 8]);
        assert_eq!(hash, root.chain(&[1, 2, 3, 4]).chain(&[5, 6, 7, 8]));
        assert_ne!(hash, root.chain(&[1, 2, 3, 9]).chain(&[5, 6, 7, 8]), "an earlier token");
        assert_ne!(hash, root.chain(&[5, 6, 7, 8]), "no parent");
        assert_ne!(hash, BlockHash::root(Some("a")).chain(&[1, 2, 3, 4]).chain(&[5, 6, 7, 8]), "a salt");
        assert_ne!(BlockHash::root(Some("")), root, "an empty salt is a salt");
        assert_eq!(hash.of_group(0), hash);
        assert!(hash.of_group(1) != hash && hash.of_group(1) != hash.of_group(255), "a group");
    }

    #[test]
    fn blocks_longer_than_the_buffer_are_hashed_whole() {
        let root = BlockHash::root(None);
        let long: Vec<u32> = (0..200).collect();
        let mut other = long.clone();
        other[199] += 1;
        assert_ne!(root.chain(&long), root.chain(&other));
        assert_ne!(root.chain(&long), root.chain(&long[..199]));
    }
}
