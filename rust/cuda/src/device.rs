use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUfunction_attribute as MaxSharedBytes};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, result};
use rustllm_ops::{Result, checked_size};

use crate::error::op_error;
use crate::kernels::Kernel;
use crate::memory::DeviceMemory;
use crate::upload::Ring;
use crate::{CudaError, driver, modules};

/// Blocks, and threads of a block, that a kernel is launched with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub blocks: (usize, usize, usize),
    pub threads: u32,
    pub shared_bytes: u32,
}

impl Grid {
    /// Blocks without dynamic shared memory.
    pub fn new(blocks: (usize, usize, usize), threads: u32) -> Self {
        Self { blocks, threads, shared_bytes: 0 }
    }
}

/// A GPU: its context, the stream that all work of a backend goes to, in order, and the kernels loaded so far.
pub(crate) struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    compute_capability: (i32, i32),
    num_multiprocessors: usize,
    max_shared_bytes: usize,
    loaded: Mutex<Loaded>,
    uploads: Mutex<Ring>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<&'static str, CudaFunction>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, compute_capability, .. } = self;
        f.debug_struct("Device")
            .field("name", name)
            .field("compute_capability", compute_capability)
            .finish_non_exhaustive()
    }
}

impl Device {
    pub fn open(ordinal: usize) -> std::result::Result<Self, CudaError> {
        let count = driver::probe()?.device_count;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let open = CudaError::driver("open the device");
        let context = CudaContext::new(ordinal).map_err(&open)?;
        // One stream does all the work in order: events between its parts would only cost.
        // SAFETY: no slice of cudarc's is used on two streams.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(&open)?;
        let (major, minor) = context.compute_capability().map_err(&open)?;
        if major < 8 {
            return Err(CudaError::OldDevice { name, major, minor });
        }
        let attribute = |attribute| context.attribute(attribute).map(|value| usize::try_from(value).unwrap_or(0));
        Ok(Self {
            name,
            compute_capability: (major, minor),
            num_multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map_err(&open)?,
            max_shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
                .map_err(&open)?,
            // The default stream can be captured by nobody.
            stream: context.new_stream().map_err(&open)?,
            context,
            loaded: Mutex::default(),
            uploads: Mutex::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn compute_capability(&self) -> (i32, i32) {
        self.compute_capability
    }

    pub fn num_multiprocessors(&self) -> usize {
        self.num_multiprocessors
    }

    pub fn max_shared_bytes(&self) -> usize {
        self.max_shared_bytes
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Makes the device the calling thread's: the driver's calls are about the current one.
    pub fn bind(&self) -> Result<&Arc<CudaContext>> {
        self.context.bind_to_thread().map_err(op_error("bind the device to a thread"))?;
        Ok(&self.context)
    }

    /// Bytes free and in all.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?.mem_get_info().map_err(op_error("tell how much memory is free"))
    }

    /// Memory for `sizes[0] * sizes[1] * ...` bytes. Its contents are unspecified.
    pub fn alloc(&self, sizes: &[usize], what: &'static str) -> Result<DeviceMemory> {
        self.bind()?;
        DeviceMemory::new(&self.stream, checked_size(sizes, what)?, what)
    }

    /// Launches one of `K`'s kernels. What it needs to know of sizes was checked; its memory is the backend's.
    pub fn launch<K: Kernel>(&self, entry: &'static str, grid: Grid, arguments: &K) -> Result<()> {
        debug_assert!(K::ENTRIES.contains(&entry), "{entry} does not take these arguments");
        let (x, y, z) = grid.blocks;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let function = self.function::<K>(entry)?;
        let blocks = (x as u32, y as u32, z as u32);
        let launched = arguments.with_arguments(|arguments| {
            // SAFETY: the arguments are of the types the kernel has, which tests hold the launch table to; addresses among
            // them are of memory that outlives the work on the stream, since it is freed on the stream's own order.
            unsafe {
                let (function, stream) = (function.cu_function(), self.stream.cu_stream());
                result::launch_kernel(function, blocks, (grid.threads, 1, 1), grid.shared_bytes, stream, arguments)
            }
        });
        launched.map_err(op_error(entry))
    }

    fn function<K: Kernel>(&self, entry: &'static str) -> Result<CudaFunction> {
        self.bind()?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(entry) {
            return Ok(function.clone());
        }
        let module = match loaded.modules.get(K::FILE) {
            Some(module) => Arc::clone(module),
            None => {
                let module = modules::load(&self.context, self.compute_capability, K::FILE)?;
                loaded.modules.insert(K::FILE, Arc::clone(&module));
                module
            }
        };
        let function = module.load_function(entry).map_err(op_error("find a kernel"))?;
        // A launch gets 48 KB of shared memory, the kernel's own included, unless it was asked for more before.
        let attribute = MaxSharedBytes::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let reserved = function.shared_size_bytes().map(|own| self.max_shared_bytes as i32 - own);
        reserved
            .and_then(|bytes| function.set_attribute(attribute, bytes))
            .map_err(op_error("reserve shared memory"))?;
        loaded.functions.insert(entry, function.clone());
        Ok(function)
    }

    /// Copies to the device, before what is launched after. `from` may be changed once this returns.
    pub fn upload<T: Copy>(&self, from: &[T], to: u64) -> Result<()> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).upload(self, from, to)
    }

    /// Copies from the device what is there once all work before is done.
    pub fn download<T: Copy>(&self, from: u64, to: &mut [T]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller vouches for as much at `from`; the stream is waited for before `to` is looked at.
        let copied = unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) };
        copied.map_err(op_error("copy from the device"))?;
        self.synchronize()
    }

    /// Waits for all work.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(op_error("finish its work"))
    }
}
