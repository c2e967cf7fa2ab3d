# Every package the project stands on. launcher/install_packages.sh installs them with apt.
# Read by installed libraries' SpanwiseConfig.cmake as well. Global: who adds this project links its libraries elsewhere.
set(targets_global ${CMAKE_FIND_PACKAGE_TARGETS_GLOBAL})
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)
find_package(OpenMP REQUIRED COMPONENTS CXX)
set(MPI_CXX_SKIP_MPICXX ON)
find_package(MPI REQUIRED COMPONENTS C)
find_package(spdlog REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(OpenBLAS REQUIRED IMPORTED_TARGET GLOBAL openblas)
pkg_check_modules(SentencePiece REQUIRED IMPORTED_TARGET GLOBAL sentencepiece)
pkg_check_modules(simdjson REQUIRED IMPORTED_TARGET GLOBAL simdjson)
pkg_check_modules(zlib REQUIRED IMPORTED_TARGET GLOBAL zlib)
pkg_check_modules(zstd REQUIRED IMPORTED_TARGET GLOBAL libzstd)

# Debian's libsentencepiece contains, and exports, a Protobuf of its own that is older than the system's. In one process
# the two would answer each other's calls: it aborts or crashes at start. So ours is linked statically, ahead of
# libsentencepiece (which must not satisfy our references), and programs export none of their symbols to it.
set(Protobuf_USE_STATIC_LIBS ON)
find_package(Protobuf REQUIRED)
set_property(TARGET protobuf::libprotobuf APPEND PROPERTY INTERFACE_LINK_LIBRARIES PkgConfig::SentencePiece)
# clang's address sanitizer must see every new and delete: where readers are fuzzed, only Protobuf's symbols are hidden.
set_property(TARGET protobuf::libprotobuf APPEND PROPERTY INTERFACE_LINK_OPTIONS
  "LINKER:--version-script=${CMAKE_CURRENT_LIST_DIR}/$<IF:$<BOOL:${SPANWISE_FUZZ}>,hide_protobuf.map,hide_symbols.map>")
if(SPANWISE_TESTS)
  find_package(GTest REQUIRED)
endif()
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ${targets_global})
