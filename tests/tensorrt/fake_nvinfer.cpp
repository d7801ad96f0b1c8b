// A test double of libnvinfer (or libtensorrt_rtx) that runs plans: the library's interface, its objects and its
// place in a stream are the real ones, and what it "computes" is looked up. With the test double of libcuda the way of
// a picture through our kernels, the shim and back is executed on a machine without a GPU.
//
// A plan is a file that the test writes (see double.rs): tensors, and pictures with their outputs. A run takes a sample
// of each picture in its input and gives the outputs of the picture in the plan that is nearest, NaN when none is near.
//
// The objects are those of the headers. Behind each stands a table of virtual functions made here, in which only those
// that standoff calls do something: a call of any other ends the process and says so.
//
// FAKE_TENSORRT_VERSION=110300   says this version     FAKE_TENSORRT_FAIL=context|enqueue   fails there

#include <NvInfer.h>
#include <NvInferImpl.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

[[noreturn]] void never() {
    std::fprintf(stderr, "fake_nvinfer: a function was called that the test double does not have\n");
    std::abort();
}

bool fails(char const* where) {
    char const* fail = std::getenv("FAKE_TENSORRT_FAIL");
    return fail != nullptr && std::string(fail) == where;
}

// What a virtual call through `mImpl` sees: a pointer to functions that take the object first.
class Functions {
public:
    Functions() : entries_(256, reinterpret_cast<void*>(never)) {}

    template <class Member, class Function>
    Functions& set(Member member, Function function) {
        // A pointer to a virtual member holds its place in the table (Itanium C++ ABI 2.3; on ARM without the 1).
        uintptr_t place[2];
        static_assert(sizeof member == sizeof place);
        std::memcpy(place, &member, sizeof place);
#ifndef __aarch64__
        place[0] -= 1;
#endif
        entries_.at(place[0] / sizeof(void*)) = reinterpret_cast<void*>(function);
        return *this;
    }

    void* const* table() const { return entries_.data(); }

private:
    std::vector<void*> entries_;
};

// --- a plan ---

struct FakeTensor {
    std::string name;
    DataType type;
    bool is_input;
    Dims shape;

    // Of one picture, the outermost side being the batch.
    size_t values() const {
        size_t product = 1;
        for (int32_t i = 1; i < shape.nbDims; ++i) product *= size_t(shape.d[i]);
        return product;
    }
    size_t value_bytes() const { return type == DataType::kHALF ? 2 : 4; }
};

struct Picture {
    std::vector<float> sample;
    std::vector<std::vector<float>> outputs;
};

struct Plan {
    uint32_t stride;  // of the sample
    std::vector<FakeTensor> tensors;
    std::vector<Picture> pictures;

    FakeTensor const* find(char const* name) const {
        for (FakeTensor const& tensor : tensors) {
            if (tensor.name == name) return &tensor;
        }
        return nullptr;
    }
};

struct Reader {
    unsigned char const* at;
    size_t left;
    bool good = true;

    void take(void* to, size_t bytes) {
        if (bytes > left) {
            good = false;
            std::memset(to, 0, bytes);
            return;
        }
        std::memcpy(to, at, bytes);
        at += bytes;
        left -= bytes;
    }
    uint32_t number() {
        uint32_t value = 0;
        take(&value, sizeof value);
        return value;
    }
    std::vector<float> floats() {
        uint32_t const count = number();
        std::vector<float> values(good && count <= left / sizeof(float) ? count : 0);
        good = good && values.size() == count;
        take(values.data(), values.size() * sizeof(float));
        return values;
    }
};

std::unique_ptr<Plan> read_plan(void const* data, size_t size) {
    Reader reader{static_cast<unsigned char const*>(data), size};
    char magic[8];
    reader.take(magic, sizeof magic);
    if (!reader.good || std::memcmp(magic, "FAKEPLAN", sizeof magic) != 0) return nullptr;
    auto plan = std::make_unique<Plan>();
    plan->stride = reader.number();
    size_t outputs = 0;
    for (uint32_t count = reader.number(); count > 0 && reader.good; --count) {
        FakeTensor tensor{};
        tensor.name.resize(std::min<size_t>(reader.number(), 100));
        reader.take(tensor.name.data(), tensor.name.size());
        tensor.type = static_cast<DataType>(reader.number());
        tensor.is_input = reader.number() != 0;
        tensor.shape.nbDims = int32_t(std::min<uint32_t>(reader.number(), 8));
        for (int32_t i = 0; i < tensor.shape.nbDims; ++i) tensor.shape.d[i] = int32_t(reader.number());
        outputs += tensor.is_input ? 0 : 1;
        plan->tensors.push_back(tensor);
    }
    for (uint32_t count = reader.number(); count > 0 && reader.good; --count) {
        Picture picture{reader.floats(), {}};
        for (size_t i = 0; i < outputs; ++i) picture.outputs.push_back(reader.floats());
        plan->pictures.push_back(picture);
    }
    return reader.good && plan->stride > 0 ? std::move(plan) : nullptr;
}

// --- CUDA, as the program has it ---

struct Cuda {
    int (*host_alloc)(void**, size_t, unsigned);
    int (*to_host)(void*, uintptr_t, size_t, void*);
    int (*to_device)(uintptr_t, void const*, size_t, void*);
    int (*host_function)(void*, void (*)(void*), void*);

    Cuda() {
        void* driver = dlopen("libcuda.so.1", RTLD_NOW);
        auto find = [&](char const* name) {
            void* found = driver == nullptr ? nullptr : dlsym(driver, name);
            if (found == nullptr) never();
            return found;
        };
        host_alloc = reinterpret_cast<decltype(host_alloc)>(find("cuMemHostAlloc"));
        to_host = reinterpret_cast<decltype(to_host)>(find("cuMemcpyDtoHAsync_v2"));
        to_device = reinterpret_cast<decltype(to_device)>(find("cuMemcpyHtoDAsync_v2"));
        host_function = reinterpret_cast<decltype(host_function)>(find("cuLaunchHostFunc"));
    }
};

Cuda const& cuda() {
    static Cuda const cuda;
    return cuda;
}

float from_half(uint16_t half) {
    float const sign = half & 0x8000 ? -1.0F : 1.0F;
    int const exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(float(fraction), -24);
    return sign * std::ldexp(float(fraction + 1024), exponent - 25);
}

// --- the objects; the first field of each is its table ---

struct RuntimeState {
    void* const* functions;
    ILogger* logger;
};

struct EngineState {
    void* const* functions;
    ILogger* logger;
    std::shared_ptr<Plan const> plan;
};

struct ContextState {
    void* const* functions;
    ILogger* logger;
    std::shared_ptr<Plan const> plan;
    std::map<std::string, void*> addresses;
    // Page-locked; kept, because a stream or a graph may still use it.
    std::map<std::string, void*> staging;
};

void error(ILogger* logger, std::string const& words) { logger->log(ILogger::Severity::kERROR, words.c_str()); }

template <class Interface, class State, class V>
struct Object final : Interface {
    explicit Object(std::unique_ptr<State> made) : state(std::move(made)) {
        this->mImpl = reinterpret_cast<V*>(state.get());
    }
    std::unique_ptr<State> state;
};
using RuntimeObject = Object<IRuntime, RuntimeState, apiv::VRuntime>;
using EngineObject = Object<ICudaEngine, EngineState, apiv::VCudaEngine>;
using ContextObject = Object<IExecutionContext, ContextState, apiv::VExecutionContext>;

// --- running ---

void compute(void* user) {
    auto& context = *static_cast<ContextState*>(user);
    Plan const& plan = *context.plan;
    FakeTensor const* input = nullptr;
    std::vector<FakeTensor const*> outputs;
    for (FakeTensor const& tensor : plan.tensors) {
        if (tensor.is_input) {
            input = &tensor;
        } else {
            outputs.push_back(&tensor);
        }
    }
    void const* pixels = context.staging[input->name];
    auto pixel = [&](size_t i) {
        return input->type == DataType::kHALF ? from_half(static_cast<uint16_t const*>(pixels)[i])
                                              : static_cast<float const*>(pixels)[i];
    };
    for (int64_t at = 0; at < input->shape.d[0]; ++at) {
        Picture const* nearest = nullptr;
        double least = 0.01;  // of the picture's own length; 16 bits and another resampling stay far below
        for (Picture const& picture : plan.pictures) {
            double difference = 0, length = 0;
            for (size_t i = 0; i < picture.sample.size(); ++i) {
                double const there = picture.sample[i];
                double const here = pixel(size_t(at) * input->values() + i * plan.stride);
                difference += (here - there) * (here - there);
                length += there * there;
            }
            double const relative = std::sqrt(difference / length);
            if (relative < least) {
                least = relative;
                nearest = &picture;
            }
        }
        for (size_t i = 0; i < outputs.size(); ++i) {
            size_t const values = outputs[i]->values();
            float* to = static_cast<float*>(context.staging[outputs[i]->name]) + size_t(at) * values;
            if (nearest != nullptr && nearest->outputs[i].size() == values) {
                std::memcpy(to, nearest->outputs[i].data(), values * sizeof(float));
            } else {
                std::memset(to, 0xFF, values * sizeof(float));
            }
        }
    }
}

bool enqueue(ContextState* context, cudaStream_t stream) {
    if (fails("enqueue")) {
        error(context->logger, "out of tactics");
        return false;
    }
    auto copy = [&](bool inputs) {
        for (FakeTensor const& tensor : context->plan->tensors) {
            if (tensor.is_input != inputs) continue;
            size_t const bytes = tensor.value_bytes() * tensor.values() * size_t(tensor.shape.d[0]);
            void*& staging = context->staging[tensor.name];
            if (staging == nullptr && cuda().host_alloc(&staging, bytes, 0) != 0) return false;
            auto const device = reinterpret_cast<uintptr_t>(context->addresses[tensor.name]);
            int const failed = inputs ? cuda().to_host(staging, device, bytes, stream)
                                      : cuda().to_device(device, staging, bytes, stream);
            if (failed != 0) {
                error(context->logger, "copying " + tensor.name + " fails with " + std::to_string(failed));
                return false;
            }
        }
        return true;
    };
    for (FakeTensor const& tensor : context->plan->tensors) {
        if (context->addresses[tensor.name] == nullptr) {
            error(context->logger, "Address is not set for tensor " + tensor.name);
            return false;
        }
    }
    return copy(true) && cuda().host_function(stream, compute, context) == 0 && copy(false);
}

bool set_address(ContextState* context, char const* name, void* address) {
    if (context->plan->find(name) == nullptr) {
        error(context->logger, std::string("there is no tensor ") + name);
        return false;
    }
    context->addresses[name] = address;
    return true;
}

IExecutionContext* create_context(EngineState* engine, ExecutionContextAllocationStrategy) {
    using V = apiv::VExecutionContext;
    static Functions const functions =
        Functions().set(&V::setTensorAddress, set_address).set(&V::enqueueV3, enqueue);
    if (fails("context")) {
        error(engine->logger, "out of memory");
        return nullptr;
    }
    return new ContextObject(std::unique_ptr<ContextState>(
        new ContextState{functions.table(), engine->logger, engine->plan, {}, {}}));
}

int32_t tensor_count(EngineState* engine) { return int32_t(engine->plan->tensors.size()); }
char const* tensor_name(EngineState* engine, int32_t index) {
    return engine->plan->tensors.at(size_t(index)).name.c_str();
}
DataType tensor_type(EngineState* engine, char const* name) { return engine->plan->find(name)->type; }
TensorIOMode tensor_mode(EngineState* engine, char const* name) {
    return engine->plan->find(name)->is_input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}
Dims tensor_shape(EngineState* engine, char const* name) { return engine->plan->find(name)->shape; }
Dims profile_shape(EngineState* engine, char const* name, int32_t, OptProfileSelector) {
    return tensor_shape(engine, name);
}

ICudaEngine* deserialize(RuntimeState* runtime, void const* data, size_t size) {
    using V = apiv::VCudaEngine;
    static Functions const functions = Functions()
                                           .set(&V::getNbIOTensors, tensor_count)
                                           .set(&V::getIOTensorName, tensor_name)
                                           .set(&V::getTensorDataType, tensor_type)
                                           .set(&V::getTensorIOMode, tensor_mode)
                                           .set(&V::getTensorShape, tensor_shape)
                                           .set(&V::getProfileShape, profile_shape)
                                           .set(&V::createExecutionContext, create_context);
    std::shared_ptr<Plan const> plan = read_plan(data, size);
    if (!plan) {
        error(runtime->logger, "the plan does not begin as a plan of this library does");
        return nullptr;
    }
    return new EngineObject(
        std::unique_ptr<EngineState>(new EngineState{functions.table(), runtime->logger, plan}));
}

}  // namespace

extern "C" int32_t getInferLibVersion() noexcept {
    char const* version = std::getenv("FAKE_TENSORRT_VERSION");
    return version != nullptr ? std::atoi(version) : int32_t(NV_TENSORRT_VERSION);
}

extern "C" void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept {
    using V = apiv::VRuntime;
    using Deserialize = ICudaEngine* (V::*)(void const*, size_t) noexcept;
    static Functions const functions =
        Functions().set(static_cast<Deserialize>(&V::deserializeCudaEngine), deserialize);
    if (version != NV_TENSORRT_VERSION) return nullptr;
    return static_cast<IRuntime*>(new RuntimeObject(
        std::unique_ptr<RuntimeState>(new RuntimeState{functions.table(), static_cast<ILogger*>(logger)})));
}
