// The arithmetic of standoff's GPU kernels, once: NVRTC compiles this file for the device (standoff.ptx), and
// host.cpp includes it for the CPU, so that every machine can run what the GPU runs.
//
// Rules that keep both the same to the last bit: every product that is added goes through fmaf by hand, the
// compilers contract nothing (--fmad=false, -ffp-contract=off), sums have one order, and reductions that run in
// any order are over integers.
//
// A kernel is written as phases. A phase is a function of the thread's number `t` of `nt`; between two phases all
// threads of the block meet. The kernels at the end only call them in order; host.cpp does the same with a loop.

#ifdef __CUDACC__
#define SHARED_FN __device__ static
#define F16_BITS(value, bits) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value))
#define FLOAT_BITS(value) __float_as_uint(value)
#define NAN_VALUE __int_as_float(0x7fc00000)
#define ATOMIC_ADD(address, value) atomicAdd(address, value)
#endif

// Pictures of one launch: what fits into the parameters of a kernel (4 KB) with room to spare.
#define MAX_PICTURES 16

// One axis of a resampling: output sample `i` is the sum of `counts[i]` weights times the samples from `starts[i]`.
// Weight `k` of output `i` is `weights[k * length + i]`: neighbouring threads read neighbouring weights.
struct Axis {
    const int *starts;
    const int *counts;
    const float *weights;
    long long length;
};

// One plane of bytes. Sample x of row y is `data[y * pitch + x * step]`.
struct Plane {
    const unsigned char *data;
    int pitch;
    int step;
    // Bytes of a row that may be read.
    int row_bytes;
};

// One picture: its planes, the tables of its geometry (luma across, luma down, chroma across, chroma down), its
// place inside the input, and YUV codes to RGB from 0 to 1: rgb = scale_y * y + from_u * u + from_v * v + bias.
struct Picture {
    struct Plane y, u, v;
    const struct Axis *axes;
    int left, top, width, height;
    float scale_y;
    float from_u[3];
    float from_v[3];
    float bias[3];
};

// A launch of `yuv_to_nchw`: grid.z pictures into `out`, [pictures, 3, input_height, input_width], f16 or f32.
struct Batch {
    struct Picture pictures[MAX_PICTURES];
    void *out;
    int input_width, input_height;
    // Whether `out` holds 16-bit floats.
    int half;
    // Outputs of a tile; samples of one row of each plane that are kept in shared memory.
    int tile_width, tile_height;
    int luma_pitch, chroma_pitch;
    // normalised = rgb * gain + shift, that is (rgb - mean) / deviation.
    float gain[3];
    float shift[3];
};

SHARED_FN int smaller(int a, int b) { return a < b ? a : b; }
SHARED_FN int larger(int a, int b) { return a > b ? a : b; }

SHARED_FN float sample(const struct Plane *plane, int x, int y) {
    return (float)plane->data[(long long)y * plane->pitch + (long long)x * plane->step];
}

// Output row `row` of the vertical filter at sample column `x`.
SHARED_FN float down_at(const struct Plane *plane, const struct Axis *down, int row, int x) {
    const int start = down->starts[row], count = down->counts[row];
    float sum = 0.0f;
    for (int k = 0; k < count; ++k) sum = fmaf(down->weights[k * down->length + row], sample(plane, x, start + k), sum);
    return sum;
}

// The picture's value at an output pixel, straight from the planes.
SHARED_FN float filtered_at(const struct Plane *plane, const struct Axis *across, const struct Axis *down, int column,
                            int row) {
    const int start = across->starts[column], count = across->counts[column];
    float sum = 0.0f;
    for (int k = 0; k < count; ++k) {
        sum = fmaf(across->weights[k * across->length + column], down_at(plane, down, row, start + k), sum);
    }
    return sum;
}

SHARED_FN void store(const struct Batch *batch, long long at, float value) {
    if (batch->half) {
        unsigned short bits;
        F16_BITS(value, bits);
        ((unsigned short *)batch->out)[at] = bits;
    } else {
        ((float *)batch->out)[at] = value;
    }
}

SHARED_FN long long out_at(const struct Batch *batch, int picture, int channel, int x, int y) {
    const long long plane = (long long)batch->input_width * batch->input_height;
    return ((long long)picture * 3 + channel) * plane + (long long)y * batch->input_width + x;
}

// Colours one pixel and writes its three values.
SHARED_FN void write_pixel(const struct Batch *batch, int picture, int x, int y, float luma, float u, float v) {
    const struct Picture *p = &batch->pictures[picture];
    for (int c = 0; c < 3; ++c) {
        float rgb = fmaf(p->scale_y, luma, fmaf(p->from_u[c], u, fmaf(p->from_v[c], v, p->bias[c])));
        rgb = fminf(fmaxf(rgb, 0.0f), 1.0f);
        store(batch, out_at(batch, picture, c, x, y), fmaf(rgb, batch->gain[c], batch->shift[c]));
    }
}

// Around the picture lies the mean of the training pictures, which is 0 when normalised.
SHARED_FN void write_padding(const struct Batch *batch, int picture, int x, int y) {
    for (int c = 0; c < 3; ++c) store(batch, out_at(batch, picture, c, x, y), 0.0f);
}

// ---- yuv_to_nchw_direct: one thread an output pixel, no shared memory. The oracle of the tiled one.

SHARED_FN void direct_pixel(const struct Batch *batch, int picture, int x, int y) {
    if (x >= batch->input_width || y >= batch->input_height) return;
    const struct Picture *p = &batch->pictures[picture];
    const int column = x - p->left, row = y - p->top;
    if (column < 0 || column >= p->width || row < 0 || row >= p->height) {
        write_padding(batch, picture, x, y);
        return;
    }
    const struct Axis *axes = p->axes;
    const float luma = filtered_at(&p->y, &axes[0], &axes[1], column, row);
    const float u = filtered_at(&p->u, &axes[2], &axes[3], column, row);
    const float v = filtered_at(&p->v, &axes[2], &axes[3], column, row);
    write_pixel(batch, picture, x, y, luma, u, v);
}

// ---- yuv_to_nchw_tiled: a block filters the source columns of its tile down into shared memory, then across.

// What a block does: its outputs inside the picture, and the samples that they need of each row.
struct Tile {
    int x, y;
    // Outputs of the picture in this tile: [first_column, last_column) x [first_row, last_row).
    int first_column, last_column, first_row, last_row;
    // First sample of each plane's rows that is kept, and one past the last.
    int luma_start, luma_end, chroma_start, chroma_end;
};

SHARED_FN struct Tile tile_of(const struct Batch *batch, int picture, int tile_x, int tile_y) {
    const struct Picture *p = &batch->pictures[picture];
    struct Tile tile;
    tile.x = tile_x * batch->tile_width;
    tile.y = tile_y * batch->tile_height;
    tile.first_column = larger(tile.x - p->left, 0);
    tile.last_column = smaller(tile.x + batch->tile_width - p->left, p->width);
    tile.first_row = larger(tile.y - p->top, 0);
    tile.last_row = smaller(tile.y + batch->tile_height - p->top, p->height);
    if (tile.first_column >= tile.last_column || tile.first_row >= tile.last_row) {
        tile.last_column = tile.first_column;
        tile.last_row = tile.first_row;
        tile.luma_start = tile.luma_end = tile.chroma_start = tile.chroma_end = 0;
        return tile;
    }
    const struct Axis *luma = &p->axes[0], *chroma = &p->axes[2];
    const int last = tile.last_column - 1;
    // From a multiple of four, so that four bytes can be read at once.
    tile.luma_start = luma->starts[tile.first_column] & ~3;
    tile.luma_end = luma->starts[last] + luma->counts[last];
    tile.chroma_start = chroma->starts[tile.first_column] & ~3;
    tile.chroma_end = chroma->starts[last] + chroma->counts[last];
    return tile;
}

// Filters bytes [first, end) of the rows of a plane down: four neighbouring bytes a step, `to` of byte `first` in
// the tile's first row being `kept[offset]`, of the next byte `kept[offset + step]`.
SHARED_FN void down_bytes(const struct Plane *plane, const struct Axis *down, const struct Tile *tile, int first, int end,
                          float *kept, int kept_pitch, int offset, int step, int t, int nt) {
    const int quads = (end - first + 3) / 4;
    const int rows = tile->last_row - tile->first_row;
    const bool aligned = (((unsigned long long)plane->data | (unsigned long long)plane->pitch) & 3) == 0;
    for (int i = t; i < quads * rows; i += nt) {
        const int tile_row = i / quads;
        const int byte = first + 4 * (i - tile_row * quads);
        const int row = tile->first_row + tile_row;
        const int start = down->starts[row], count = down->counts[row];
        const float *weights = down->weights + row;
        const unsigned char *source = plane->data + (long long)start * plane->pitch + byte;
        const int there = smaller(4, plane->row_bytes - byte);
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (aligned && there == 4) {
            for (int k = 0; k < count; ++k) {
                const unsigned int four = *(const unsigned int *)source;
                const float weight = weights[k * down->length];
                sums[0] = fmaf(weight, (float)(four & 255u), sums[0]);
                sums[1] = fmaf(weight, (float)((four >> 8) & 255u), sums[1]);
                sums[2] = fmaf(weight, (float)((four >> 16) & 255u), sums[2]);
                sums[3] = fmaf(weight, (float)(four >> 24), sums[3]);
                source += plane->pitch;
            }
        } else {
            for (int k = 0; k < count; ++k) {
                const float weight = weights[k * down->length];
                for (int j = 0; j < there; ++j) sums[j] = fmaf(weight, (float)source[j], sums[j]);
                source += plane->pitch;
            }
        }
        float *to = kept + tile_row * kept_pitch + offset + (byte - first) * step;
        for (int j = 0; j < there; ++j) to[j * step] = sums[j];
    }
}

// Phase 1. `kept` holds tile_height rows of luma_pitch, then tile_height rows of 2 * chroma_pitch (U and V in turns).
SHARED_FN void tile_down(const struct Batch *batch, int picture, const struct Tile *tile, float *kept, int t, int nt) {
    const struct Picture *p = &batch->pictures[picture];
    float *chroma = kept + batch->tile_height * batch->luma_pitch;
    const int pitch = 2 * batch->chroma_pitch;
    down_bytes(&p->y, &p->axes[1], tile, tile->luma_start, tile->luma_end, kept, batch->luma_pitch, 0, 1, t, nt);
    if (p->u.step == 2) {
        down_bytes(&p->u, &p->axes[3], tile, 2 * tile->chroma_start, 2 * tile->chroma_end, chroma, pitch, 0, 1, t, nt);
    } else {
        down_bytes(&p->u, &p->axes[3], tile, tile->chroma_start, tile->chroma_end, chroma, pitch, 0, 2, t, nt);
        down_bytes(&p->v, &p->axes[3], tile, tile->chroma_start, tile->chroma_end, chroma, pitch, 1, 2, t, nt);
    }
}

// Phase 2.
SHARED_FN void tile_across(const struct Batch *batch, int picture, const struct Tile *tile, const float *kept, int t,
                           int nt) {
    const struct Picture *p = &batch->pictures[picture];
    const struct Axis *luma_axis = &p->axes[0], *chroma_axis = &p->axes[2];
    for (int i = t; i < batch->tile_width * batch->tile_height; i += nt) {
        const int y = tile->y + i / batch->tile_width, x = tile->x + i % batch->tile_width;
        if (x >= batch->input_width || y >= batch->input_height) continue;
        const int column = x - p->left, row = y - p->top;
        if (column < 0 || column >= p->width || row < 0 || row >= p->height) {
            write_padding(batch, picture, x, y);
            continue;
        }
        const int tile_row = row - tile->first_row;
        const float *luma_row =
            kept + tile_row * batch->luma_pitch + luma_axis->starts[column] - tile->luma_start;
        const float *chroma_row = kept + batch->tile_height * batch->luma_pitch + 2 * tile_row * batch->chroma_pitch +
                                  2 * (chroma_axis->starts[column] - tile->chroma_start);
        float luma = 0.0f, u = 0.0f, v = 0.0f;
        const int luma_count = luma_axis->counts[column], chroma_count = chroma_axis->counts[column];
        for (int k = 0; k < luma_count; ++k) {
            luma = fmaf(luma_axis->weights[k * luma_axis->length + column], luma_row[k], luma);
        }
        for (int k = 0; k < chroma_count; ++k) {
            const float weight = chroma_axis->weights[k * chroma_axis->length + column];
            u = fmaf(weight, chroma_row[2 * k], u);
            v = fmaf(weight, chroma_row[2 * k + 1], v);
        }
        write_pixel(batch, picture, x, y, luma, u, v);
    }
}

// ---- depth_to_points: a depth map to points on the ground's axes.

struct DepthToPoints {
    // [count] depths along the camera's axis; [3, count] rays, z = 1; [3, count] points out.
    const float *depth;
    const float *rays;
    float *points;
    long long count;
    // metres = depth * scale + shift.
    float scale, shift;
    // Row-major 3 x 4: rotation and translation to the ground's axes.
    float ground_from_camera[12];
};

// A depth that is no number or not in front of the camera gives a point of NaNs.
SHARED_FN void point_of_depth(const struct DepthToPoints *launch, long long i) {
    if (i >= launch->count) return;
    const float metres = fmaf(launch->depth[i], launch->scale, launch->shift);
    const bool there = metres > 0.0f && metres <= 3.402823466e38f;
    const float x = metres * launch->rays[i];
    const float y = metres * launch->rays[launch->count + i];
    const float z = metres * launch->rays[2 * launch->count + i];
    for (int axis = 0; axis < 3; ++axis) {
        const float *m = launch->ground_from_camera + 4 * axis;
        const float value = fmaf(m[0], x, fmaf(m[1], y, fmaf(m[2], z, m[3])));
        launch->points[axis * launch->count + i] = there ? value : NAN_VALUE;
    }
}

// ---- nearest_pair: of two sets of points on the ground, the two that are nearest.

// Points of the second set that a block looks at at a time.
#define PAIR_TILE 256

struct NearestPair {
    // Coordinates in metres; at most 65,536 points a set. A NaN is no point.
    const float *a_x, *a_y, *b_x, *b_y;
    // Squared distance's bits << 32 | a << 16 | b; must hold ~0 before. Equal distances: the lowest a, then b.
    unsigned long long *best;
    int a_count, b_count;
};

// Phase 1: a part of the second set into shared memory.
SHARED_FN void pair_load(const struct NearestPair *launch, int first, float *kept, int t, int nt) {
    const int count = smaller(PAIR_TILE, launch->b_count - first);
    for (int i = t; i < count; i += nt) {
        kept[i] = launch->b_x[first + i];
        kept[PAIR_TILE + i] = launch->b_y[first + i];
    }
}

// Phase 2: one point of the first set against that part.
SHARED_FN unsigned long long pair_nearest(const struct NearestPair *launch, int first, const float *kept, int a,
                                          unsigned long long best) {
    if (a >= launch->a_count) return best;
    const int count = smaller(PAIR_TILE, launch->b_count - first);
    const float x = launch->a_x[a], y = launch->a_y[a];
    for (int i = 0; i < count; ++i) {
        const float dx = kept[i] - x, dy = kept[PAIR_TILE + i] - y;
        const float square = fmaf(dx, dx, dy * dy);
        // Not below is also what a NaN is.
        if (!(square >= 0.0f)) continue;
        const unsigned long long key = (unsigned long long)FLOAT_BITS(square) << 32 | (unsigned long long)a << 16 |
                                       (unsigned long long)(first + i);
        best = key < best ? key : best;
    }
    return best;
}

// ---- zone_histogram: how the values of a map are spread in each zone, for percentiles.

// Counters that fit into shared memory; more are counted in global memory.
#define KEPT_COUNTERS 8192

struct ZoneHistogram {
    // [count] values, [count] zones: 0 is none, 1 to `zones` count.
    const float *values;
    const unsigned char *zone;
    // [zones, bins], added to.
    unsigned int *counters;
    long long count;
    int zones, bins;
    // bin = (value - low) * bins_a_unit, the ends taking what is beyond. A NaN counts nowhere.
    float low, bins_a_unit;
};

// Which counter value `i` belongs to, or -1.
SHARED_FN int counter_of(const struct ZoneHistogram *launch, long long i) {
    const int zone = launch->zone[i];
    const float value = launch->values[i];
    if (zone == 0 || zone > launch->zones || value != value) return -1;
    const float bin = (value - launch->low) * launch->bins_a_unit;
    const float last = (float)(launch->bins - 1);
    return (zone - 1) * launch->bins + (int)fminf(fmaxf(bin, 0.0f), last);
}

SHARED_FN bool counters_are_kept(const struct ZoneHistogram *launch) {
    return (long long)launch->zones * launch->bins <= KEPT_COUNTERS;
}

// Phase 1.
SHARED_FN void histogram_clear(const struct ZoneHistogram *launch, unsigned int *kept, int t, int nt) {
    if (!counters_are_kept(launch)) return;
    for (int i = t; i < launch->zones * launch->bins; i += nt) kept[i] = 0;
}

// Phase 2: the values from `first`, `stride` apart.
SHARED_FN void histogram_count(const struct ZoneHistogram *launch, unsigned int *kept, long long first, long long stride) {
    unsigned int *counters = counters_are_kept(launch) ? kept : launch->counters;
    for (long long i = first; i < launch->count; i += stride) {
        const int counter = counter_of(launch, i);
        if (counter >= 0) ATOMIC_ADD(&counters[counter], 1u);
    }
}

// Phase 3.
SHARED_FN void histogram_merge(const struct ZoneHistogram *launch, const unsigned int *kept, int t, int nt) {
    if (!counters_are_kept(launch)) return;
    for (int i = t; i < launch->zones * launch->bins; i += nt) {
        if (kept[i] != 0) ATOMIC_ADD(&launch->counters[i], kept[i]);
    }
}

#ifdef __CUDACC__

extern __shared__ float shared_memory[];

extern "C" __global__ void __launch_bounds__(256) yuv_to_nchw_tiled(const __grid_constant__ Batch batch) {
    const int picture = blockIdx.z, t = threadIdx.x, nt = blockDim.x;
    const Tile tile = tile_of(&batch, picture, blockIdx.x, blockIdx.y);
    tile_down(&batch, picture, &tile, shared_memory, t, nt);
    __syncthreads();
    tile_across(&batch, picture, &tile, shared_memory, t, nt);
}

extern "C" __global__ void __launch_bounds__(256) yuv_to_nchw_direct(const __grid_constant__ Batch batch) {
    direct_pixel(&batch, blockIdx.z, blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y);
}

extern "C" __global__ void __launch_bounds__(256) depth_to_points(const __grid_constant__ DepthToPoints launch) {
    point_of_depth(&launch, (long long)blockIdx.x * blockDim.x + threadIdx.x);
}

extern "C" __global__ void __launch_bounds__(256) nearest_pair(const __grid_constant__ NearestPair launch) {
    const int a = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned long long best = ~0ull;
    for (int first = 0; first < launch.b_count; first += PAIR_TILE) {
        __syncthreads();
        pair_load(&launch, first, shared_memory, threadIdx.x, blockDim.x);
        __syncthreads();
        best = pair_nearest(&launch, first, shared_memory, a, best);
    }
    // One atomic a warp: the lowest key of the warp goes to its first lane.
    for (int lane = 16; lane > 0; lane /= 2) {
        const unsigned long long other = __shfl_down_sync(0xffffffffu, best, lane);
        best = other < best ? other : best;
    }
    if ((threadIdx.x & 31) == 0 && best != ~0ull) atomicMin(launch.best, best);
}

extern "C" __global__ void __launch_bounds__(256) zone_histogram(const __grid_constant__ ZoneHistogram launch) {
    unsigned int *kept = (unsigned int *)shared_memory;
    histogram_clear(&launch, kept, threadIdx.x, blockDim.x);
    __syncthreads();
    histogram_count(&launch, kept, (long long)blockIdx.x * blockDim.x + threadIdx.x, (long long)gridDim.x * blockDim.x);
    __syncthreads();
    histogram_merge(&launch, kept, threadIdx.x, blockDim.x);
}

#endif
