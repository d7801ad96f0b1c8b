// A test double of libcuda.so.1: the driver's functions that standoff and GStreamer's libgstcuda call, on the CPU, with
// the kernels of host.cpp.
//
// It is as unkind as a real device may be:
// - Streams are lazy. Nothing that was put into one happens before somebody waits for it, and a stream waits for
//   another only through an event: a result that is read too early, a staging buffer that is filled too early or a
//   missing event shows.
// - Device memory cannot be touched by the program (PROT_NONE outside of its own work), begins with rubbish, and
//   copies are held to its bounds.
// - Memory belongs to the context in which it was allocated, and copies from device to device stay within one.
// - Page-locked memory is read when the copy happens, ordinary memory when the call is made, as the real one does.
//
// FAKE_CUDA_DRIVER=11080      says this version            FAKE_CUDA_DEVICES=0         sees so many GPUs
// FAKE_CUDA_INIT=100          cuInit gives this error      FAKE_CUDA_CAPABILITY=61     is this old
// FAKE_CUDA_FAIL=cuLaunchKernel:3:700   the third such call gives error 700, and so does every call after it
// FAKE_CUDA_OPEN=1             lets the program touch device memory, for a model that runs on the CPU
// FAKE_CUDA_FAIL=cuMemAlloc:3:2         invalid values, lack of memory and broken captures (1, 2, 9xx) pass

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

extern "C" int standoff_host_launch(const char *kernel, const unsigned grid[3], const unsigned block[3],
                                    unsigned shared_bytes, void **parameters);
extern "C" unsigned standoff_host_parameter_bytes(const char *kernel);

namespace {

using Result = int;
enum : Result {
    OK = 0,
    INVALID_VALUE = 1,
    NO_DEVICE = 100,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    NOT_READY = 600,
    NOT_SUPPORTED = 801
};

std::recursive_mutex everything;
Result sticky = OK;
char context_object, module_object;
// The last one is the thread's current context.
thread_local std::vector<void *> contexts;

void *current() { return contexts.empty() ? nullptr : contexts.back(); }

const char *setting(const char *name) { return std::getenv(name); }
int number(const char *name, int otherwise) { return setting(name) ? std::atoi(setting(name)) : otherwise; }

// Whether this call is the one that is to fail, or comes after it.
Result trouble(const char *call) {
    static std::map<std::string, int> calls;
    if (sticky != OK) return sticky;
    const int count = ++calls[call];
    if (const char *fail = setting("FAKE_CUDA_FAIL")) {
        char name[64];
        int at = 0, error = 0;
        if (std::sscanf(fail, "%63[^:]:%d:%d", name, &at, &error) == 3 && call == std::string(name) && count == at) {
            if (error == 1 || error == 2 || (error >= 900 && error < 999)) return error;
            sticky = error;
        }
    }
    return sticky;
}

#define ENTER(call)                                             \
    std::lock_guard<std::recursive_mutex> lock(everything);     \
    if (Result error = trouble(call)) return error

struct Allocation {
    size_t bytes;
    size_t mapped;
    void *context;
};
std::map<uintptr_t, Allocation> device_memory, pinned_memory;

bool inside(const std::map<uintptr_t, Allocation> &memory, const void *address, size_t bytes) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(address);
    auto after = memory.upper_bound(first);
    if (after == memory.begin()) return false;
    --after;
    return first >= after->first && first + bytes <= after->first + after->second.bytes;
}

// The context in which device memory was allocated.
void *context_of(const void *address) {
    auto after = device_memory.upper_bound(reinterpret_cast<uintptr_t>(address));
    return inside(device_memory, address, 1) ? std::prev(after)->second.context : nullptr;
}

void protect(int how) {
    if (number("FAKE_CUDA_OPEN", 0) != 0) return;
    for (auto &[address, allocation] : device_memory) {
        mprotect(reinterpret_cast<void *>(address), allocation.mapped, how);
    }
}

struct Stream;

struct Event {
    Stream *stream = nullptr;
    // The event happens when the stream has done this many pieces of work.
    size_t after = 0;
    std::chrono::steady_clock::time_point happened{};
};

struct Work {
    std::function<Result()> run;
    // Whose moment this is, when it is an event's.
    Event *event = nullptr;
};

struct Stream {
    std::vector<Work> work;
    size_t done = 0;
    bool capturing = false;
    std::vector<Work> captured;
};
std::vector<std::unique_ptr<Stream>> streams;

Result run_until(Stream *stream, size_t after) {
    while (stream->done < std::min(after, stream->work.size())) {
        // A broken device does nothing any more.
        if (sticky != OK) return sticky;
        Work work = stream->work[stream->done];
        if (work.event != nullptr) work.event->happened = std::chrono::steady_clock::now();
        if (work.run) {
            if (Result error = work.run()) return sticky = error;
        }
        ++stream->done;
    }
    return OK;
}

// Runs with device memory open.
Result run_all_of(Stream *stream, size_t after) {
    protect(PROT_READ | PROT_WRITE);
    const Result result = run_until(stream, after);
    protect(PROT_NONE);
    return result;
}

Result put(Stream *stream, std::function<Result()> run, Event *event = nullptr) {
    // The null stream waits for all others; nobody here uses it for more than that.
    if (stream == nullptr) {
        for (auto &other : streams) {
            if (Result error = run_all_of(other.get(), SIZE_MAX)) return error;
        }
        protect(PROT_READ | PROT_WRITE);
        const Result result = run ? run() : OK;
        protect(PROT_NONE);
        return result;
    }
    (stream->capturing ? stream->captured : stream->work).push_back(Work{std::move(run), event});
    return OK;
}

Result allocate(std::map<uintptr_t, Allocation> &memory, void **address, size_t bytes, int how) {
    if (bytes == 0) return INVALID_VALUE;
    const size_t mapped = (bytes + 4095) / 4096 * 4096;
    void *found = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) return 2;
    std::memset(found, 0xA5, mapped);
    if (number("FAKE_CUDA_OPEN", 0) == 0) mprotect(found, mapped, how);
    memory[reinterpret_cast<uintptr_t>(found)] = Allocation{bytes, mapped, current()};
    *address = found;
    return OK;
}

Result release(std::map<uintptr_t, Allocation> &memory, const void *address) {
    auto found = memory.find(reinterpret_cast<uintptr_t>(address));
    if (found == memory.end()) return INVALID_VALUE;
    munmap(const_cast<void *>(address), found->second.mapped);
    memory.erase(found);
    return OK;
}

struct Graph {
    std::vector<Work> work;
};

struct Function {
    std::string name;
};

}  // namespace

extern "C" {

Result cuInit(unsigned) { return number("FAKE_CUDA_INIT", OK); }
Result cuDriverGetVersion(int *version) { return *version = number("FAKE_CUDA_DRIVER", 12060), OK; }
Result cuDeviceGetCount(int *count) { return *count = number("FAKE_CUDA_DEVICES", 1), OK; }
Result cuDeviceGet(int *device, int ordinal) {
    return ordinal < number("FAKE_CUDA_DEVICES", 1) ? (*device = ordinal, OK) : NO_DEVICE;
}
Result cuDeviceGetName(char *name, int length, int) {
    std::snprintf(name, size_t(length), "no GPU but a test double");
    return OK;
}
Result cuDeviceGetAttribute(int *value, int attribute, int) {
    const int capability = number("FAKE_CUDA_CAPABILITY", 90);
    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, _MEMORY_POOLS_SUPPORTED, _TEXTURE_ALIGNMENT.
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 115 ? 1
             : attribute == 14 ? 512 : 0;
    return OK;
}
Result cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = size_t(8) << 30, OK; }
Result cuDevicePrimaryCtxRetain(void **context, int) { return *context = &context_object, OK; }
Result cuDevicePrimaryCtxRelease_v2(int) { return OK; }
Result cuCtxSetCurrent(void *context) {
    if (!contexts.empty()) contexts.pop_back();
    return contexts.push_back(context), sticky;
}
Result cuCtxGetCurrent(void **context) { return *context = current(), OK; }
Result cuCtxCreate_v2(void **context, unsigned, int) { return contexts.push_back(*context = new char), OK; }
Result cuCtxDestroy_v2(void *) { return OK; }
Result cuCtxPushCurrent_v2(void *context) { return contexts.push_back(context), sticky; }
Result cuCtxPopCurrent_v2(void **context) {
    if (contexts.empty()) return INVALID_CONTEXT;
    if (context != nullptr) *context = contexts.back();
    return contexts.pop_back(), OK;
}
Result cuDeviceCanAccessPeer(int *can, int, int) { return *can = 0, OK; }
Result cuCtxSynchronize() {
    ENTER("cuCtxSynchronize");
    return put(nullptr, nullptr);
}
Result cuGetErrorName(Result error, const char **name) {
    *name = error == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKED";
    return OK;
}
Result cuGetErrorString(Result, const char **text) { return *text = "an error of the test double", OK; }

Result cuModuleLoadData(void **module, const void *image) {
    ENTER("cuModuleLoadData");
    const char *ptx = static_cast<const char *>(image);
    if (std::strstr(ptx, ".version 8.2") == nullptr || std::strstr(ptx, ".target sm_75") == nullptr) return INVALID_IMAGE;
    return *module = &module_object, OK;
}
Result cuModuleUnload(void *) { return OK; }
Result cuModuleGetFunction(void **function, void *, const char *name) {
    ENTER("cuModuleGetFunction");
    if (standoff_host_parameter_bytes(name) == 0) return NOT_FOUND;
    return *function = new Function{name}, OK;
}

Result cuMemAlloc_v2(uintptr_t *address, size_t bytes) {
    ENTER("cuMemAlloc");
    return allocate(device_memory, reinterpret_cast<void **>(address), bytes, PROT_NONE);
}
Result cuMemAllocAsync(uintptr_t *address, size_t bytes, Stream *) { return cuMemAlloc_v2(address, bytes); }
Result cuMemAllocPitch_v2(uintptr_t *address, size_t *pitch, size_t width, size_t height, unsigned) {
    *pitch = (width + 511) / 512 * 512;
    return cuMemAlloc_v2(address, *pitch * height);
}
Result cuPointerGetAttribute(void *data, int attribute, uintptr_t address) {
    void *context = context_of(reinterpret_cast<void *>(address));
    // CU_POINTER_ATTRIBUTE_CONTEXT.
    if (attribute != 1 || context == nullptr) return INVALID_VALUE;
    return *static_cast<void **>(data) = context, OK;
}
Result cuMemFree_v2(uintptr_t address) {
    std::lock_guard<std::recursive_mutex> lock(everything);
    if (Result error = put(nullptr, nullptr)) return error;
    return release(device_memory, reinterpret_cast<void *>(address));
}
Result cuMemFreeAsync(uintptr_t address, Stream *stream) {
    std::lock_guard<std::recursive_mutex> lock(everything);
    return put(stream, [=] { return release(device_memory, reinterpret_cast<void *>(address)); });
}
Result cuMemHostAlloc(void **address, size_t bytes, unsigned) {
    ENTER("cuMemHostAlloc");
    return allocate(pinned_memory, address, bytes, PROT_READ | PROT_WRITE);
}
Result cuMemAllocHost_v2(void **address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }
Result cuMemFreeHost(void *address) {
    std::lock_guard<std::recursive_mutex> lock(everything);
    return release(pinned_memory, address);
}

Result cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, Stream *stream) {
    ENTER("cuMemcpyHtoDAsync");
    void *target = reinterpret_cast<void *>(to);
    if (!inside(device_memory, target, bytes) || inside(device_memory, from, 1)) return INVALID_VALUE;
    if (inside(pinned_memory, from, bytes)) return put(stream, [=] { return std::memcpy(target, from, bytes), OK; });
    const auto *first = static_cast<const unsigned char *>(from);
    auto copy = std::make_shared<std::vector<unsigned char>>(first, first + bytes);
    return put(stream, [=] { return std::memcpy(target, copy->data(), bytes), OK; });
}
Result cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t bytes, Stream *stream) {
    ENTER("cuMemcpyDtoHAsync");
    const void *source = reinterpret_cast<const void *>(from);
    if (!inside(device_memory, source, bytes) || inside(device_memory, to, 1)) return INVALID_VALUE;
    if (Result error = put(stream, [=] { return std::memcpy(to, source, bytes), OK; })) return error;
    // Into ordinary memory the real one copies before it returns.
    const bool now = stream != nullptr && !stream->capturing && !inside(pinned_memory, to, bytes);
    return now ? run_all_of(stream, SIZE_MAX) : OK;
}
Result cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, Stream *stream) {
    ENTER("cuMemcpyDtoDAsync");
    void *target = reinterpret_cast<void *>(to);
    const void *source = reinterpret_cast<const void *>(from);
    if (!inside(device_memory, target, bytes) || !inside(device_memory, source, bytes)) return INVALID_VALUE;
    if (context_of(target) != current() || context_of(source) != current()) return INVALID_VALUE;
    return put(stream, [=] { return std::memmove(target, source, bytes), OK; });
}
// CUDA_MEMCPY2D; types of memory: 1 host, 2 device.
struct Copy2D {
    size_t from_x, from_y;
    int from_type;
    const unsigned char *from_host;
    uintptr_t from_device;
    void *from_array;
    size_t from_pitch;
    size_t to_x, to_y;
    int to_type;
    unsigned char *to_host;
    uintptr_t to_device;
    void *to_array;
    size_t to_pitch;
    size_t width, height;
};
Result cuMemcpy2DAsync_v2(const Copy2D *copy, Stream *stream) {
    ENTER("cuMemcpy2DAsync");
    const Copy2D c = *copy;
    if (c.width == 0 || c.height == 0) return OK;
    const bool from_device = c.from_type == 2, to_device = c.to_type == 2;
    const unsigned char *from = from_device ? reinterpret_cast<unsigned char *>(c.from_device) : c.from_host;
    unsigned char *to = to_device ? reinterpret_cast<unsigned char *>(c.to_device) : c.to_host;
    const auto extent = [&](size_t pitch) { return pitch * (c.height - 1) + c.width; };
    from += c.from_y * c.from_pitch + c.from_x;
    to += c.to_y * c.to_pitch + c.to_x;
    if (c.width > c.from_pitch || c.width > c.to_pitch) return INVALID_VALUE;
    if (from_device != inside(device_memory, from, extent(c.from_pitch))) return INVALID_VALUE;
    if (to_device != inside(device_memory, to, extent(c.to_pitch))) return INVALID_VALUE;
    if (from_device && context_of(from) != current()) return INVALID_VALUE;
    if (to_device && context_of(to) != current()) return INVALID_VALUE;
    const auto run = [=] {
        for (size_t row = 0; row < c.height; ++row) std::memcpy(to + row * c.to_pitch, from + row * c.from_pitch, c.width);
        return OK;
    };
    if (Result error = put(stream, run)) return error;
    // From and into ordinary memory the real one copies before it returns.
    const bool now = stream != nullptr && !stream->capturing &&
                     ((!from_device && !inside(pinned_memory, from, 1)) || (!to_device && !inside(pinned_memory, to, 1)));
    return now ? run_all_of(stream, SIZE_MAX) : OK;
}
Result cuMemcpy2D_v2(const Copy2D *copy) { return cuMemcpy2DAsync_v2(copy, nullptr); }
Result cuMemsetD8Async(uintptr_t to, unsigned char value, size_t bytes, Stream *stream) {
    ENTER("cuMemsetD8Async");
    void *target = reinterpret_cast<void *>(to);
    if (!inside(device_memory, target, bytes)) return INVALID_VALUE;
    return put(stream, [=] { return std::memset(target, value, bytes), OK; });
}

Result cuStreamCreate(Stream **stream, unsigned) {
    ENTER("cuStreamCreate");
    streams.push_back(std::make_unique<Stream>());
    return *stream = streams.back().get(), OK;
}
Result cuStreamCreateWithPriority(Stream **stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
Result cuStreamDestroy_v2(Stream *stream) {
    std::lock_guard<std::recursive_mutex> lock(everything);
    // Its memory is kept, because an event may still name it.
    return run_all_of(stream, SIZE_MAX);
}
Result cuStreamDestroy(Stream *stream) { return cuStreamDestroy_v2(stream); }
Result cuStreamSynchronize(Stream *stream) {
    ENTER("cuStreamSynchronize");
    return stream == nullptr ? put(nullptr, nullptr) : run_all_of(stream, SIZE_MAX);
}
Result cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
    ENTER("cuStreamWaitEvent");
    Stream *other = event->stream;
    const size_t after = event->after;
    return put(stream, [=] { return other == nullptr ? OK : run_until(other, after); });
}

Result cuEventCreate(Event **event, unsigned) {
    ENTER("cuEventCreate");
    return *event = new Event, OK;
}
Result cuEventDestroy_v2(Event *) { return OK; }
Result cuEventRecord(Event *event, Stream *stream) {
    ENTER("cuEventRecord");
    if (Result error = put(stream, nullptr, event)) return error;
    event->stream = stream;
    event->after = stream == nullptr || stream->capturing ? 0 : stream->work.size();
    return OK;
}
Result cuEventRecordWithFlags(Event *event, Stream *stream, unsigned) { return cuEventRecord(event, stream); }
Result cuEventSynchronize(Event *event) {
    ENTER("cuEventSynchronize");
    return event->stream == nullptr ? OK : run_all_of(event->stream, event->after);
}
Result cuEventQuery(Event *event) {
    ENTER("cuEventQuery");
    return event->stream == nullptr || event->stream->done >= event->after ? OK : NOT_READY;
}
Result cuEventElapsedTime(float *milliseconds, Event *first, Event *last) {
    ENTER("cuEventElapsedTime");
    *milliseconds = std::chrono::duration<float, std::milli>(last->happened - first->happened).count();
    return OK;
}

Result cuLaunchKernel(Function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream *stream, void **parameters,
                      void **) {
    ENTER("cuLaunchKernel");
    // What every device holds a launch to.
    const bool empty = grid_x == 0 || grid_y == 0 || grid_z == 0 || block_x * block_y * block_z == 0;
    if (empty || block_x * block_y * block_z > 256 || grid_y > 65535 || grid_z > 65535 || shared_bytes > 48 * 1024) {
        return INVALID_VALUE;
    }
    const auto *first = static_cast<const unsigned char *>(parameters[0]);
    auto copy = std::make_shared<std::vector<unsigned char>>(
        first, first + standoff_host_parameter_bytes(function->name.c_str()));
    const std::string name = function->name;
    return put(stream, [=] {
        const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
        void *structure = copy->data();
        return standoff_host_launch(name.c_str(), grid, block, shared_bytes, &structure);
    });
}

Result cuLaunchHostFunc(Stream *stream, void (*run)(void *), void *user) {
    ENTER("cuLaunchHostFunc");
    return put(stream, [=] { return run(user), OK; });
}

Result cuStreamBeginCapture_v2(Stream *stream, int) {
    ENTER("cuStreamBeginCapture");
    if (stream == nullptr || stream->capturing) return INVALID_VALUE;
    stream->captured.clear();
    return stream->capturing = true, OK;
}
Result cuStreamEndCapture(Stream *stream, Graph **graph) {
    // However it ends, it ends.
    const bool capturing = stream->capturing;
    stream->capturing = false;
    ENTER("cuStreamEndCapture");
    if (!capturing) return INVALID_VALUE;
    return *graph = new Graph{std::move(stream->captured)}, OK;
}
Result cuStreamIsCapturing(Stream *stream, int *status) { return *status = stream->capturing ? 1 : 0, OK; }
Result cuGraphInstantiateWithFlags(Graph **exec, Graph *graph, unsigned long long) {
    ENTER("cuGraphInstantiate");
    return *exec = new Graph{graph->work}, OK;
}
Result cuGraphUpload(Graph *, Stream *) { return OK; }
Result cuGraphLaunch(Graph *exec, Stream *stream) {
    ENTER("cuGraphLaunch");
    for (const Work &work : exec->work) {
        if (Result error = put(stream, work.run, work.event)) return error;
    }
    return OK;
}
// What libgstcuda looks for and nobody calls here.
#define WITHOUT(call) \
    Result call() { return NOT_SUPPORTED; }
WITHOUT(cuCtxEnablePeerAccess)
WITHOUT(cuCtxDisablePeerAccess)
WITHOUT(cuGraphicsMapResources)
WITHOUT(cuGraphicsUnmapResources)
WITHOUT(cuGraphicsUnregisterResource)
WITHOUT(cuGraphicsResourceSetMapFlags_v2)
WITHOUT(cuGraphicsSubResourceGetMappedArray)
WITHOUT(cuGraphicsResourceGetMappedPointer_v2)
WITHOUT(cuGraphicsGLRegisterImage)
WITHOUT(cuGraphicsGLRegisterBuffer)
WITHOUT(cuGLGetDevices_v2)
WITHOUT(cuTexObjectCreate)
WITHOUT(cuTexObjectDestroy)

Result cuGraphExecDestroy(Graph *exec) { return delete exec, OK; }
Result cuGraphDestroy(Graph *graph) { return delete graph, OK; }
}
