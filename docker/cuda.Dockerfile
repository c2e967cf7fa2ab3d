# Spanwise for NVIDIA GPUs (H100, H200), with its GPU tests:
#   docker build -f docker/cuda.Dockerfile -t spanwise:cuda .
#   docker run --rm --gpus all --shm-size 1g spanwise:cuda tests/gpu.sh
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04
WORKDIR /spanwise
COPY launcher/install_packages.sh launcher/install_packages.sh
# The devel image brings nvcc, cuBLAS and NCCL.
RUN launcher/install_packages.sh && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPANWISE_NATIVE=OFF -DSPANWISE_CUDA=ON -Wno-dev \
    && cmake --build build
ENV PATH=/spanwise/build/bin:$PATH
CMD ["spanwise", "help"]
