// A test double of libnvcuvid.so.1 on top of fake_cuda.cpp: a decoder that takes what GStreamer's stateless H.264
// decoders give it and paints pictures of its own, each with the number of the picture it was asked for, so that a
// test knows what has to arrive. It does not decode.
//
// FAKE_NVDEC_SESSIONS=1   takes so many sessions at a time
// FAKE_NVDEC_BREAKS=40    refuses every picture from the 40th on
// FAKE_NVDEC_NONE=1       can decode nothing: GStreamer registers its uploader and no decoder
//
// Structures: NVIDIA's cuviddec.h of the Video Codec SDK (MIT), those fields that are used.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

extern "C" {
int cuMemAlloc_v2(uintptr_t *address, size_t bytes);
int cuMemFree_v2(uintptr_t address);
int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *stream);
}

namespace {

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, UNKNOWN = 999, NOT_SUPPORTED = 801 };
enum { CODEC_H264 = 4, CHROMA_420 = 1 };

// CUVIDDECODECAPS.
struct Caps {
    int codec, chroma;
    unsigned depth_minus_8, reserved_1[3];
    unsigned char supported, decoders;
    unsigned short formats;
    unsigned max_width, max_height, max_blocks;
    unsigned short min_width, min_height;
};

// CUVIDDECODECREATEINFO.
struct Create {
    unsigned long width, height, surfaces;
    int codec, chroma;
    unsigned long flags, depth_minus_8, intra_only, max_width, max_height, reserved_1;
    short display[4];
    int format, deinterlace;
    unsigned long target_width, target_height;
};

// CUVIDPICPARAMS.
struct Pictures {
    int width_in_blocks, height_in_blocks, index;
};

// CUVIDPROCPARAMS.
struct Process {
    int progressive, second_field, top_field_first, unpaired_field;
    unsigned reserved_flags, reserved_zero;
    unsigned long long raw_input;
    unsigned raw_pitch, raw_format;
    unsigned long long raw_output;
    unsigned raw_output_pitch, reserved_1;
    void *stream;
};

struct Decoder {
    unsigned width, height;
    std::map<int, unsigned> numbers;
};

std::atomic<int> sessions{0};
std::atomic<unsigned> decoded{0};

int number(const char *name, int otherwise) {
    const char *text = std::getenv(name);
    return text ? std::atoi(text) : otherwise;
}

}  // namespace

extern "C" {

int cuvidGetDecoderCaps(Caps *caps) {
    const bool none = number("FAKE_NVDEC_NONE", 0) != 0;
    caps->supported = !none && caps->codec == CODEC_H264 && caps->chroma == CHROMA_420 && caps->depth_minus_8 == 0;
    caps->min_width = caps->min_height = 48;
    caps->max_width = caps->max_height = 4096;
    return OK;
}

int cuvidCreateDecoder(Decoder **decoder, const Create *create) {
    if (++sessions > number("FAKE_NVDEC_SESSIONS", INT32_MAX)) {
        --sessions;
        return OUT_OF_MEMORY;
    }
    *decoder = new Decoder{unsigned(create->target_width), unsigned(create->target_height), {}};
    return OK;
}

int cuvidDestroyDecoder(Decoder *decoder) {
    --sessions;
    delete decoder;
    return OK;
}

int cuvidDecodePicture(Decoder *decoder, const Pictures *pictures) {
    if (int(decoded) >= number("FAKE_NVDEC_BREAKS", INT32_MAX)) return UNKNOWN;
    decoder->numbers[pictures->index] = decoded++;
    return OK;
}

int cuvidMapVideoFrame64(Decoder *decoder, int index, uintptr_t *address, unsigned *pitch, const Process *process) {
    const unsigned width = decoder->width, height = decoder->height, n = decoder->numbers[index];
    *pitch = (width + 255) / 256 * 256;

    std::vector<unsigned char> picture(size_t(*pitch) * (height + (height + 1) / 2), 0xEE);
    for (unsigned y = 0; y < height; ++y) {
        for (unsigned x = 0; x < width; ++x) picture[size_t(y) * *pitch + x] = (x + 3 * y + 7 * n) & 0xFF;
    }
    for (unsigned y = 0; y < (height + 1) / 2; ++y) {
        for (unsigned x = 0; x < width + width % 2; ++x) {
            picture[size_t(height + y) * *pitch + x] = (5 * x + y + 11 * n) & 0xFF;
        }
    }
    if (int error = cuMemAlloc_v2(address, picture.size())) return error;
    return cuMemcpyHtoDAsync_v2(*address, picture.data(), picture.size(), process->stream);
}

int cuvidUnmapVideoFrame64(Decoder *, uintptr_t address) { return cuMemFree_v2(address); }

// The decoders with NVIDIA's own parser are not played.
int cuvidCreateVideoParser() { return NOT_SUPPORTED; }
int cuvidParseVideoData() { return NOT_SUPPORTED; }
int cuvidDestroyVideoParser() { return NOT_SUPPORTED; }
int cuvidCtxLockCreate() { return NOT_SUPPORTED; }
int cuvidCtxLockDestroy() { return NOT_SUPPORTED; }
int cuvidCtxLock() { return NOT_SUPPORTED; }
int cuvidCtxUnlock() { return NOT_SUPPORTED; }
}
