//! A CUDA driver whose device is the processor.
//!
//! ```text
//!   rustllm-cuda ──► cudarc ──► libcuda.so.1     the driver's, on a machine with a GPU
//!                               libcuda.so.1     this one's: kernels of cuda/*.cu as compiled by g++
//! ```
//!
//! [`load`] puts it in the driver's place for the process; the launch code under test does not know. A `libnvrtc.so.13` goes
//! with it, for builds whose kernels are embedded as source only. Kernels may run in several orders of their threads: see
//! [`set_schedule`] and `cuda/simulator/shim.hpp`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Once, OnceLock};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The folder of the libraries. A process that has it in `LD_LIBRARY_PATH` takes them for the driver's and NVIDIA's.
pub fn folder() -> &'static Path {
    Path::new(env!("SIMULATOR_FOLDER"))
}

/// Loads the simulator, so that whoever opens `libcuda.so.1` or `libnvrtc.so.13` in this process after it gets this one's.
///
/// # Panics
/// If a library cannot be loaded: there is no test without it. If tests are to run [`on_gpu`]: from then on they would run here.
pub fn load() -> &'static Library {
    assert!(!on_gpu(), "{TEST_GPU} is set, and a test asks for the simulator");
    static LOADED: OnceLock<[Library; 2]> = OnceLock::new();
    let open = |name| {
        let library = folder().join(name);
        // SAFETY: its initializers fill a table of kernels, and do nothing else.
        let loaded = unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_GLOBAL) };
        loaded.unwrap_or_else(|error| panic!("{}: {error}", library.display()))
    };
    &LOADED.get_or_init(|| ["libcuda.so.1", "libnvrtc.so.13"].map(open))[0]
}

/// The variable that sends tests to the machine's GPU. Its value `simulator` is for trying out how they are started there: the
/// driver that this machine finds is then known to be the simulator.
const TEST_GPU: &str = "RUSTLLM_TEST_GPU";

/// Whether tests are to run on what the machine's own `libcuda.so.1` finds: `RUSTLLM_TEST_GPU` says so.
pub fn on_gpu() -> bool {
    std::env::var_os(TEST_GPU).is_some()
}

/// Puts the simulator in the place of the CUDA driver, unless tests are to run [`on_gpu`].
///
/// # Panics
/// If they are, and the machine's driver is the simulator: what they would show is not what was asked.
pub fn use_cuda_device() {
    if !on_gpu() {
        load();
        return;
    }
    if std::env::var_os(TEST_GPU).is_none_or(|value| value != "simulator") {
        assert!(!is_the_machines_driver(), "{TEST_GPU} is set, but libcuda.so.1 is the simulator");
    }
    static KEPT: Once = Once::new();
    KEPT.call_once(keep_context);
}

/// Keeps the first device's context until the process ends: tests would make it again and again, a good part of a second each.
fn keep_context() {
    type Init = unsafe extern "C" fn(u32) -> c_int;
    type Retain = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;
    // SAFETY: the initializers of a driver do nothing that a process need prepare for.
    let Ok(driver) = (unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW) }) else { return };
    let mut context = std::ptr::null_mut();
    // SAFETY: the functions have these types since the first CUDA, and write one pointer. What fails here, tests find out.
    unsafe {
        if let (Ok(init), Ok(retain)) =
            (driver.get::<Init>(b"cuInit\0"), driver.get::<Retain>(b"cuDevicePrimaryCtxRetain\0"))
        {
            init(0);
            retain(&mut context, 0);
        }
    }
    std::mem::forget(driver);
}

/// Whether the `libcuda.so.1` that a process gets by its name is the simulator.
fn is_the_machines_driver() -> bool {
    // SAFETY: the initializers of a driver do nothing that a process need prepare for.
    let Ok(driver) = (unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW) }) else { return false };
    // SAFETY: nothing is done with the symbol.
    unsafe { driver.get::<*const ()>(b"simulator_kernel\0") }.is_ok()
}

/// Orders of a block's threads that tests run kernels in: forward, backward and two that are shuffled.
pub const SCHEDULES: [u64; 4] = [0, 1, 5, 77];

/// Chooses the order in which threads of kernels run that this thread launches.
pub fn set_schedule(schedule: u64) {
    type SetSchedule = unsafe extern "C" fn(u64);
    // SAFETY: the symbol has this type.
    unsafe { load().get::<SetSchedule>(b"simulator_set_schedule\0").expect("the simulator has it")(schedule) }
}

/// Chooses how much shared memory a block may take on the devices that this thread opens: as on sm_80 where nobody chose.
pub fn set_max_shared_bytes(bytes: u32) {
    type SetMaxSharedBytes = unsafe extern "C" fn(u32);
    // SAFETY: the symbol has this type.
    unsafe {
        load().get::<SetMaxSharedBytes>(b"simulator_set_max_shared_bytes\0").expect("the simulator has it")(bytes)
    }
}

/// Breaks the device for this thread, as a kernel does that reads what is not there: whatever is asked of it fails from now on.
pub fn break_device() {
    type BreakDevice = unsafe extern "C" fn();
    // SAFETY: the symbol has this type.
    unsafe { load().get::<BreakDevice>(b"simulator_break_device\0").expect("the simulator has it")() }
}

/// Lets this thread capture so many more graphs.
pub fn limit_captures(captures: u32) {
    type LimitCaptures = unsafe extern "C" fn(u32);
    // SAFETY: the symbol has this type.
    unsafe { load().get::<LimitCaptures>(b"simulator_limit_captures\0").expect("the simulator has it")(captures) }
}

/// The names of all kernels, in alphabetical order.
pub fn kernels() -> Vec<String> {
    type KernelName = unsafe extern "C" fn(usize) -> *const c_char;
    // SAFETY: the symbol has this type; names are static strings, null after the last.
    unsafe {
        let name = load().get::<KernelName>(b"simulator_kernel\0").expect("the simulator has it");
        let names = (0..).map(|index| name(index)).take_while(|name| !name.is_null());
        names.map(|name| CStr::from_ptr(name).to_string_lossy().into_owned()).collect()
    }
}

/// The sizes in bytes of a kernel's arguments, if there is such a kernel.
pub fn arguments(kernel: &str) -> Option<Vec<usize>> {
    type Arguments = unsafe extern "C" fn(*const c_char, *mut usize, c_int) -> c_int;
    let name = CString::new(kernel).ok()?;
    let mut bytes = [0; 64];
    // SAFETY: the symbol has this type; the name ends with a zero and the array holds as many as it is said to.
    let count = unsafe {
        let arguments = load().get::<Arguments>(b"simulator_arguments\0").expect("the simulator has it");
        arguments(name.as_ptr(), bytes.as_mut_ptr(), bytes.len() as c_int)
    };
    usize::try_from(count).ok().map(|count| bytes[..count].to_vec())
}
