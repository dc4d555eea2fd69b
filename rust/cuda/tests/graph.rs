//! Recorded work does what it did when it was recorded, with the numbers it is launched with.

mod support;

use rustllm_cuda::CudaBackend;
use rustllm_ops::conformance::{random_tensor, random_weight, rows_of};
use rustllm_ops::{Backend, DType, Error, Indices, NO_ROW, Result, Tensor, Weight};
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

#[test]
fn tokens_go_from_launch_to_launch_on_the_device() {
    let backend = backend();
    let graphs = backend.graphs().unwrap();
    let table = random_weight(&backend, 50, 40, DType::BF16, 1).unwrap();
    let tokens_of = |ids: &Indices| backend.argmax(&backend.embedding(ids, &table)?);
    let eager = |ids: &[u32]| rows_of(&backend, &tokens_of(&backend.indices(ids.to_vec())?)?);
    let latest = backend.tensor(&[0.0; 6], 3, 2).unwrap();
    let mut work = |inputs: &[Indices]| {
        let tokens = tokens_of(&graphs.chained_ids(&inputs[0], &inputs[1], &latest)?)?;
        graphs.keep(&tokens, &latest)?;
        Ok(vec![tokens])
    };
    let (graph, results) = graphs.capture(vec![vec![0; 3], vec![0; 3]], &mut work).unwrap();
    let mut readers = [graphs.reader(6).unwrap(), graphs.reader(6).unwrap()];
    // The middle row's ids are given, the other two rows go on with each other's tokens.
    let (mut ids, sources) = (vec![3, 17, 41], [[NO_ROW; 3], [2, NO_ROW, 0], [2, NO_ROW, 0]]);
    for (step, rows) in sources.iter().enumerate() {
        // A step is launched before the tokens of the one before it are looked at.
        graph.launch(&[if step == 0 { &[3, 17, 41] } else { &[0, 17, 0] }, rows]).unwrap();
        readers[step % 2].start(&results[0]).unwrap();
        if step > 0 {
            let tokens = eager(&ids).unwrap();
            assert_eq!(readers[1 - step % 2].wait().unwrap(), tokens.concat(), "step {}", step - 1);
            ids = vec![tokens[2][0] as u32, 17, tokens[0][0] as u32];
        }
    }
    assert_eq!(readers[0].wait().unwrap(), eager(&ids).unwrap().concat());
    let error = readers[0].start(&backend.tensor(&[0.0; 8], 4, 2).unwrap()).unwrap_err().to_string();
    assert!(error.contains("[4, 2] in memory for 6 numbers"), "{error}");
}
