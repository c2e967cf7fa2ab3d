# Spanwise for machines without a GPU:
#   docker build -f docker/cpu.Dockerfile -t spanwise:cpu .
#   docker run --rm -v "$PWD/runs:/spanwise/runs" spanwise:cpu spanwise help
FROM debian:12-slim
WORKDIR /spanwise
COPY launcher/install_packages.sh launcher/install_packages.sh
RUN launcher/install_packages.sh && rm -rf /var/lib/apt/lists/*
COPY . .
# Any x86-64 or arm64 processor may run the image, so nothing is compiled for this one's.
RUN cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPANWISE_NATIVE=OFF -DSPANWISE_CUDA=OFF \
          -DSPANWISE_TESTS=OFF -DSPANWISE_BENCHMARKS=OFF -Wno-dev \
    && cmake --build build
ENV PATH=/spanwise/build/bin:$PATH
CMD ["spanwise", "help"]
