//! Recorded work does what it did when it was recorded, with the numbers it is launched with.

mod support;

use rustllm_cuda::CudaBackend;
use rustllm_ops::conformance::{random_tensor, random_weight, rows_of};
use rustllm_ops::{Backend, DType, Error, Indices, Result, Tensor, Weight};
use support::backend;

struct Model {
    table: Weight,
    norm: Tensor,
}

impl Model {
    fn new(backend: &CudaBackend) -> Self {
        let table = random_weight(backend, 50, 40, DType::BF16, 1).expect("memory");
        Self { table, norm: random_tensor(backend, 1, 40, 2).expect("memory") }
    }

    /// Rows of the table, normed, those that `rows` names.
    fn forward(&self, backend: &CudaBackend, ids: &Indices, rows: &Indices) -> Result<Tensor> {
        let mut x = backend.embedding(ids, &self.table)?;
        backend.scale(&mut x, 3.0)?;
        backend.gather_rows(&backend.rms_norm(&x, &self.norm, 1e-5)?, rows)
    }
}

#[test]
fn computes_with_the_numbers_of_each_launch() {
    let backend = backend();
    let model = Model::new(&backend);
    let eager = |ids: &[u32], rows: &[u32]| {
        let (ids, rows) = (backend.indices(ids.to_vec()).unwrap(), backend.indices(rows.to_vec()).unwrap());
        rows_of(&backend, &model.forward(&backend, &ids, &rows).unwrap()).unwrap()
    };
    let mut work = |inputs: &[Indices]| Ok(vec![model.forward(&backend, &inputs[0], &inputs[1])?]);
    let mut capture = || backend.graphs().unwrap().capture(vec![vec![0; 3], vec![0; 2]], &mut work).unwrap();
    let (graph, results) = capture();
    let (twin, of_twin) = capture();
    for (ids, rows) in [([1, 2, 3], [0, 2]), ([49, 0, 7], [1, 1]), ([1, 2, 3], [2, 0])] {
        // Ops between launches take other memory than the graph's.
        let want = eager(&ids, &rows);
        graph.launch(&[&ids, &rows]).unwrap();
        let other = eager(&[4, 5, 6], &[0, 1]);
        assert_eq!(rows_of(&backend, &results[0]).unwrap(), want);
        assert_ne!(other, want);
        twin.launch(&[&[8, 9, 10], &[0, 1]]).unwrap();
        assert_eq!(rows_of(&backend, &of_twin[0]).unwrap(), eager(&[8, 9, 10], &[0, 1]));
    }
    let error = graph.launch(&[&[1, 2], &[0, 0]]).unwrap_err().to_string();
    assert!(error.contains("lists of [2, 2], captured with [3, 2]"), "{error}");
}

#[test]
fn refuses_to_record_what_would_not_be_the_same_again() {
    let backend = backend();
    let mut uploads = |_: &[Indices]| backend.indices(vec![1]).map(|_| Vec::new());
    let error = backend.graphs().unwrap().capture(vec![vec![0]], &mut uploads).unwrap_err();
    assert!(matches!(&error, Error::Backend { message, .. } if message.contains("cannot be recorded")), "{error}");
    assert!(backend.indices(vec![1]).is_ok(), "the device works on");
}
