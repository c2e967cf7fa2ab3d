#pragma once
// Warpgroup matrix products (wgmma, sm_90a): A [64, 16] bf16 from registers, B [16, N] bf16 from shared
// memory, C [64, N] fp32 in registers. A warpgroup is four consecutive warps from a multiple of four; warp w
// holds rows 16w..16w+15 of A and C in the fragment layouts of mma.cuh, so accumulators_to_a() and ldmatrix
// work here too. C columns 8n..8n+7 are c[4n..4n+3].
//
// B lies in images: 64 rows of 64 bf16, 128 bytes a row, whose 16-byte pieces are exchanged by XOR with the
// row's index mod 8 (the hardware's 128-byte swizzle), 8 KB each, at a multiple of 1024 bytes. An image
// stored [n, k] feeds A·imageᵀ, one stored [k, n] feeds A·image; in the second case N = 128 takes two images,
// one after the other.
//
// Products are asynchronous: wgmma_fence(), products, wgmma_commit(), then wgmma_wait<pending groups>()
// before the accumulators are read or images overwritten. Images written by ordinary stores or cp.async need
// fence_async_proxy() before a barrier that orders them, or after it in every reading thread.

#include "core/ops/cuda/common/mma.cuh"
#include "core/ops/cuda/common/wgmma_order.cuh"

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
/// The inverse of load_a_image: writes the fragment.
__device__ __forceinline__ void store_a_image(const uint32_t (&a)[4], bf16* images, int row, int k) {
  const int lane = threadIdx.x % 32;
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                   shared_address(images + images_piece(row + lane % 16, k + lane / 16 * 8))),
               "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
               : "memory");
}
/// The inverse of load_a_image_trans.
__device__ __forceinline__ void store_a_image_trans(const uint32_t (&a)[4], bf16* images, int row, int k) {
  const int lane = threadIdx.x % 32;
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_address(
                   images + images_piece(k + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8))),
               "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
               : "memory");
}

/// Keeps the compiler from moving uses of accumulators across wgmma_wait() or wgmma_fence().
template <int kCount>
__device__ __forceinline__ void pin_registers(float (&c)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

enum class Stored { kNK, kKN };  ///< how B lies in its images: [n, k] or [k, n]

/// Matrix descriptor of B at `address`: 128-byte swizzle, 1024 bytes from one group of eight rows to the
/// next, kImageBytes from an image to the one right of it.
__device__ __forceinline__ uint64_t image_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kGroups = uint64_t(1024 / 16) << 32,
                     kImages = uint64_t(kImageBytes / 16) << 16;
  return kSwizzle128 | kGroups | kImages | ((address & 0x3ffff) >> 4);
}

template <Stored kStored>
__device__ __forceinline__ void wgmma_16(float (&c)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,"
      "%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, 1, 1, "
      "1, "
      "%37;"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]),
        "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]),
        "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]),
        "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]),
        "+f"(c[30]), "+f"(c[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kStored == Stored::kKN ? 1 : 0));
}

template <Stored kStored>
__device__ __forceinline__ void wgmma_16(float (&c)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,"
      "%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%"
      "39,"
      "%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
      "{%64,%65,%66,%67}, %68, 1, 1, 1, %69;"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]),
        "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]),
        "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]),
        "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]),
        "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]),
        "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]), "+f"(c[42]), "+f"(c[43]),
        "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]), "+f"(c[49]), "+f"(c[50]),
        "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]), "+f"(c[56]), "+f"(c[57]),
        "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kStored == Stored::kKN ? 1 : 0));
}

/// The same with A from shared memory: images stored [m, k], or for kKN [k, m].
template <Stored kA, Stored kB>
__device__ __forceinline__ void wgmma_16(float (&c)[32], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%"
      "27,%28,%29,%30,%31}, %32, %33, 1, 1, 1, %34, %35;"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]),
        "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]),
        "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]),
        "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]),
        "+f"(c[30]), "+f"(c[31])
      : "l"(a), "l"(b), "n"(kA == Stored::kKN ? 1 : 0), "n"(kB == Stored::kKN ? 1 : 0));
}
template <Stored kA, Stored kB>
__device__ __forceinline__ void wgmma_16(float (&c)[64], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%"
      "27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%"
      "52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, 1, 1, 1, %66, %67;"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]),
        "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]),
        "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]),
        "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]),
        "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]),
        "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]), "+f"(c[42]), "+f"(c[43]),
        "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]), "+f"(c[49]), "+f"(c[50]),
        "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]), "+f"(c[56]), "+f"(c[57]),
        "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])
      : "l"(a), "l"(b), "n"(kA == Stored::kKN ? 1 : 0), "n"(kB == Stored::kKN ? 1 : 0));
}

/// Descriptor of 16 columns from k of images stored [n, k] or [m, k].
__device__ __forceinline__ uint64_t columns_descriptor(uint32_t images, int k) {
  return image_descriptor(images + k / 64 * kImageBytes + k % 64 * 2);
}
/// Descriptor of 16 rows from k < 64 of images stored [k, n] or [k, m].
__device__ __forceinline__ uint64_t rows_descriptor(uint32_t image, int k) {
  return image_descriptor(image + k * 128);
}

/// c += A·B with B stored [n, k], its 16 values of k from column k of the images at `images`: n = 64.
__device__ __forceinline__ void wgmma_nk(float (&c)[32], const uint32_t (&a)[4], uint32_t images, int k) {
  wgmma_16<Stored::kNK>(c, a, columns_descriptor(images, k));
}
/// c += A·B with B stored [k, n], from row k < 64 of the image at `image`; kCols = 128 reads the next one
/// too.
template <int kCount>
__device__ __forceinline__ void wgmma_kn(float (&c)[kCount], const uint32_t (&a)[4], uint32_t image, int k) {
  static_assert(kCount == 32 || kCount == 64);
  wgmma_16<Stored::kKN>(c, a, rows_descriptor(image, k));
}

}  // namespace spanwise::cuda
