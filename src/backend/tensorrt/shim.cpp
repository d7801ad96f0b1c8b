// The border to TensorRT, whose interface is C++ classes: a table of plain functions that Rust calls.
//
// Compiled once for each ABI whose headers the build finds (10.x, 11.x, RTX), with the namespaces renamed by
// macros, so that all of them live in one program. Nothing here links to TensorRT: the entry points come from
// the library that the Rust side has loaded and whose version it has checked. No exception leaves this file.

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>

namespace {

using nvinfer1::Dims;

// May be called from TensorRT's own threads. Severities are TensorRT's, 0 internal error ... 4 verbose, or our -1.
using Log = void (*)(void* user, int32_t severity, char const* words);
using Bytes = void (*)(void* user, void const* data, size_t size);
using Create = void* (*)(void* logger, int32_t version);
using CreateParser = void* (*)(void* network, void* logger, int version);

// Words of this file: they say more than the lines of TensorRT's around them.
constexpr int32_t kOwnWords = -1;
constexpr int32_t kMostSides = 8;

// The same structs are in ffi.rs, field by field.
struct Build {
    Create create_builder;
    CreateParser create_parser;
    void const* onnx;
    size_t onnx_size;
    char const* onnx_path;  // where weights outside the file are looked for
    int64_t const* input_shape;  // four sides that the only input must have; null to leave it as it is
    uint64_t workspace_bytes;  // 0 for TensorRT's default
    int32_t compute_capability;  // 86 for sm_86; 0 for the GPU that is here
    void const* timing_cache;
    size_t timing_cache_size;
    Log log;
    void* log_user;
    Bytes take_plan;
    Bytes take_timing_cache;
    void* bytes_user;
};

enum Step : int32_t { kDone = 0, kCreate = 1, kParse = 2, kInput = 3, kTarget = 4, kCompile = 5, kException = 6 };

struct Tensor {
    char const* name;
    int32_t type;
    int32_t is_input;
    int32_t rank;
    int64_t sides[kMostSides];
};

class Logger final : public nvinfer1::ILogger {
public:
    Logger(Log log, void* user) : log_(log), user_(user) {}

    void log(Severity severity, nvinfer1::AsciiChar const* words) noexcept override {
        log_(user_, static_cast<int32_t>(severity), words == nullptr ? "" : words);
    }

    void error(std::string const& words) { log_(user_, kOwnWords, words.c_str()); }

private:
    Log log_;
    void* user_;
};

// The logger must outlive what it was given to.
struct Runtime {
    Runtime(Log log, void* user) : logger(log, user) {}

    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime;
};

void copy(Dims const& dims, Tensor* tensor) {
    tensor->rank = dims.nbDims;
    for (int32_t i = 0; i < dims.nbDims && i < kMostSides; ++i) {
        tensor->sides[i] = dims.d[i];
    }
}

std::string words_of(int64_t const* sides, int32_t rank) {
    std::string words;
    for (int32_t i = 0; i < rank; ++i) {
        words += (i == 0 ? "" : "x") + std::to_string(sides[i]);
    }
    return words;
}

bool parse(nvonnxparser::IParser& parser, Build const& build, Logger& logger) {
    if (parser.parse(build.onnx, build.onnx_size, build.onnx_path)) {
        return true;
    }
    for (int i = 0; i < parser.getNbErrors(); ++i) {
        nvonnxparser::IParserError const* error = parser.getError(i);
        char const* name = error->nodeName();
        char const* op = error->nodeOperator();
        std::string where;
        if (error->node() >= 0 && name != nullptr && op != nullptr) {
            where = std::string("node '") + name + "' (" + op + "): ";
        }
        logger.error(where + (error->desc() == nullptr ? "no description" : error->desc()));
    }
    return false;
}

// Fixes the sides that the file leaves open; a side that it fixes must be the one that is wanted.
bool set_input(nvinfer1::INetworkDefinition& network, int64_t const* wanted, Logger& logger) {
    if (network.getNbInputs() != 1) {
        logger.error("the graph has " + std::to_string(network.getNbInputs()) + " inputs, one is needed");
        return false;
    }
    nvinfer1::ITensor& input = *network.getInput(0);
    Dims dims = input.getDimensions();
    std::string const name = std::string("input '") + input.getName() + "' is ";
    Tensor found{};
    copy(dims, &found);
    bool fits = dims.nbDims == 4;
    for (int32_t i = 0; fits && i < 4; ++i) {
        fits = dims.d[i] < 0 || dims.d[i] == wanted[i];
        dims.d[i] = wanted[i];
    }
    if (!fits) {
        logger.error(name + words_of(found.sides, found.rank) + ", wanted is " + words_of(wanted, 4));
        return false;
    }
    input.setDimensions(dims);
    return true;
}

bool set_target(nvinfer1::IBuilderConfig& config, int32_t compute_capability) {
#ifdef TRT_MAJOR_RTX
    auto const target = compute_capability == 0 ? nvinfer1::ComputeCapability::kCURRENT
                                                : static_cast<nvinfer1::ComputeCapability>(compute_capability);
    return config.setNbComputeCapabilities(1) && config.setComputeCapability(target, 0);
#else
    (void)config;
    return compute_capability == 0;
#endif
}

Step build_into(Build const& build, Logger& logger) {
    std::unique_ptr<nvinfer1::IBuilder> builder{
        static_cast<nvinfer1::IBuilder*>(build.create_builder(&logger, NV_TENSORRT_VERSION))};
    if (!builder) {
        return kCreate;
    }
    std::unique_ptr<nvinfer1::IBuilderConfig> config{builder->createBuilderConfig()};
    uint32_t flags = 0;
#if NV_TENSORRT_MAJOR == 10
    // Precision is what the file says, as it always is from 11 on and with RTX.
    flags = 1U << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#endif
    std::unique_ptr<nvinfer1::INetworkDefinition> network{builder->createNetworkV2(flags)};
    if (!config || !network) {
        return kCreate;
    }
    std::unique_ptr<nvonnxparser::IParser> parser{static_cast<nvonnxparser::IParser*>(
        build.create_parser(network.get(), &logger, NV_ONNX_PARSER_VERSION))};
    if (!parser) {
        return kCreate;
    }
    if (!parse(*parser, build, logger)) {
        return kParse;
    }
    if (network->getNbOutputs() == 0) {
        // An empty file is a valid protocol buffer.
        logger.error("there is no graph in the file");
        return kParse;
    }
    if (build.input_shape != nullptr && !set_input(*network, build.input_shape, logger)) {
        return kInput;
    }
    if (!set_target(*config, build.compute_capability)) {
        return kTarget;
    }
    if (build.workspace_bytes != 0) {
        config->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, build.workspace_bytes);
    }
#ifndef TRT_MAJOR_RTX
    // RTX times kernels when the plan is run, so it has no such cache.
    std::unique_ptr<nvinfer1::ITimingCache> timing{
        config->createTimingCache(build.timing_cache, build.timing_cache_size)};
    if (timing) {
        config->setTimingCache(*timing, false);
    }
#endif
    std::unique_ptr<nvinfer1::IHostMemory> plan{builder->buildSerializedNetwork(*network, *config)};
    if (!plan || plan->size() == 0) {
        return kCompile;
    }
    build.take_plan(build.bytes_user, plan->data(), plan->size());
#ifndef TRT_MAJOR_RTX
    std::unique_ptr<nvinfer1::IHostMemory> times{timing ? timing->serialize() : nullptr};
    if (times) {
        build.take_timing_cache(build.bytes_user, times->data(), times->size());
    }
#endif
    return kDone;
}

int32_t build(Build const* build) noexcept {
    try {
        Logger logger{build->log, build->log_user};
        try {
            return build_into(*build, logger);
        } catch (std::exception const& exception) {
            logger.error(exception.what());
        }
    } catch (...) {
    }
    return kException;
}

void* runtime_create(Create create, Log log, void* user) noexcept {
    try {
        auto runtime = std::make_unique<Runtime>(log, user);
        runtime->runtime.reset(static_cast<nvinfer1::IRuntime*>(create(&runtime->logger, NV_TENSORRT_VERSION)));
        return runtime->runtime ? runtime.release() : nullptr;
    } catch (...) {
        return nullptr;
    }
}

void runtime_destroy(void* runtime) noexcept { delete static_cast<Runtime*>(runtime); }

nvinfer1::ICudaEngine& engine_of(void* engine) { return *static_cast<nvinfer1::ICudaEngine*>(engine); }

nvinfer1::IExecutionContext& context_of(void* context) {
    return *static_cast<nvinfer1::IExecutionContext*>(context);
}

void* engine_create(void* runtime, void const* plan, size_t size) noexcept {
    return static_cast<Runtime*>(runtime)->runtime->deserializeCudaEngine(plan, size);
}

void engine_destroy(void* engine) noexcept { delete static_cast<nvinfer1::ICudaEngine*>(engine); }

int32_t engine_tensor_count(void* engine) noexcept { return engine_of(engine).getNbIOTensors(); }

// Shape as the plan has it: a side that is chosen at run time is -1.
int32_t engine_tensor(void* engine, int32_t index, Tensor* tensor) noexcept {
    char const* name = engine_of(engine).getIOTensorName(index);
    if (name == nullptr) {
        return 0;
    }
    tensor->name = name;
    tensor->type = static_cast<int32_t>(engine_of(engine).getTensorDataType(name));
    tensor->is_input = engine_of(engine).getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT ? 1 : 0;
    copy(engine_of(engine).getTensorShape(name), tensor);
    return 1;
}

// Shape of an input in the first optimisation profile: 0 least, 1 optimal, 2 largest.
int32_t engine_profile_shape(void* engine, char const* name, int32_t select, Tensor* tensor) noexcept {
    copy(engine_of(engine).getProfileShape(name, 0, static_cast<nvinfer1::OptProfileSelector>(select)), tensor);
    return tensor->rank >= 0 ? 1 : 0;
}

void* context_create(void* engine) noexcept { return engine_of(engine).createExecutionContext(); }

void context_destroy(void* context) noexcept { delete static_cast<nvinfer1::IExecutionContext*>(context); }

int32_t context_set_shape(void* context, char const* name, int64_t const* sides, int32_t rank) noexcept {
    Dims dims{};
    dims.nbDims = rank;
    for (int32_t i = 0; i < rank && i < kMostSides; ++i) {
        dims.d[i] = sides[i];
    }
    return context_of(context).setInputShape(name, dims) ? 1 : 0;
}

int32_t context_set_address(void* context, char const* name, void* address) noexcept {
    return context_of(context).setTensorAddress(name, address) ? 1 : 0;
}

int32_t context_enqueue(void* context, void* stream) noexcept {
    return context_of(context).enqueueV3(static_cast<cudaStream_t>(stream)) ? 1 : 0;
}

struct Table {
    int32_t header_version;  // as getInferLibVersion() counts
    int32_t (*build)(Build const*) noexcept;
    void* (*runtime_create)(Create, Log, void*) noexcept;
    void (*runtime_destroy)(void*) noexcept;
    void* (*engine_create)(void*, void const*, size_t) noexcept;
    void (*engine_destroy)(void*) noexcept;
    int32_t (*engine_tensor_count)(void*) noexcept;
    int32_t (*engine_tensor)(void*, int32_t, Tensor*) noexcept;
    int32_t (*engine_profile_shape)(void*, char const*, int32_t, Tensor*) noexcept;
    void* (*context_create)(void*) noexcept;
    void (*context_destroy)(void*) noexcept;
    int32_t (*context_set_shape)(void*, char const*, int64_t const*, int32_t) noexcept;
    int32_t (*context_set_address)(void*, char const*, void*) noexcept;
    int32_t (*context_enqueue)(void*, void*) noexcept;
};

}  // namespace

extern "C" {
extern Table const STANDOFF_TABLE;
Table const STANDOFF_TABLE = {
    static_cast<int32_t>(NV_TENSORRT_VERSION),
    build,
    runtime_create,
    runtime_destroy,
    engine_create,
    engine_destroy,
    engine_tensor_count,
    engine_tensor,
    engine_profile_shape,
    context_create,
    context_destroy,
    context_set_shape,
    context_set_address,
    context_enqueue,
};
}
