#pragma once
// Tiles of wgmma.cuh as "images": 64 rows of 64 bf16, 128 bytes a row, whose 16-byte pieces are exchanged by
// XOR with the row's index mod 8 (the hardware's 128-byte swizzle, SwizzledTile<64> of mma.cuh), 8 KB each,
// at a multiple of 1024 bytes. Wider tiles are images side by side, one after the other in memory.
//
// An image stored [n, k] feeds A·imageᵀ, one stored [k, n] feeds A·image; in the second case N = 128 takes
// two images. The fragment layouts of A and C are those of mma.cuh, so accumulators_to_a() and ldmatrix work
// here too.

#include "core/ops/cuda/common/mma.cuh"
#include "core/ops/cuda/common/wgmma.cuh"

namespace spanwise::cuda {

inline constexpr int kImageElems = 64 * 64, kImageBytes = kImageElems * 2;

/// Element index inside an image of the 16-byte piece that holds columns [col, col + 8).
__device__ __forceinline__ int image_piece(int row, int col) {
  return row * 64 + (((col / 8) ^ (row % 8)) * 8);
}
/// The same for tiles wider than 64 columns: images side by side, one after the other in memory.
__device__ __forceinline__ int images_piece(int row, int col) {
  return col / 64 * kImageElems + image_piece(row, col % 64);
}
/// Element index of (row, col).
__device__ __forceinline__ int image_at(int row, int col) {
  return image_piece(row, col) + col % 8;
}

/// The A fragment of rows row..row+15, columns k..k+15 of images stored row-major.
__device__ __forceinline__ void load_a_image(uint32_t (&a)[4], const bf16* images, int row, int k) {
  const int lane = threadIdx.x % 32;
  ldmatrix_x4(a, shared_address(images + images_piece(row + lane % 16, k + lane / 16 * 8)));
}
/// The A fragment of the transpose: its rows row..row+15 are the images' columns.
__device__ __forceinline__ void load_a_image_trans(uint32_t (&a)[4], const bf16* images, int row, int k) {
  const int lane = threadIdx.x % 32;
  ldmatrix_x4_trans(
      a, shared_address(images + images_piece(k + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8)));
}

/// Four 8x8 matrices; lane l gives the address of the memory row l % 8 of matrix l / 8, register i holds
/// matrix i as mma.cuh's C holds a tile, and memory rows are its rows.
__device__ __forceinline__ void stmatrix_x4(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2,
                                            uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}
/// The same transposed: memory rows are its columns.
__device__ __forceinline__ void stmatrix_x4_trans(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2,
                                                  uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

/// The inverse of load_a_image: writes the fragment.
__device__ __forceinline__ void store_a_image(const uint32_t (&a)[4], bf16* images, int row, int k) {
  const int lane = threadIdx.x % 32;
  stmatrix_x4(shared_address(images + images_piece(row + lane % 16, k + lane / 16 * 8)), a[0], a[1], a[2],
              a[3]);
}
/// The inverse of load_a_image_trans.
__device__ __forceinline__ void store_a_image_trans(const uint32_t (&a)[4], bf16* images, int row, int k) {
  const int lane = threadIdx.x % 32;
  stmatrix_x4_trans(
      shared_address(images + images_piece(k + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8)), a[0], a[1],
      a[2], a[3]);
}

/// Descriptor (Major::kK) of 16 columns from k of images stored [n, k] or [m, k]. The bytes to the
/// next image mean nothing here; with them both descriptors have one constant half, which saves registers.
__device__ __forceinline__ uint64_t columns_descriptor(uint32_t images, int k) {
  return wgmma_descriptor_rows(images + k / 64 * kImageBytes + k % 64 * 2, kImageBytes);
}
/// Descriptor (Major::kMN) of 16 rows from k < 64 of images stored [k, n] or [k, m].
__device__ __forceinline__ uint64_t rows_descriptor(uint32_t image, int k) {
  return wgmma_descriptor_rows(image + k * 128, kImageBytes);
}

/// c += A·B with B stored [n, k], its 16 values of k from column k of the images at `images`: n = 64.
__device__ __forceinline__ void wgmma_nk(float (&c)[32], const uint32_t (&a)[4], uint32_t images, int k) {
  wgmma<Major::kK>(c, a, columns_descriptor(images, k), 1);
}
/// c += A·B with B stored [k, n], from row k < 64 of the image at `image`; kCols = 128 reads the next one
/// too.
template <int kCount>
__device__ __forceinline__ void wgmma_kn(float (&c)[kCount], const uint32_t (&a)[4], uint32_t image, int k) {
  static_assert(kCount == 32 || kCount == 64);
  wgmma<Major::kMN>(c, a, rows_descriptor(image, k), 1);
}

}  // namespace spanwise::cuda
