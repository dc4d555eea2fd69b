//! Every op against the reference, and against itself when a block's threads run in another order.
//!
//! The device is the simulator; with `RUSTLLM_TEST_GPU=1` it is the machine's GPU. `RUSTLLM_TEST_CASES=attention` takes the cases
//! alone whose names have `attention` in them.

mod support;

use rustllm_cuda::LAUNCHES;
use rustllm_cuda_simulator as simulator;
use rustllm_ops::conformance::{Case, bits, cases, rows_of};
use rustllm_ops::{Backend, DType, HostMatrix, WeightFormat};
use support::backend;

/// The cases asked for. On a GPU each is named before it runs, for a kernel may never end there.
fn chosen_cases() -> impl Iterator<Item = Case> {
    let wanted = std::env::var("RUSTLLM_TEST_CASES").unwrap_or_default();
    cases().into_iter().filter(move |case| case.name().contains(&wanted)).inspect(|case| {
        if simulator::on_gpu() {
            eprintln!("{}", case.name());
        }
    })
}

#[test]
fn every_op_agrees_with_the_reference() {
    let backend = backend();
    let failures: Vec<String> =
        chosen_cases().filter_map(|case| case.check(&backend).err()).map(|error| error.to_string()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_order_of_threads_changes_no_bit() {
    let backend = backend();
    for case in chosen_cases() {
        let mut results = simulator::SCHEDULES.map(|schedule| {
            if !simulator::on_gpu() {
                simulator::set_schedule(schedule);
            }
            bits(case.outputs(&backend).unwrap_or_else(|error| panic!("{}: {error}", case.name())))
        });
        let want = results[0].clone();
        assert!(results.iter_mut().all(|result| *result == want), "{}", case.name());
    }
}

/// Rows of a weight that reaches the device in several copies, and is decoded in several parts.
#[test]
fn large_weights_arrive_whole() {
    let backend = backend();
    let (rows, cols) = (18_000, 1_000);
    let bytes: Vec<u8> = (0..rows * cols).flat_map(|i| ((i % 8191) as f32).to_le_bytes()).collect();
    let ids = [0, 8_388, 8_389, 16_777, rows - 1];
    for format in [WeightFormat::from(DType::F32), DType::F16.into()] {
        let matrix = HostMatrix::new(DType::F32, rows, cols, &bytes).unwrap();
        let table = backend.load_weight(&[matrix], format).unwrap();
        let wanted = backend.indices(ids.iter().map(|id| *id as u32).collect()).unwrap();
        let got = rows_of(&backend, &backend.embedding(&wanted, &table).unwrap()).unwrap();
        for (id, got) in ids.iter().zip(got) {
            let kept = if format == DType::F16.into() { DType::F16 } else { DType::F32 };
            let want: Vec<f32> = (id * cols..(id + 1) * cols).map(|i| kept.round((i % 8191) as f32)).collect();
            assert_eq!(got, want, "row {id} of a {format} weight");
        }
    }
}

#[test]
fn kernels_take_the_arguments_they_are_launched_with() {
    // What they take is asked of the simulator's own.
    if simulator::on_gpu() {
        return;
    }
    for launch in LAUNCHES {
        let arguments = simulator::arguments(launch.entry);
        assert_eq!(arguments.as_deref(), Some(launch.argument_bytes), "{} of {}.cu", launch.entry, launch.file);
    }
    let launched: Vec<&str> = LAUNCHES.iter().map(|launch| launch.entry).collect();
    let unused: Vec<String> =
        simulator::kernels().into_iter().filter(|kernel| !launched.contains(&kernel.as_str())).collect();
    assert_eq!(unused, [""; 0], "kernels that nothing launches");
}
