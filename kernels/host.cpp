// The CPU build of standoff.cu: what CUDA's words mean here, and each kernel as a loop over its blocks and threads.
// Where the device has a barrier, a loop over the block's threads ends and another begins; a missing barrier
// cannot be seen here (compute-sanitizer racecheck on a device sees it).

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define SHARED_FN static inline
#define FLOAT_BITS(value) float_bits(value)
#define NAN_VALUE NAN
#define ATOMIC_ADD(address, value) (*(address) += (value))
#define F16_BITS(value, bits) ((bits) = f16_bits(value))

static inline uint32_t float_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// IEEE 754 binary32 to binary16, to the nearest, ties to even: what cvt.rn.f16.f32 does with numbers.
static inline uint16_t f16_bits(float value) {
    const uint32_t bits = float_bits(value);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x47800000) return sign | 0x7c00;
    // Below 2^-14 the steps are 2^-24: adding 0.5 leaves their number, rounded, in the last bits.
    if (magnitude < 0x38800000) return sign | uint16_t(float_bits(std::fabs(value) + 0.5f) - 0x3f000000);
    const uint32_t odd = magnitude >> 13 & 1;
    return sign | uint16_t((magnitude - 0x38000000 + 0xfff + odd) >> 13);
}

using std::fmaf;
using std::fmaxf;
using std::fminf;

#include "standoff.cu"

namespace {

struct Grid {
    unsigned x, y, z;
};

// A block's shared memory with exactly the bytes that the launch asked for, so that a sanitizer sees what is beyond.
class Shared {
  public:
    explicit Shared(unsigned bytes) : memory(static_cast<float *>(std::malloc(bytes + 1))) {}
    ~Shared() { std::free(memory); }
    Shared(const Shared &) = delete;
    Shared &operator=(const Shared &) = delete;
    float *memory;
};

int tiled(const Batch &batch, Grid grid, Grid block, unsigned shared_bytes) {
    Shared shared(shared_bytes);
    const int threads = int(block.x);
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                // What another block left there must not matter.
                std::memset(shared.memory, 0xff, shared_bytes);
                const Tile tile = tile_of(&batch, int(z), int(x), int(y));
                for (int t = 0; t < threads; ++t) tile_down(&batch, int(z), &tile, shared.memory, t, threads);
                for (int t = 0; t < threads; ++t) tile_across(&batch, int(z), &tile, shared.memory, t, threads);
            }
        }
    }
    return 0;
}

int direct(const Batch &batch, Grid grid, Grid block) {
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y * block.y; ++y) {
            for (unsigned x = 0; x < grid.x * block.x; ++x) direct_pixel(&batch, int(z), int(x), int(y));
        }
    }
    return 0;
}

int points(const DepthToPoints &launch, Grid grid, Grid block) {
    for (long long i = 0; i < (long long)grid.x * block.x; ++i) point_of_depth(&launch, i);
    return 0;
}

int nearest(const NearestPair &launch, Grid grid, Grid block, unsigned shared_bytes) {
    Shared shared(shared_bytes);
    const int threads = int(block.x);
    for (unsigned x = 0; x < grid.x; ++x) {
        unsigned long long best = ~0ull;
        for (int first = 0; first < launch.b_count; first += PAIR_TILE) {
            for (int t = 0; t < threads; ++t) pair_load(&launch, first, shared.memory, t, threads);
            for (int t = 0; t < threads; ++t) {
                best = pair_nearest(&launch, first, shared.memory, int(x) * threads + t, best);
            }
        }
        if (best < *launch.best) *launch.best = best;
    }
    return 0;
}

int histogram(const ZoneHistogram &launch, Grid grid, Grid block, unsigned shared_bytes) {
    Shared shared(shared_bytes);
    unsigned *kept = reinterpret_cast<unsigned *>(shared.memory);
    const int threads = int(block.x);
    const long long stride = (long long)grid.x * threads;
    for (unsigned x = 0; x < grid.x; ++x) {
        for (int t = 0; t < threads; ++t) histogram_clear(&launch, kept, t, threads);
        for (int t = 0; t < threads; ++t) histogram_count(&launch, kept, (long long)x * threads + t, stride);
        for (int t = 0; t < threads; ++t) histogram_merge(&launch, kept, t, threads);
    }
    return 0;
}

}  // namespace

// Runs the kernel of that name as cuLaunchKernel would: `parameters[0]` points to its one structure. 0 when it ran,
// 1 when there is no such kernel.
extern "C" int standoff_host_launch(const char *kernel, const unsigned grid[3], const unsigned block[3],
                                    unsigned shared_bytes, void **parameters) {
    const Grid g{grid[0], grid[1], grid[2]}, b{block[0], block[1], block[2]};
    const void *launch = parameters[0];
    const auto is = [&](const char *name) { return std::strcmp(kernel, name) == 0; };
    if (is("yuv_to_nchw_tiled")) return tiled(*static_cast<const Batch *>(launch), g, b, shared_bytes);
    if (is("yuv_to_nchw_direct")) return direct(*static_cast<const Batch *>(launch), g, b);
    if (is("depth_to_points")) return points(*static_cast<const DepthToPoints *>(launch), g, b);
    if (is("nearest_pair")) return nearest(*static_cast<const NearestPair *>(launch), g, b, shared_bytes);
    if (is("zone_histogram")) return histogram(*static_cast<const ZoneHistogram *>(launch), g, b, shared_bytes);
    return 1;
}

// Bytes of a kernel's structure, 0 when there is no such kernel: the program checks that its own have the same.
extern "C" unsigned standoff_host_parameter_bytes(const char *kernel) {
    const auto is = [&](const char *name) { return std::strcmp(kernel, name) == 0; };
    if (is("yuv_to_nchw_tiled") || is("yuv_to_nchw_direct")) return sizeof(Batch);
    if (is("depth_to_points")) return sizeof(DepthToPoints);
    if (is("nearest_pair")) return sizeof(NearestPair);
    if (is("zone_histogram")) return sizeof(ZoneHistogram);
    return 0;
}
