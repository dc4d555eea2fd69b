use super::*;

fn hash(content: u32) -> BlockHash {
    BlockHash::root(None).chain(&[content])
}

fn allocate_all(pool: &mut BlockPool) -> Vec<BlockId> {
    std::iter::from_fn(|| pool.allocate()).collect()
}

/// A pool of three blocks that cache the contents 0, 1, 2 and were released in the order `released`.
fn pool_released_in(released: [u32; 3]) -> BlockPool {
    let mut pool = BlockPool::new(3);
    allocate_all(&mut pool).into_iter().for_each(|id| assert!(pool.register(id, hash(id.0))));
    released.into_iter().for_each(|id| pool.release(BlockId(id)));
    pool
}

#[test]
fn hands_out_every_block_once() {
    let mut pool = BlockPool::new(4);
    assert_eq!(allocate_all(&mut pool), [0, 1, 2, 3].map(BlockId));
    assert_eq!((pool.num_free(), pool.allocate()), (0, None));
    pool.check_integrity(&[1; 4]);
}

#[test]
fn released_blocks_keep_their_content_until_they_are_reallocated() {
    let mut pool = pool_released_in([0, 1, 2]);
    assert_eq!((pool.num_free(), pool.num_cached()), (3, 3));
    assert_eq!(pool.lookup(&hash(0)), Some(BlockId(0)));
    assert_eq!(pool.allocate(), Some(BlockId(0)));
    assert_eq!(pool.lookup(&hash(0)), None);
    pool.check_integrity(&[1, 0, 0]);
}

#[test]
fn evicts_the_least_recently_released_first() {
    let mut pool = pool_released_in([2, 0, 1]);
    assert_eq!(allocate_all(&mut pool), [2, 0, 1].map(BlockId));
}

#[test]
fn a_hit_takes_a_block_from_anywhere_in_the_free_list() {
    for hit in 0..3 {
        let mut pool = pool_released_in([0, 1, 2]);
        pool.share(BlockId(hit));
        assert_eq!(pool.num_free(), 2);
        let mut expected = [0; 3];
        expected[hit as usize] = 1;
        pool.check_integrity(&expected);
        let rest: Vec<BlockId> = (0..3).filter(|id| *id != hit).map(BlockId).collect();
        assert_eq!(allocate_all(&mut pool), rest);
        assert_eq!(pool.lookup(&hash(hit)), Some(BlockId(hit)), "in use, so never evicted");
    }
}

#[test]
fn a_hit_makes_a_block_the_most_recent() {
    let mut pool = pool_released_in([0, 1, 2]);
    pool.share(BlockId(0));
    pool.release(BlockId(0));
    assert_eq!(allocate_all(&mut pool), [1, 2, 0].map(BlockId));
}

#[test]
fn blocks_without_content_are_reused_before_cached_ones() {
    let mut pool = BlockPool::new(3);
    allocate_all(&mut pool);
    pool.register(BlockId(0), hash(0));
    [0, 1, 2].map(BlockId).into_iter().for_each(|id| pool.release(id));
    assert_eq!(allocate_all(&mut pool), [2, 1, 0].map(BlockId));
}

#[test]
fn the_first_block_of_a_content_stays_the_known_one() {
    let mut pool = BlockPool::new(2);
    allocate_all(&mut pool);
    assert!(pool.register(BlockId(0), hash(9)));
    assert!(!pool.register(BlockId(1), hash(9)));
    assert_eq!((pool.lookup(&hash(9)), pool.hash(BlockId(1))), (Some(BlockId(0)), None));
    pool.check_integrity(&[1, 1]);
}

#[test]
fn a_shared_block_is_free_after_its_last_release() {
    let mut pool = BlockPool::new(1);
    let id = pool.allocate().expect("one block");
    pool.register(id, hash(1));
    pool.share(id);
    pool.release(id);
    assert_eq!((pool.num_free(), pool.ref_count(id)), (0, 1));
    pool.release(id);
    assert_eq!(pool.num_free(), 1);
}

#[test]
#[should_panic(expected = "block 0 is released but nobody holds it")]
fn a_double_release_is_caught() {
    BlockPool::new(1).release(BlockId(0));
}

#[test]
fn reset_forgets_content_only_while_nothing_is_used() {
    let mut pool = pool_released_in([0, 1, 2]);
    pool.share(BlockId(1));
    assert!(!pool.reset_cache());
    assert_eq!(pool.num_cached(), 3);
    pool.release(BlockId(1));
    assert!(pool.reset_cache());
    assert_eq!((pool.num_cached(), pool.lookup(&hash(1))), (0, None));
    pool.check_integrity(&[0; 3]);
}

#[test]
#[should_panic(expected = "block 1: reference count against its block tables")]
fn integrity_sees_a_leaked_block() {
    let mut pool = BlockPool::new(2);
    allocate_all(&mut pool);
    pool.check_integrity(&[1, 0]);
}
