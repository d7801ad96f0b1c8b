# standoff for x86-64 with an NVIDIA GPU: TensorRT, ONNX Runtime's CUDA provider, decoding on the GPU.
#
#   docker build -f deploy/docker/x86_64-cuda.Dockerfile -t standoff .
#   docker run --gpus all --network host -v /etc/standoff:/etc/standoff:ro -v standoff:/var/lib/standoff standoff
#
# NOT BUILT: the machines where this was written cannot pull an image. Please tell what does not work.
ARG CUDA=13.0.1
ARG UBUNTU=24.04

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU} AS build
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \
        build-essential ca-certificates curl pkg-config \
        libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev \
        libnvinfer-headers-dev libnvonnxparsers-dev \
    && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
WORKDIR /src
COPY . .
RUN . "$HOME/.cargo/env" && cargo build --release --no-default-features --features gstreamer,cuda,tensorrt

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU}
ENV DEBIAN_FRONTEND=noninteractive
# The driver's part for decoding comes from the host, when it is asked for.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates python3 python3-pip \
        gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav \
        libnvinfer10 libnvonnxparsers10 \
        libcublas-13-0 libcurand-13-0 cuda-cudart-13-0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/standoff /usr/bin/standoff
RUN useradd --system --home-dir /var/lib/standoff --create-home standoff
ENV STANDOFF_HOME=/var/lib/standoff CUDA_CACHE_PATH=/var/lib/standoff/cuda-cache MALLOC_ARENA_MAX=2
USER standoff
RUN standoff model fetch onnxruntime && standoff model fetch onnxruntime-gpu && standoff model fetch dinov2-small
VOLUME /var/lib/standoff
# Once on the machine that it will run on: docker run --gpus all ... standoff engine build
ENTRYPOINT ["/usr/bin/standoff"]
CMD ["run", "/etc/standoff/standoff.yaml"]
