//! How large a key/value cache may be: read from the machine, not guessed.
//!
//! ```text
//!   the host    │ used │ weights, mapped │ free: gpu_memory_utilization of it is the cache's │
//!   a GPU       │ used by others │ weights │ activations │ cache                │ left alone │
//!               │◄────────────── gpu_memory_utilization of it all ─────────────►│
//! ```

use std::fs;

use rustllm_core::KvCacheGroups;
use rustllm_ops::{Backend, DeviceMemory, KvCacheSpec};

use crate::{EngineConfig, EngineError, GIB};

/// Bytes the cache may take: of the device's memory if it has its own, else of the host's. Weights are loaded.
pub(crate) fn budget(config: &EngineConfig, backend: &dyn Backend) -> Result<u64, EngineError> {
    Ok(match backend.device_memory()? {
        Some(memory) => usable(config, memory),
        None => (available_memory().unwrap_or(4 * GIB) as f64 * config.gpu_memory_utilization) as u64,
    })
}

/// Bytes of the device that weights, activations and cache may take.
fn usable(config: &EngineConfig, memory: DeviceMemory) -> u64 {
    let share = (memory.total as f64 * config.gpu_memory_utilization) as u64;
    share.saturating_sub(memory.total - memory.free)
}

/// What is planned for a device's memory, before weights of `bytes` are loaded.
pub(crate) fn describe(config: &EngineConfig, memory: DeviceMemory, bytes: u64) -> String {
    format!(
        "{} of {} free; weights at least {}, activations and key/value cache up to {} (gpu_memory_utilization={})",
        gib(memory.free),
        gib(memory.total),
        gib(bytes),
        gib(usable(config, memory).saturating_sub(bytes)),
        config.gpu_memory_utilization,
    )
}

/// The cache that was planned.
pub(crate) fn describe_cache(spec: &KvCacheSpec, block_bytes: usize) -> String {
    let bytes = block_bytes.saturating_mul(spec.num_blocks) as u64;
    format!("key/value cache: {} blocks of {} tokens, {}", spec.num_blocks, spec.block_size, gib(bytes))
}

/// Refuses weights of `bytes` that leave no room on the device, before they are loaded.
pub(crate) fn require_room(config: &EngineConfig, memory: DeviceMemory, bytes: u64) -> Result<(), EngineError> {
    let usable = usable(config, memory);
    if bytes < usable {
        return Ok(());
    }
    Err(EngineError::Memory(format!(
        "the weights take at least {}, but of the GPU's {} only {} are free, of which gpu_memory_utilization={} leaves {}: \
         quantize them, use a smaller model or a larger GPU, or free memory on this one",
        gib(bytes),
        gib(memory.total),
        gib(memory.free),
        config.gpu_memory_utilization,
        gib(usable),
    )))
}

/// Bytes as people read them.
fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / GIB as f64)
}

/// Bytes this process could still allocate: the kernel's estimate, less what its control group forbids.
///
/// `None` where neither can be read.
fn available_memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_available(&text));
    let group = cgroup_headroom("/sys/fs/cgroup");
    [machine, group].into_iter().flatten().min()
}

fn meminfo_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `memory.max - memory.current` of the control group this process sees as its root (version 2).
fn cgroup_headroom(root: &str) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(format!("{root}/{file}")).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    Some(limit.saturating_sub(used))
}

/// Blocks the cache gets and the model length that leaves, from what the user allows and the machine has.
///
/// A block takes `block_bytes`, all of them `budget` at most. What sequences hold of them is for `groups` to say. `model_limit`
/// is the model's own length limit.
pub(crate) fn plan(
    config: &EngineConfig,
    groups: &KvCacheGroups,
    block_bytes: usize,
    model_limit: usize,
    budget: u64,
) -> Result<(usize, usize), EngineError> {
    let per_block = block_bytes as u64;
    let needed = groups.max_blocks(model_limit);
    let num_blocks = match (config.num_gpu_blocks_override, config.kv_cache_memory_bytes) {
        (Some(blocks), _) => blocks,
        (None, Some(bytes)) => (bytes / per_block) as usize,
        (None, None) => {
            // More than every sequence at full length can never be in use at once.
            let most = config.max_num_seqs.saturating_mul(needed);
            ((budget / per_block) as usize).min(most)
        }
    };
    let num_blocks = num_blocks.min(u32::MAX as usize / config.block_size);
    let capacity = groups.longest_sequence(num_blocks, model_limit);
    match config.max_model_len {
        _ if capacity >= model_limit => Ok((num_blocks, model_limit)),
        None if capacity > 0 => Ok((num_blocks, capacity)),
        asked => Err(EngineError::Memory(format!(
            "max_model_len {} needs {} cache blocks of {} tokens ({} bytes each), but only {num_blocks} fit: raise \
             kv_cache_memory_bytes or gpu_memory_utilization, or lower max_model_len",
            asked.unwrap_or(model_limit),
            needed,
            config.block_size,
            per_block,
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_BYTES: usize = 4096;

    fn groups(config: &EngineConfig, sliding_windows: &[Option<usize>]) -> KvCacheGroups {
        let (block_size, max_num_batched_tokens) = (config.block_size, config.step_tokens(None));
        KvCacheGroups { sliding_windows: sliding_windows.to_vec(), block_size, max_num_batched_tokens }
    }

    #[test]
    fn reads_the_kernels_estimate() {
        let text = "MemTotal:       100 kB\nMemAvailable:    40 kB\n";
        assert_eq!(meminfo_available(text), Some(40 * 1024));
        assert_eq!(meminfo_available("MemTotal: 100 kB\n"), None);
    }

    #[test]
    fn weights_that_leave_no_room_are_refused_with_the_numbers() {
        let mut config = EngineConfig::new("model");
        config.gpu_memory_utilization = 0.5;
        let memory = DeviceMemory { free: 7 * GIB, total: 8 * GIB };
        assert!(require_room(&config, memory, 3 * GIB - 1).is_ok());
        let error = require_room(&config, memory, 3 * GIB).unwrap_err().to_string();
        assert!(error.contains("at least 3.00 GiB") && error.contains("leaves 3.00 GiB"), "{error}");
        assert!(error.contains("8.00 GiB only 7.00 GiB are free"), "{error}");
    }

    #[test]
    fn takes_the_memory_there_is_up_to_what_can_be_used() {
        let config = EngineConfig::new("model");
        let bytes = 5 * BLOCK_BYTES as u64 + 1;
        assert_eq!(plan(&config, &groups(&config, &[None]), BLOCK_BYTES, 64, bytes).unwrap(), (5, 64));
        assert_eq!(plan(&config, &groups(&config, &[None]), BLOCK_BYTES, 64, 1 << 40).unwrap(), (128 * 4, 64));
    }

    #[test]
    fn shrinks_a_length_nobody_asked_for_and_refuses_one_that_was() {
        let mut config = EngineConfig::new("model");
        config.num_gpu_blocks_override = Some(3);
        assert_eq!(plan(&config, &groups(&config, &[None]), BLOCK_BYTES, 64, 0).unwrap(), (3, 48));
        config.max_model_len = Some(64);
        let error = plan(&config, &groups(&config, &[None]), BLOCK_BYTES, 64, 0).unwrap_err().to_string();
        assert!(error.contains("needs 4 cache blocks of 16 tokens") && error.contains("only 3 fit"), "{error}");
    }

    #[test]
    fn windows_count_what_they_hold() {
        let mut config = EngineConfig::new("model");
        (config.max_num_seqs, config.max_num_batched_tokens) = (8, Some(33));
        // 32 positions before a chunk of 33 lie in 5 blocks of 16 at most, however long the sequence.
        let windowed = groups(&config, &[Some(33)]);
        assert_eq!(plan(&config, &windowed, BLOCK_BYTES, 1 << 20, 1 << 40).unwrap(), (8 * 5, 1 << 20));
        let both = groups(&config, &[None, Some(33)]);
        config.num_gpu_blocks_override = Some(15);
        assert_eq!(plan(&config, &both, BLOCK_BYTES, 1 << 20, 0).unwrap(), (15, 160));
        config.num_gpu_blocks_override = Some(4);
        config.max_model_len = Some(64);
        let error = plan(&config, &windowed, BLOCK_BYTES, 1 << 20, 0).unwrap_err().to_string();
        assert!(error.contains("needs 5 cache blocks of 16 tokens") && error.contains("only 4 fit"), "{error}");
    }
}
