//! A row's result depends on that row (for attention: its sequence) alone, bit for bit: whatever stands beside it, however
//! many threads run, whichever instruction set they use.

use rustllm_cpu::{CpuBackend, CpuOptions, Isa, available_isas};
use rustllm_ops::conformance::{
    AttentionCase, FORMATS, LmHeadCase, attention_table, bits, encoder_table, lm_head_table, moe_table, numbers,
    random_tensor, random_weight, rows_of,
};
use rustllm_ops::{Activation, Backend, DType, Result, RopeTable, Tensor};

type Op<'a> = Box<dyn Fn(Tensor, &[u32]) -> Result<Tensor> + 'a>;

/// Every instruction set with one and with several threads.
fn backends() -> Vec<CpuBackend> {
    let with = |isa, threads| CpuBackend::new(CpuOptions { num_threads: Some(threads), isa: Some(isa) });
    let all = available_isas().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]);
    all.map(|(isa, threads)| with(isa, threads).expect("an available set")).collect()
}

/// Runs an op on a batch and on each of its rows alone, on every backend: all bits must be equal.
///
/// `prepare` makes the op for a backend, with the weights it needs; the op is given the positions of its rows in the batch.
/// `exact` says whether the instruction set computes the same bits as the others.
fn check(name: &str, cols: usize, exact: impl Fn(Isa) -> bool, prepare: impl Fn(&CpuBackend) -> Result<Op<'_>>) {
    // Batches around the sizes of register tiles, of widening and of row cuts.
    let sizes = [1, 2, 3, 5, 6, 7, 12, 13, 16, 25, 33, 130];
    let all = numbers(130 * cols, 99);
    let mut want: Option<Vec<Vec<u32>>> = None;
    for backend in backends() {
        let op = prepare(&backend).expect("memory");
        let run = |first: usize, rows: usize| {
            let x = backend.tensor(&all[first * cols..(first + rows) * cols], rows, cols).expect("memory");
            let positions: Vec<u32> = (first as u32..(first + rows) as u32).collect();
            bits(rows_of(&backend, &op(x, &positions).expect("the op works")).expect("rows"))
        };
        let alone: Vec<_> = (0..130).flat_map(|row| run(row, 1)).collect();
        for rows in sizes {
            let first = (130 - rows) / 2;
            let same = run(first, rows) == alone[first..first + rows];
            assert!(same, "{name}: {rows} rows on {} with {} threads", backend.isa(), backend.num_threads());
        }
        if exact(backend.isa()) {
            let want = want.get_or_insert_with(|| alone.clone());
            assert!(*want == alone, "{name}: {} with {} threads", backend.isa(), backend.num_threads());
        }
    }
}

#[test]
fn linear() {
    for format in FORMATS {
        for (k, n) in [(1, 3), (515, 70), (64, 1100), (1040, 33)] {
            let exact = |isa| !(isa == Isa::Avx512Bf16 && format == DType::BF16.into());
            check(&format!("linear {format} [{n}, {k}]"), k, exact, |backend| {
                let weight = random_weight(backend, n, k, format, 1)?;
                let bias = random_tensor(backend, 1, n, 2)?;
                Ok(Box::new(move |x, _| backend.linear(&x, &weight, Some(&bias))))
            });
        }
    }
}

#[test]
fn moe_does_not_depend_on_which_rows_share_an_expert() {
    for case in moe_table() {
        let exact = |isa| !(isa == Isa::Avx512Bf16 && case.format == DType::BF16.into());
        check(&format!("{case:?}"), case.sizes.0, exact, |backend| {
            let experts = case.load(backend)?;
            Ok(Box::new(move |x, positions| {
                let routing = case.routing(backend, positions[0] as usize, positions.len())?;
                backend.moe(&x, &routing, &experts, case.activation)
            }))
        });
    }
}

#[test]
fn fused_linear() {
    for format in FORMATS {
        for (k, n) in [(515, 48), (64, 23), (130, 1104)] {
            let exact = |isa| !(isa == Isa::Avx512Bf16 && format == DType::BF16.into());
            check(&format!("gated_linear {format} [2 x {n}, {k}]"), k, exact, |backend| {
                let weight = random_weight(backend, 2 * n, k, format, 1)?;
                let bias = random_tensor(backend, 1, 2 * n, 2)?;
                Ok(Box::new(move |x, _| backend.gated_linear(&x, &weight, Some(&bias), Activation::Silu)))
            });
            check(&format!("activated_linear {format} [2 x {n}, {k}]"), k, exact, |backend| {
                let weight = random_weight(backend, 2 * n, k, format, 1)?;
                let bias = random_tensor(backend, 1, 2 * n, 2)?;
                Ok(Box::new(move |x, _| backend.activated_linear(&x, &weight, Some(&bias), Activation::Gelu)))
            });
        }
    }
}

#[test]
fn lm_head_is_the_ops_it_is_made_of_whichever_rows_leave_logits() {
    for case in lm_head_table() {
        for backend in backends() {
            let (params, hidden) = (case.params(&backend).unwrap(), case.hidden(&backend).unwrap());
            let mut logits = backend.linear(&hidden, &params.weight, params.bias.as_ref()).unwrap();
            backend.scale(&mut logits, params.multiplier).unwrap();
            if let Some(cap) = params.soft_cap {
                backend.soft_cap(&mut logits, cap).unwrap();
            }
            let read = |x: &Tensor| bits(rows_of(&backend, x).unwrap());
            let (want, largest) = (read(&logits), read(&backend.argmax(&logits).unwrap()));
            for num_logits in [0, case.rows / 2, case.rows] {
                let got = backend.lm_head(&hidden, &params, num_logits).unwrap();
                let what = format!("{num_logits} logits on {}, {case:?}", backend.isa());
                assert!(read(&got.logits) == want[..num_logits], "{what}");
                assert!(read(&got.argmax) == largest[num_logits..], "{what}");
            }
        }
    }
}

#[test]
fn lm_head_of_a_row_does_not_depend_on_the_batch() {
    for format in FORMATS {
        let case = LmHeadCase {
            rows: 1,
            hidden_size: 70,
            vocab_size: 1100,
            format,
            bias: true,
            multiplier: 0.5,
            soft_cap: Some(8.0),
        };
        let exact = |isa| !(isa == Isa::Avx512Bf16 && format == DType::BF16.into());
        check(&format!("lm_head {format}"), case.hidden_size, exact, |backend| {
            let params = case.params(backend)?;
            Ok(Box::new(move |x, _| Ok(backend.lm_head(&x, &params, 0)?.argmax)))
        });
    }
}

#[test]
fn norms() {
    let cols = 1029;
    check(
        "rms_norm",
        cols,
        |_| true,
        |backend| {
            let weight = random_tensor(backend, 1, cols, 3)?;
            Ok(Box::new(move |x, _| backend.rms_norm(&x, &weight, 1e-6)))
        },
    );
    check(
        "rms_norm of heads",
        cols,
        |_| true,
        |backend| {
            let weight = random_tensor(backend, 1, cols / 7, 3)?;
            Ok(Box::new(move |x, _| backend.rms_norm(&x, &weight, 1e-6)))
        },
    );
    check(
        "layer_norm",
        cols,
        |_| true,
        |backend| {
            let (weight, bias) = (random_tensor(backend, 1, cols, 3)?, random_tensor(backend, 1, cols, 4)?);
            Ok(Box::new(move |x, _| backend.layer_norm(&x, &weight, Some(&bias), 1e-5)))
        },
    );
}

#[test]
fn fused_norms_are_the_ops_they_are_made_of() {
    let cols = 1029;
    for backend in backends() {
        let inputs = || -> Result<_> {
            let residual = random_tensor(&backend, 17, cols, 6)?;
            let (weight, bias) = (random_tensor(&backend, 1, cols, 3)?, random_tensor(&backend, 1, cols, 4)?);
            Ok((random_tensor(&backend, 17, cols, 5)?, residual, weight, bias))
        };
        let read = |x: &Tensor| bits(rows_of(&backend, x).unwrap());
        let (x, mut fused, weight, bias) = inputs().unwrap();
        let (_, mut plain, ..) = inputs().unwrap();
        let rms = backend.add_rms_norm(&x, &mut fused, &weight, 1e-6).unwrap();
        backend.add_assign(&mut plain, &x).unwrap();
        assert!(read(&fused) == read(&plain));
        assert!(read(&rms) == read(&backend.rms_norm(&plain, &weight, 1e-6).unwrap()));
        let layer = backend.add_layer_norm(&x, &mut fused, &weight, Some(&bias), 1e-5).unwrap();
        backend.add_assign(&mut plain, &x).unwrap();
        assert!(read(&layer) == read(&backend.layer_norm(&plain, &weight, Some(&bias), 1e-5).unwrap()));
    }
}

#[test]
fn elementwise() {
    let cols = 1030;
    for activation in Activation::ALL {
        let name = format!("{activation:?}");
        check(&name, cols, |_| true, |backend| Ok(Box::new(move |x, _| backend.activation(&x, activation))));
        let name = format!("gated {activation:?}");
        check(&name, cols, |_| true, |backend| Ok(Box::new(move |x, _| backend.gated_activation(&x, activation))));
    }
    check(
        "add_assign",
        cols,
        |_| true,
        |backend| {
            Ok(Box::new(|mut x, _| {
                let y = x.clone();
                backend.add_assign(&mut x, &y)?;
                Ok(x)
            }))
        },
    );
    check(
        "mul_assign",
        cols,
        |_| true,
        |backend| {
            Ok(Box::new(|mut x, _| {
                let y = x.clone();
                backend.mul_assign(&mut x, &y)?;
                Ok(x)
            }))
        },
    );
}

#[test]
fn rotary() {
    check(
        "rotary",
        5 * 72,
        |_| true,
        |backend| {
            let rope = RopeTable::unscaled(backend, 130, 48, 10_000.0)?;
            Ok(Box::new(move |mut x, positions| {
                backend.rotary(&mut x, &rope, &backend.indices(positions.to_vec())?, 72)?;
                Ok(x)
            }))
        },
    );
}

#[test]
fn attention_does_not_depend_on_chunks_blocks_or_threads() {
    for case in attention_table() {
        // Past the first boundary of what a softmax is taken over at once, where the table's own sequences are.
        let longest = case.seqs.iter().map(|(cached, new)| cached + new).max().unwrap();
        let len: usize = if longest > 200 { 300 } else { 150 };
        let blocks = len.div_ceil(case.block_size) as u32;
        let (forward, backward): (Vec<u32>, Vec<u32>) = ((0..blocks).collect(), (0..blocks).rev().collect());
        let mut want = None;
        for backend in backends() {
            let run = |chunks: &[usize], table: &[u32]| bits(case.in_chunks(&backend, chunks, table).unwrap());
            let whole = run(&[len], &forward);
            assert!(whole == run(&[len], &backward), "blocks, {case:?}");
            assert!(whole == run(&[1, 15, 1, 40, 3, 64, 25, len - 149], &forward), "chunks, {case:?}");
            let want = want.get_or_insert_with(|| whole.clone());
            assert!(*want == whole, "{} with {} threads, {case:?}", backend.isa(), backend.num_threads());
            // The size of blocks is a matter of memory only.
            let doubled = AttentionCase { block_size: 2 * case.block_size, ..case.clone() };
            let doubled = bits(doubled.in_chunks(&backend, &[len], &forward).unwrap());
            assert!(whole == doubled, "block size, {case:?}");
        }
    }
}

#[test]
fn attention_of_a_sequence_does_not_depend_on_the_batch() {
    for case in attention_table() {
        for backend in backends() {
            let together = bits(case.outputs(&backend).unwrap());
            for seq in 0..case.seqs.len() {
                let (rows, alone) = case.alone(seq);
                let alone = bits(alone.outputs(&backend).unwrap());
                assert!(alone[seq..seq + rows.len()] == together[rows], "sequence {seq}, {case:?}");
            }
        }
    }
}

#[test]
fn encoder_attention_of_a_sequence_does_not_depend_on_the_batch_or_threads() {
    for case in encoder_table() {
        let mut want = None;
        for backend in backends() {
            let together = bits(case.outputs(&backend).unwrap());
            for seq in 0..case.seqs.len() {
                let (rows, alone) = case.alone(seq);
                let alone = bits(alone.outputs(&backend).unwrap());
                assert!(alone == together[rows], "sequence {seq}, {case:?}");
            }
            let want = want.get_or_insert_with(|| together.clone());
            assert!(*want == together, "{} with {} threads, {case:?}", backend.isa(), backend.num_threads());
        }
    }
}
