//! CUDA graphs: the launches of a step recorded once, and launched together from then on.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags as Instantiate, CUstreamCaptureMode as Mode};
use rustllm_ops::{CapturedGraph, Error, Graphs, Indices, Result, RowReader, Tensor, Work};

use crate::CudaBackend;
use crate::buffer::Buffer;
use crate::chain::{self, PinnedReader};
use crate::device::Device;
use crate::error::op_error;
use crate::memory::DeviceMemory;
use crate::pinned::Pinned;
use crate::view::buffer_of;

/// Elements that a list's place is a multiple of: places start on 256 bytes.
const GRANULE: usize = 64;

impl Graphs for CudaBackend {
    fn capture(&self, inputs: Vec<Vec<u32>>, work: Work<'_>) -> Result<(Box<dyn CapturedGraph>, Vec<Tensor>)> {
        let places = Inputs::new(&self.device, &inputs)?;
        let indices = places.indices(self.id, inputs);
        let stream = self.device.stream();
        let refused = op_error("record work");
        // Relaxed: only this thread's stream is captured, and the arena may still ask for memory.
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED).map_err(&refused)?;
        self.arenas().capturing = true;
        let worked = work(&indices);
        self.arenas().capturing = false;
        let graph = stream.end_capture(Instantiate::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        // The graph keeps what it computes in, but not from other graphs.
        let results = worked?.iter().map(|result| self.borrowed(result)).collect::<Result<_>>()?;
        let graph = graph
            .map_err(&refused)?
            .ok_or_else(|| Error::Backend { backend: crate::NAME, message: "no work was recorded".into() })?;
        graph.upload().map_err(&refused)?;
        let captured =
            Captured { device: Arc::clone(&self.device), state: Mutex::new(State { graph, inputs: places }) };
        Ok((Box::new(captured), results))
    }

    fn chained_ids(&self, ids: &Indices, rows: &Indices, tokens: &Tensor) -> Result<Indices> {
        chain::chained_ids(self, ids, rows, tokens)
    }

    fn keep(&self, tokens: &Tensor, to: &Tensor) -> Result<()> {
        chain::keep(self, tokens, to)
    }

    fn reader(&self, most: usize) -> Result<Box<dyn RowReader>> {
        Ok(Box::new(PinnedReader::new(&self.device, self.id, most)?))
    }
}

impl CudaBackend {
    /// The tensor without its claim on the arena's buffer, which is kept from being freed and not from being used again.
    fn borrowed(&self, x: &Tensor) -> Result<Tensor> {
        let buffer = buffer_of(x, self.id)?;
        Ok(x.with_storage(Arc::new(Buffer::sharing(buffer))))
    }
}

/// The places of a graph's lists, one after another, on the device and in page-locked memory of the host.
struct Inputs {
    device: Arc<DeviceMemory>,
    /// Where each list starts, and its length, in elements.
    places: Vec<(usize, usize)>,
    staging: Pinned<u32>,
}

impl Inputs {
    fn new(device: &Device, lists: &[Vec<u32>]) -> Result<Self> {
        let mut len = 0;
        let mut places = Vec::with_capacity(lists.len());
        for list in lists {
            places.push((len, list.len()));
            len += list.len().next_multiple_of(GRANULE);
        }
        let memory = device.alloc(&[len, size_of::<u32>()], "a graph's inputs")?;
        Ok(Self { device: Arc::new(memory), places, staging: Pinned::new(device, len)? })
    }

    /// The places as indices, whose host copies are `values`.
    fn indices(&self, backend: u64, values: Vec<Vec<u32>>) -> Vec<Indices> {
        let part = |(start, len): (usize, usize)| {
            Arc::new(Buffer::part(&self.device, start * size_of::<u32>(), len * size_of::<u32>(), backend))
        };
        let places = values.into_iter().zip(&self.places);
        places.map(|(values, place)| Indices::with_device(values, part(*place))).collect()
    }

    /// Sends other numbers to the places, before what is launched next.
    fn write(&mut self, device: &Device, values: &[&[u32]]) -> Result<()> {
        let lens = || values.iter().map(|values| values.len());
        if !lens().eq(self.places.iter().map(|(_, len)| *len)) {
            let expected: Vec<usize> = self.places.iter().map(|(_, len)| *len).collect();
            let detail = format!("lists of {:?}, captured with {expected:?}", lens().collect::<Vec<_>>());
            return Err(Error::Shape { op: "launch", detail });
        }
        let staging = self.staging.elements()?;
        for (values, (start, len)) in values.iter().zip(&self.places) {
            staging[*start..*start + *len].copy_from_slice(values);
        }
        // SAFETY: the device's memory was made as long as the staging memory.
        unsafe { self.staging.send(device, self.staging.len(), self.device.address()) }
    }
}

struct State {
    graph: CudaGraph,
    inputs: Inputs,
}

// SAFETY: the graph's handles belong to no thread; the mutex they are kept in lets one thread use them at a time.
unsafe impl Send for State {}

/// Recorded launches, their inputs and the device they run on, which has the kernels and goes last.
struct Captured {
    state: Mutex<State>,
    device: Arc<Device>,
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured").field("device", &self.device).finish_non_exhaustive()
    }
}

impl CapturedGraph for Captured {
    fn launch(&self, inputs: &[&[u32]]) -> Result<()> {
        // A panic leaves the handles as they were.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.inputs.write(&self.device, inputs)?;
        state.graph.launch().map_err(op_error("launch a graph"))
    }
}
