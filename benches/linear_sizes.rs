//! Linear layers of many widths next to the machine's limits: a width that is far below its neighbours is a cliff.
//!
//! `cargo bench --bench linear_sizes` prints a row per format and width (of input and output alike), and for one row, a few and
//! many: the rate, and which share that is of what the limits measured beside it allow.
//!
//! A share is the least time, of reading the weights or of multiplying, over the time taken. Widths up to 1024 take
//! microseconds a row, of which waking the threads is a part.

mod weights;

use std::hint::black_box;
use std::time::{Duration, Instant};

use rustllm::cpu::CpuBackend;
use rustllm::ops::conformance::random_tensor;
use rustllm::ops::{Backend, DType, Result, Weight, WeightFormat};
use weights::{WEIGHT_BYTES, backend, weight_bytes, weights};

/// Those of small models, powers of two, and two that no panel, group or block divides.
const WIDTHS: [usize; 8] = [576, 768, 896, 1000, 1536, 2048, 3000, 4096];

const ROWS: [usize; 3] = [1, 16, 512];

const FORMATS: [WeightFormat; 3] =
    [WeightFormat::Dense(DType::BF16), WeightFormat::Int8, WeightFormat::Int4 { group_size: 32, symmetric: true }];

/// Rounds of a cell, of which the best counts, and how long each lasts at least.
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(30);

/// Seconds a product takes, each with the next of `weights`.
fn seconds(backend: &CpuBackend, rows: usize, width: usize, weights: &[Weight]) -> Result<f64> {
    let x = random_tensor(backend, rows, width, 1)?;
    let mut turn = weights.iter().cycle();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (start, mut products) = (Instant::now(), 0);
        while start.elapsed() < ROUND {
            black_box(backend.linear(&x, turn.next().expect("a cycle"), None)?);
            products += 1;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(products));
    }
    Ok(best)
}

fn main() -> Result<()> {
    let backend = backend();
    let (flops, int8) = (backend.measure_peak_flops()?, backend.measure_peak_int8_ops()?);
    let bandwidth = backend.measure_read_bandwidth(WEIGHT_BYTES)?;
    println!("{} kernels on {} threads", backend.isa(), backend.num_threads());
    println!(
        "limits: {:.1} GB/s read, {:.0} GFLOP/s float32, {:.0} GOP/s int8",
        bandwidth / 1e9,
        flops / 1e9,
        int8 / 1e9
    );
    println!("{:<24}{:>8}{}", "format", "width", ROWS.map(|rows| format!("{:>26}", format!("{rows} rows"))).concat());
    for format in FORMATS {
        let peak = if format.is_quantized() { int8 } else { flops };
        for width in WIDTHS {
            let weights = weights(&backend, width, width, format)?;
            print!("{:<24}{width:>8}", format.to_string());
            for rows in ROWS {
                let (bytes, operations) =
                    (weight_bytes(width, width, format) as f64, (2 * rows * width * width) as f64);
                let taken = seconds(&backend, rows, width, &weights)?;
                let share = 100.0 * (bytes / bandwidth).max(operations / peak) / taken;
                let (gigabytes, gigaops) = (bytes / taken / 1e9, operations / taken / 1e9);
                print!("{gigabytes:>7.2} GB/s{gigaops:>7.0} GOP/s{share:>4.0} %");
            }
            println!();
        }
    }
    Ok(())
}
