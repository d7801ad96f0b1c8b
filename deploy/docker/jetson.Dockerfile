# standoff for a Jetson: JetPack 6 (Orin; TensorRT 10.3) and JetPack 7 (Thor; TensorRT 10.13 and later).
#
#   docker build -f deploy/docker/jetson.Dockerfile --build-arg BASE=<image> -t standoff .
#   docker run --runtime nvidia --network host -v /etc/standoff:/etc/standoff:ro -v standoff:/var/lib/standoff standoff
#
# BASE is NVIDIA's image with JetPack of the version on the device, with TensorRT and its headers: `l4t-jetpack` (tag
# r36.x) for JetPack 6, `tensorrt` for JetPack 7, from NVIDIA's catalogue. Build it on the device, or elsewhere for
# linux/arm64. JetPack 6.2's TensorRT 10.3 is known to give wrong numbers with this kind of model: standoff compares
# before it believes, and runs without it then.
#
# NOT BUILT: the machines where this was written cannot pull an image. Please tell what does not work.
ARG BASE
FROM ${BASE} AS build
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \
        build-essential ca-certificates curl pkg-config \
        libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev \
    && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
WORKDIR /src
COPY . .
RUN . "$HOME/.cargo/env" && cargo build --release --no-default-features --features gstreamer,cuda,tensorrt

FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive
# NVIDIA's container runtime brings the driver, the decoder and its GStreamer elements from the device.
ENV NVIDIA_DRIVER_CAPABILITIES=all
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates python3 python3-pip \
        gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/standoff /usr/bin/standoff
RUN useradd --system --home-dir /var/lib/standoff --create-home --groups video standoff
ENV STANDOFF_HOME=/var/lib/standoff CUDA_CACHE_PATH=/var/lib/standoff/cuda-cache MALLOC_ARENA_MAX=2
USER standoff
RUN standoff model fetch onnxruntime && standoff model fetch dinov2-small
VOLUME /var/lib/standoff
# Once on the device: docker run --runtime nvidia ... standoff engine build
ENTRYPOINT ["/usr/bin/standoff"]
CMD ["run", "/etc/standoff/standoff.yaml"]
