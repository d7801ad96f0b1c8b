// All that TensorRT's headers take from CUDA's: the names of two handles. Standing first in the include path, it
// makes the shim compile the same with and without a CUDA toolkit.
#pragma once

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
