// A libcuda.so.1 whose device is the processor: tests load it in the driver's place, and what they test is the launch code as
// it is, with its copies, streams and graphs.
//
// Device memory is host memory; every allocation starts as NaN and ends at a page nobody may touch, so that a kernel that
// reads or writes past the end stops the test. Functions that are not here are missing symbols.
//
// Work is as late as it may be, to find hosts that do not wait for it:
//
//   submitted   launches, copies, graphs ──► the stream's queue         with the values of their arguments
//   run         when a stream or an event is waited for; the oldest, when there are many
//   captured    recorded instead, and submitted whenever the graph is launched
//
// Page-locked memory is read and written when a copy runs. Other memory is read when it is submitted; a copy to it waits, as
// the driver's does. Memory that is freed is gone at once.
#include "shim.hpp"

#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

// CUresult, as cuda.h numbers them.
enum : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kInvalidDevice = 101,
  kNotFound = 500,
  kIllegalAddress = 700,
  kCaptureUnsupported = 900,
};

using Address = unsigned long long;
constexpr size_t kPage = 4096;
constexpr size_t kDeviceBytes = size_t(8) << 30;

using Work = std::function<void()>;
using Graph = std::vector<Work>;

// Work that was submitted, of which the first `done` pieces have run.
struct Stream {
  std::recursive_mutex lock;
  std::unique_ptr<Graph> capture;
  std::deque<Work> queue;
  size_t done = 0;

  static constexpr size_t kMostWaiting = 512;

  void submit(Work work) {
    std::lock_guard<std::recursive_mutex> held(lock);
    if (capture) return capture->push_back(std::move(work));
    queue.push_back(std::move(work));
    run(done + queue.size() - std::min(queue.size(), kMostWaiting));
  }
  // Runs what was submitted before the piece `until`.
  void run(size_t until) {
    std::lock_guard<std::recursive_mutex> held(lock);
    for (; done < until && !queue.empty(); ++done) {
      const Work work = std::move(queue.front());
      queue.pop_front();
      work();
    }
  }
  size_t submitted() {
    std::lock_guard<std::recursive_mutex> held(lock);
    return done + queue.size();
  }
};

// A place in a stream's work, which may be gone.
struct Event {
  std::weak_ptr<Stream> stream;
  size_t until = 0;

  void wait() {
    if (auto of = stream.lock()) of->run(until);
  }
};

// What a handle of a stream points to.
using StreamHandle = std::shared_ptr<Stream>;
Stream& stream_of(void* handle) { return **static_cast<StreamHandle*>(handle); }

struct Allocation {
  char* mapping;
  size_t mapping_bytes, bytes;
};

std::mutex memory_lock;
std::map<Address, Allocation> memory;
size_t bytes_used = 0;
thread_local void* current_context = nullptr;
int the_context;

uint64_t schedule_of_environment() {
  const char* text = std::getenv("RUSTLLM_SIMULATOR_SCHEDULE");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}

thread_local uint64_t schedule = schedule_of_environment();
thread_local unsigned max_shared_bytes = 166912;  // as on sm_80

bool is_allocated(Address address, size_t bytes) {
  std::lock_guard<std::mutex> held(memory_lock);
  auto next = memory.upper_bound(address);
  if (next == memory.begin()) return false;
  --next;
  return address + bytes <= next->first + next->second.bytes;
}

std::map<const char*, size_t> page_locked;

bool is_page_locked(const void* pointer) {
  std::lock_guard<std::mutex> held(memory_lock);
  auto next = page_locked.upper_bound(static_cast<const char*>(pointer));
  if (next == page_locked.begin()) return false;
  --next;
  return static_cast<const char*>(pointer) < next->first + next->second;
}

bool captures(void* stream) { return stream_of(stream).capture != nullptr; }

// Shared memory of a kernel's own that every kernel is taken to have, and of a launch that nobody asked for more.
constexpr int kOwnSharedBytes = 128, kCommonSharedBytes = 48 << 10;

// Whether this thread's device has failed: it stays so.
thread_local bool broken = false;

// How many more captures there is memory for on this thread's device.
thread_local unsigned captures_left = ~0u;

}  // namespace

// -- what only tests call -------------------------------------------------------------------------------------------

extern "C" __attribute__((visibility("default"))) void simulator_set_schedule(uint64_t value) { schedule = value; }
extern "C" __attribute__((visibility("default"))) void simulator_set_max_shared_bytes(unsigned value) {
  max_shared_bytes = value;
}

// From now on this thread finds its device as a kernel leaves it that read what is not there.
extern "C" __attribute__((visibility("default"))) void simulator_break_device() { broken = true; }

// From now on this thread captures so many graphs, and no more.
extern "C" __attribute__((visibility("default"))) void simulator_limit_captures(unsigned captures) { captures_left = captures; }

// The sizes of a kernel's arguments. Returns how many there are, or -1 if there is no such kernel.
API simulator_arguments(const char* name, size_t* bytes, int capacity) {
  auto found = simulator::kernels().find(name);
  if (found == simulator::kernels().end()) return -1;
  const auto& sizes = found->second.argument_bytes;
  for (int i = 0; i < capacity && i < int(sizes.size()); ++i) bytes[i] = sizes[i];
  return int(sizes.size());
}

// The name of kernel `index` in the order of the alphabet; null past the last.
extern "C" __attribute__((visibility("default"))) const char* simulator_kernel(size_t index) {
  if (index >= simulator::kernels().size()) return nullptr;
  return std::next(simulator::kernels().begin(), long(index))->first.c_str();
}

// -- devices and contexts -------------------------------------------------------------------------------------------

API cuInit(unsigned) { return kSuccess; }
API cuDriverGetVersion(int* version) { return *version = 13000, kSuccess; }
API cuDeviceGetCount(int* count) { return *count = 1, kSuccess; }
API cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? kSuccess : kInvalidDevice; }
API cuDeviceGetName(char* name, int capacity, int) { return std::snprintf(name, capacity, "CUDA simulator"), kSuccess; }
API cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = kDeviceBytes, kSuccess; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 1: *value = 1024; break;     // threads of a block
    case 10: *value = 32; break;      // lanes of a warp
    case 16: *value = 4; break;       // multiprocessors
    case 75: *value = 8; break;       // compute capability: what the simulator can run is that of sm_80
    case 76: *value = 0; break;
    case 97: *value = int(max_shared_bytes); break;  // shared memory of a block that asks for it
    default: *value = 0;
  }
  return kSuccess;
}
API cuDevicePrimaryCtxRetain(void** context, int) { return *context = &the_context, kSuccess; }
API cuDevicePrimaryCtxRelease_v2(int) { return kSuccess; }
API cuCtxSetCurrent(void* context) { return current_context = context, kSuccess; }
API cuCtxGetCurrent(void** context) { return *context = current_context, kSuccess; }
API cuCtxSynchronize() { return kSuccess; }
API cuGetErrorName(int error, const char** name) {
  switch (error) {
    case kInvalidValue: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case kOutOfMemory: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case kNotFound: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case kIllegalAddress: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case kCaptureUnsupported: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
    default: *name = "CUDA_ERROR_UNKNOWN";
  }
  return kSuccess;
}
API cuGetErrorString(int, const char** text) { return *text = "the simulator refused the call", kSuccess; }

// -- streams and events ---------------------------------------------------------------------------------------------

API cuStreamCreate(void** stream, unsigned) { return *stream = new StreamHandle(new Stream), kSuccess; }
API cuStreamDestroy_v2(void* stream) {
  stream_of(stream).run(stream_of(stream).submitted());
  return delete static_cast<StreamHandle*>(stream), kSuccess;
}
API cuStreamSynchronize(void* stream) {
  if (broken) return kIllegalAddress;
  if (captures(stream)) return kCaptureUnsupported;
  return stream_of(stream).run(stream_of(stream).submitted()), kSuccess;
}
API cuStreamWaitEvent(void*, void* event, unsigned) { return static_cast<Event*>(event)->wait(), kSuccess; }
API cuEventCreate(void** event, unsigned) { return *event = new Event, kSuccess; }
API cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), kSuccess; }
API cuEventRecord(void* event, void* stream) {
  *static_cast<Event*>(event) = {*static_cast<StreamHandle*>(stream), stream_of(stream).submitted()};
  return kSuccess;
}
API cuEventSynchronize(void* event) {
  if (broken) return kIllegalAddress;
  return static_cast<Event*>(event)->wait(), kSuccess;
}
API cuEventQuery(void* event) { return static_cast<Event*>(event)->wait(), kSuccess; }
API cuEventElapsedTime_v2(float* milliseconds, void*, void*) { return *milliseconds = 1.0f, kSuccess; }

// -- memory ---------------------------------------------------------------------------------------------------------

API cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  std::lock_guard<std::mutex> held(memory_lock);
  *total = kDeviceBytes;
  *free_bytes = kDeviceBytes - std::min(bytes_used, kDeviceBytes);
  return kSuccess;
}
API cuMemAlloc_v2(Address* address, size_t bytes) {
  if (broken) return kIllegalAddress;
  if (bytes == 0) return kInvalidValue;
  std::lock_guard<std::mutex> held(memory_lock);
  if (bytes > kDeviceBytes - std::min(bytes_used, kDeviceBytes)) return kOutOfMemory;
  const size_t body = (bytes + kPage - 1) / kPage * kPage;
  auto* mapping = static_cast<char*>(
      mmap(nullptr, body + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (mapping == MAP_FAILED) return kOutOfMemory;
  mprotect(mapping + body, kPage, PROT_NONE);
  // Large allocations are pools: poisoning them would touch gigabytes that a test never uses.
  if (bytes <= (size_t(64) << 20)) std::memset(mapping, 0xFF, body);
  *address = reinterpret_cast<Address>(mapping + body - (bytes + 255) / 256 * 256);
  memory[*address] = {mapping, body + kPage, bytes};
  bytes_used += bytes;
  return kSuccess;
}
API cuMemFree_v2(Address address) {
  std::lock_guard<std::mutex> held(memory_lock);
  auto found = memory.find(address);
  if (found == memory.end()) return kInvalidValue;
  munmap(found->second.mapping, found->second.mapping_bytes);
  bytes_used -= found->second.bytes;
  memory.erase(found);
  return kSuccess;
}
API cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  bytes = (bytes + kPage - 1) / kPage * kPage;
  void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return kOutOfMemory;
  std::lock_guard<std::mutex> held(memory_lock);
  page_locked[static_cast<const char*>(mapping)] = bytes;
  return *pointer = mapping, kSuccess;
}
API cuMemFreeHost(void* pointer) {
  std::lock_guard<std::mutex> held(memory_lock);
  auto found = page_locked.find(static_cast<const char*>(pointer));
  if (found == page_locked.end()) return kInvalidValue;
  munmap(pointer, found->second);
  page_locked.erase(found);
  return kSuccess;
}
API cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* stream) {
  if (!is_allocated(to, bytes)) return kInvalidValue;
  auto* place = reinterpret_cast<void*>(to);
  if (is_page_locked(from)) return stream_of(stream).submit([=] { std::memcpy(place, from, bytes); }), kSuccess;
  const auto* first = static_cast<const char*>(from);
  auto values = std::make_shared<std::vector<char>>(first, first + bytes);
  return stream_of(stream).submit([=] { std::memcpy(place, values->data(), bytes); }), kSuccess;
}
API cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* stream) {
  if (!is_allocated(from, bytes)) return kInvalidValue;
  const bool waits = !is_page_locked(to);
  if (waits && captures(stream)) return kCaptureUnsupported;
  // What is looked at too early is no number.
  std::memset(to, 0xFF, bytes);
  stream_of(stream).submit([=] { std::memcpy(to, reinterpret_cast<void*>(from), bytes); });
  return waits ? cuStreamSynchronize(stream) : int(kSuccess);
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream) {
  if (!is_allocated(to, bytes) || !is_allocated(from, bytes)) return kInvalidValue;
  stream_of(stream).submit([=] { std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); });
  return kSuccess;
}
API cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void* stream) {
  if (!is_allocated(to, bytes)) return kInvalidValue;
  return stream_of(stream).submit([=] { std::memset(reinterpret_cast<void*>(to), value, bytes); }), kSuccess;
}

// -- modules and launches -------------------------------------------------------------------------------------------

// The kernels are linked into this library: an image is only a name for all of them.
API cuModuleLoadData(void** module, const void*) { return *module = new int, kSuccess; }
API cuModuleUnload(void* module) { return delete static_cast<int*>(module), kSuccess; }
API cuModuleGetFunction(void** function, void*, const char* name) {
  auto found = simulator::kernels().find(name);
  if (found == simulator::kernels().end()) return kNotFound;
  return *function = &found->second, kSuccess;
}
API cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute != 8) return kInvalidValue;  // shared memory beside a kernel's own
  if (value > int(max_shared_bytes) - kOwnSharedBytes) return kInvalidValue;
  // Kernels are those of all devices that tests open.
  std::atomic_ref<int> most(static_cast<simulator::Kernel*>(function)->max_dynamic_shared);
  for (int before = most; before < value && !most.compare_exchange_weak(before, value);) {}
  return kSuccess;
}
API cuFuncGetAttribute(int* value, int attribute, void*) {
  return *value = attribute == 1 ? kOwnSharedBytes : 0, kSuccess;  // 1: a kernel's own shared memory
}
API cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared_bytes, void* stream, void** arguments, void**) {
  if (broken) return kIllegalAddress;
  auto* kernel = static_cast<simulator::Kernel*>(function);
  const unsigned threads = block_x * block_y * block_z;
  const bool grid_fits = grid_x && grid_y && grid_z && grid_x < (1u << 31) && grid_y <= 65535 && grid_z <= 65535;
  const int asked = std::min<int>(std::atomic_ref<int>(kernel->max_dynamic_shared), int(max_shared_bytes) - kOwnSharedBytes);
  const bool shared_fits = int(shared_bytes) <= std::max(asked, kCommonSharedBytes - kOwnSharedBytes);
  if (!grid_fits || threads == 0 || threads > 1024 || !shared_fits) return kInvalidValue;
  auto values = std::make_shared<std::vector<std::vector<char>>>();
  for (size_t i = 0; i < kernel->argument_bytes.size(); ++i) {
    auto* value = static_cast<char*>(arguments[i]);
    values->emplace_back(value, value + kernel->argument_bytes[i]);
  }
  stream_of(stream).submit([=, order = schedule] {
    std::vector<void*> pointers;
    for (auto& value : *values) pointers.push_back(value.data());
    kernel->launch(*kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, pointers.data(), order);
  });
  return kSuccess;
}

// -- graphs ---------------------------------------------------------------------------------------------------------

API cuStreamBeginCapture_v2(void* stream, int) {
  if (!stream || captures(stream)) return kCaptureUnsupported;
  if (captures_left == 0) return kOutOfMemory;
  captures_left -= captures_left != ~0u;
  stream_of(stream).capture = std::make_unique<Graph>();
  return kSuccess;
}
API cuStreamEndCapture(void* stream, void** graph) {
  if (!captures(stream)) return kInvalidValue;
  return *graph = stream_of(stream).capture.release(), kSuccess;
}
API cuStreamIsCapturing(void* stream, int* status) { return *status = captures(stream), kSuccess; }
API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  return *executable = new Graph(*static_cast<Graph*>(graph)), kSuccess;
}
API cuGraphUpload(void*, void*) { return kSuccess; }
API cuGraphLaunch(void* executable, void* stream) {
  if (broken) return kIllegalAddress;
  stream_of(stream).submit([work = *static_cast<Graph*>(executable)] {
    for (const auto& piece : work) piece();
  });
  return kSuccess;
}
API cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), kSuccess; }
API cuGraphExecDestroy(void* executable) { return delete static_cast<Graph*>(executable), kSuccess; }
