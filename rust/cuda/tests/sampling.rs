//! Tokens, masks and log-probabilities on the device, against a sampler that sorts and adds in the plainest way there is.
//!
//! The device is the simulator; with `RUSTLLM_TEST_GPU=1` it is the machine's GPU.

mod support;

use rustllm_cuda::CudaBackend;
use rustllm_cuda_simulator as simulator;
use rustllm_ops::conformance::{numbers, rows_of};
use rustllm_ops::{
    Backend, DeviceSampler, Error, Indices, LogitsEdits, LogprobsRequest, Penalties, SamplingRow, Tensor,
};
use support::backend;

const INFINITY: f32 = f32::INFINITY;

/// Rows of logits from -8 to 8, in steps of an eighth where `coarse`, so that many are equal.
fn logits(rows: usize, vocab_size: usize, coarse: bool) -> Vec<f32> {
    let values = numbers(rows * vocab_size, 5).into_iter().map(|value| 8.0 * value);
    // Without -0, which the plain sampler would sort behind 0.
    values.map(|value| if coarse { (8.0 * value).round() / 8.0 + 0.0 } else { value }).collect()
}

/// The token of every row, and its logit.
fn drawn(backend: &CudaBackend, logits: &Tensor, rows: &[SamplingRow]) -> Vec<(u32, f32)> {
    let rows = backend.indices(SamplingRow::pack(rows)).expect("memory");
    let drawn = rows_of(backend, &backend.sample(logits, &rows).expect("the op works")).expect("rows");
    drawn.iter().map(|row| (row[0] as u32, row[1])).collect()
}

/// Philox4x32-10, as a number from 0 to 1.
fn uniform(seed: u64, position: u64) -> f64 {
    let mut counter = [position as u32, (position >> 32) as u32, 0, 0];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let left = 0xD251_1F53 * u64::from(counter[0]);
        let right = 0xCD9E_8D57 * u64::from(counter[2]);
        let high = |wide: u64| (wide >> 32) as u32;
        counter = [high(right) ^ counter[1] ^ key[0], right as u32, high(left) ^ counter[3] ^ key[1], left as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    ((u64::from(counter[0]) | u64::from(counter[1]) << 32) >> 11) as f64 / (1u64 << 53) as f64
}

/// The token of a row by sorting all of it.
fn plain(row: &[f32], params: &SamplingRow) -> u32 {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
    if params.inverse_temperature == 0.0 {
        return order[0] as u32;
    }
    if params.top_k > 0 && (params.top_k as usize) < row.len() {
        let last = row[order[params.top_k as usize - 1]];
        order.retain(|token| row[*token] >= last);
    }
    let largest = f64::from(row[order[0]]);
    let weight = |token: usize| ((f64::from(row[token]) - largest) * f64::from(params.inverse_temperature)).exp();
    order.retain(|token| weight(*token) >= f64::from(params.min_p));
    let total: f64 = order.iter().map(|token| weight(*token)).sum();
    let mut before = 0.0;
    order.retain(|token| {
        let is_kept = params.top_p >= 1.0 || before < f64::from(params.top_p) * total;
        before += weight(*token);
        is_kept
    });
    order.sort_unstable();
    let target = uniform(params.seed, params.position) * order.iter().map(|token| weight(*token)).sum::<f64>();
    let mut running = 0.0;
    let token = order.iter().find(|token| {
        running += weight(**token);
        running > target
    });
    *token.or(order.last()).expect("a token") as u32
}

/// Parameters of every kind for rows of a vocabulary.
fn params(vocab_size: usize) -> Vec<SamplingRow> {
    let mut rows = Vec::new();
    for inverse_temperature in [0.0, 0.5, 1.0, 1.0 / 0.7] {
        for top_k in [0, 1, 7, vocab_size as u32 / 2, vocab_size as u32] {
            for (top_p, min_p) in [(1.0, 0.0), (0.9, 0.0), (0.3, 0.0), (1.0, 0.1), (0.6, 0.02), (1e-6, 0.0)] {
                let position = 1000 + rows.len() as u64;
                rows.push(SamplingRow {
                    seed: 0x1234_5678_9abc_def0,
                    position,
                    inverse_temperature,
                    top_p,
                    min_p,
                    top_k,
                });
            }
        }
    }
    rows
}

#[test]
fn tokens_are_those_of_a_sampler_that_sorts() {
    let backend = backend();
    for (vocab_size, coarse) in [(5, true), (128, false), (700, true), (1300, false), (9000, false)] {
        // A large vocabulary takes the simulator a while.
        let rows: Vec<SamplingRow> = params(vocab_size).into_iter().step_by(1 + vocab_size / 1000).collect();
        let logits = logits(rows.len(), vocab_size, coarse);
        let on_device = backend.tensor(&logits, rows.len(), vocab_size).expect("memory");
        let tokens = drawn(&backend, &on_device, &rows);
        for ((row, params), token) in logits.chunks(vocab_size).zip(&rows).zip(tokens) {
            let plain = plain(row, params);
            assert_eq!(token, (plain, row[plain as usize]), "{params:?} of {vocab_size}");
        }
    }
}

#[test]
fn a_token_depends_neither_on_other_rows_nor_on_the_order_of_threads() {
    let backend = backend();
    let vocab_size = 700;
    let rows: Vec<SamplingRow> = params(vocab_size).into_iter().step_by(5).collect();
    let logits = logits(rows.len(), vocab_size, false);
    let together = drawn(&backend, &backend.tensor(&logits, rows.len(), vocab_size).expect("memory"), &rows);
    for schedule in simulator::SCHEDULES {
        if !simulator::on_gpu() {
            simulator::set_schedule(schedule);
        }
        for (i, row) in logits.chunks(vocab_size).enumerate() {
            let alone = drawn(&backend, &backend.tensor(row, 1, vocab_size).expect("memory"), &rows[i..=i]);
            assert_eq!(alone[0], together[i], "row {i}, schedule {schedule}");
        }
    }
}

#[test]
fn rows_without_a_distribution_say_so() {
    let backend = backend();
    let vocab_size = 300;
    let mut values = logits(4, vocab_size, false);
    values[..vocab_size].fill(-INFINITY);
    values[vocab_size + 200] = f32::NAN;
    values[vocab_size + 250] = INFINITY;
    values[2 * vocab_size + 130] = INFINITY;
    values[3 * vocab_size..].fill(-INFINITY);
    values[3 * vocab_size + 17] = -3.0;
    for inverse_temperature in [0.0, 1.0] {
        let row = SamplingRow { seed: 1, position: 2, inverse_temperature, top_p: 0.5, min_p: 0.0, top_k: 20 };
        let tokens = drawn(&backend, &backend.tensor(&values, 4, vocab_size).expect("memory"), &[row; 4]);
        assert_eq!(tokens[0], (0, -INFINITY));
        assert!(tokens[1].0 == 200 && tokens[1].1.is_nan());
        assert_eq!(tokens[2], (130, INFINITY));
        assert_eq!(tokens[3], (17, -3.0));
    }
}

#[test]
fn parameters_are_no_part_of_what_is_recorded() {
    let backend = backend();
    let vocab_size = 300;
    let logits = backend.tensor(&logits(3, vocab_size, false), 3, vocab_size).expect("memory");
    let mut work = |inputs: &[Indices]| Ok(vec![backend.sample(&logits, &inputs[0])?]);
    let (graph, results) = backend
        .graphs()
        .expect("it has")
        .capture(vec![SamplingRow::pack(&[SamplingRow::GREEDY; 3])], &mut work)
        .expect("works");
    for rows in params(vocab_size).as_chunks::<3>().0.iter().step_by(7) {
        graph.launch(&[&SamplingRow::pack(rows)]).expect("works");
        let replayed = rows_of(&backend, &results[0]).expect("rows");
        let replayed: Vec<(u32, f32)> = replayed.iter().map(|row| (row[0] as u32, row[1])).collect();
        assert_eq!(replayed, drawn(&backend, &logits, rows), "{rows:?}");
    }
}

#[test]
fn another_number_of_rows_is_refused() {
    let backend = backend();
    let logits = backend.tensor(&[1.0; 8], 2, 4).expect("memory");
    let rows = backend.indices(SamplingRow::pack(&[SamplingRow::GREEDY; 3])).expect("memory");
    assert!(matches!(backend.sample(&logits, &rows), Err(Error::Shape { op: "sample", .. })));
    let edits = vec![LogitsEdits::default(); 1];
    assert!(matches!(backend.edit_logits(&logits, &edits), Err(Error::Shape { op: "edit_logits", .. })));
    let refused = backend.logprobs(&logits, &[LogprobsRequest { row: 2, token_id: 0 }], 1);
    assert!(matches!(refused, Err(Error::Shape { op: "logprobs", .. })));
}

#[test]
fn edits_are_made_in_order_and_stay_finite() {
    let backend = backend();
    let logits =
        backend.tensor(&[1.0, -2.0, 3.0, 0.0, 1.0, -2.0, 3.0, 0.0, -INFINITY, 2.0, 3e38, 1.0], 3, 4).expect("memory");
    let counts = vec![(0, 0), (1, 2), (2, 1), (9, 1)];
    let penalties = Penalties { repetition: 2.0, frequency: 0.5, presence: 0.25, counts };
    let edits = [
        LogitsEdits { penalties: Some(penalties), ..LogitsEdits::default() },
        LogitsEdits { allowed: Some(&[1, 2, 3, 70]), banned: vec![3], bias: &[(0, 5.0), (2, 1.0)], penalties: None },
        LogitsEdits { bias: &[(0, 100.0), (2, 3e38)], ..LogitsEdits::default() },
    ];
    let rows = rows_of(&backend, &backend.edit_logits(&logits, &edits).expect("the op works")).expect("rows");
    assert_eq!(rows[0], [0.5, -5.25, 0.75, 0.0]);
    assert_eq!(rows[1], [-INFINITY, -2.0, 4.0, -INFINITY]);
    assert_eq!(rows[2], [-INFINITY, 2.0, f32::MAX, 1.0]);
}

#[test]
fn no_edit_hides_what_is_no_logit() {
    let backend = backend();
    let logits = backend.tensor(&[f32::NAN, INFINITY, 1.0, f32::NAN, INFINITY, 1.0], 2, 3).expect("memory");
    let penalties = Penalties { repetition: 2.0, frequency: 0.5, presence: 0.25, counts: vec![(0, 1), (1, 1)] };
    let edits = [
        LogitsEdits { allowed: Some(&[2]), banned: vec![0, 1], ..LogitsEdits::default() },
        LogitsEdits { bias: &[(0, 1.0), (1, -1.0)], penalties: Some(penalties), ..LogitsEdits::default() },
    ];
    for row in rows_of(&backend, &backend.edit_logits(&logits, &edits).expect("the op works")).expect("rows") {
        assert!(row[0].is_nan() && row[1..] == [INFINITY, 1.0], "{row:?}");
    }
}

#[test]
fn logprobs_are_of_the_token_and_of_the_likeliest() {
    let backend = backend();
    for (vocab_size, top) in [(3, 20), (700, 0), (700, 20), (700, 650), (9000, 5)] {
        let values = logits(2, vocab_size, true);
        let on_device = backend.tensor(&values, 2, vocab_size).expect("memory");
        let request = LogprobsRequest { row: 1, token_id: 2 };
        let reported = backend.logprobs(&on_device, &[request], top).expect("the op works");
        let reported = &reported[0];
        let row = &values[vocab_size..];
        let largest = row.iter().copied().fold(-INFINITY, f32::max);
        let total: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        assert!((reported.total / total - 1.0).abs() < 1e-6);
        assert_eq!((reported.largest, reported.logit), (largest, row[2]));
        assert_eq!(reported.rank as usize, 1 + row.iter().filter(|logit| **logit > row[2]).count());
        let mut order: Vec<u32> = (0..vocab_size as u32).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        let likeliest: Vec<(u32, f32)> = order.iter().take(top).map(|token| (*token, row[*token as usize])).collect();
        assert_eq!(reported.likeliest, likeliest, "{top} of {vocab_size}");
    }
    for (logit, largest) in [(-INFINITY, -INFINITY), (f32::NAN, INFINITY)] {
        let row = backend.tensor(&[logit; 200], 1, 200).expect("memory");
        let reported = backend.logprobs(&row, &[LogprobsRequest { row: 0, token_id: 0 }], 3).expect("the op works");
        assert_eq!(reported[0].largest, largest);
    }
}

#[test]
fn argmax_is_the_first_of_the_largest() {
    let backend = backend();
    for cols in [1, 33, 700, 20000] {
        let mut values = logits(4, cols, true);
        values[cols..2 * cols].fill(-INFINITY);
        values[2 * cols..3 * cols].fill(-0.0);
        values[3 * cols - 1] = 0.0;
        values[4 * cols - 1] = f32::NAN;
        let rows =
            rows_of(&backend, &backend.argmax(&backend.tensor(&values, 4, cols).expect("memory")).expect("works"));
        let rows = rows.expect("rows");
        let largest = values[..cols].iter().copied().fold(-INFINITY, f32::max);
        let first = values[..cols].iter().position(|value| *value == largest).expect("an element");
        assert_eq!(rows[0], [first as f32, largest]);
        assert_eq!((&rows[1][..], rows[2][0]), (&[0.0, -INFINITY][..], 0.0));
        assert!(rows[3][0] == (cols - 1) as f32 && rows[3][1].is_nan());
    }
}
