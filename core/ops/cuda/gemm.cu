#include "core/ops/cuda/gemm.h"

#include <cublasLt.h>

#include <array>
#include <map>

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda {

namespace {

// What cuBLAS recommends for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// TMA and 16-byte loads ask for no more; a stricter promise would make the choice depend on the allocator.
constexpr uintptr_t kMostAlignment = 16;

void check_blas(cublasStatus_t status, const char* call) {
  SPANWISE_CHECK(status == CUBLAS_STATUS_SUCCESS, "{}: {}", call, cublasLtGetStatusString(status));
}
#define SPANWISE_CUBLAS(call) check_blas((call), #call)

cudaDataType_t data_type(DType dtype) {
  SPANWISE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16,
                 "gemm of {} is not supported on CUDA (F32, BF16 are)", name_of(dtype));
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

uint32_t alignment_of(const void* p) {
  uintptr_t alignment = kMostAlignment;
  while (reinterpret_cast<uintptr_t>(p) % alignment != 0) alignment /= 2;
  return uint32_t(alignment);
}

class Layout {
 public:
  Layout(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
    SPANWISE_CUBLAS(cublasLtMatrixLayoutCreate(&layout_, data_type(dtype), rows, columns, stride));
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

// cuBLAS is column-major: what we store as rows it sees transposed. So it computes cᵀ [n, m] = op(b)ᵀ op(a)ᵀ,
// with b as its first operand.
Layout stored_layout(DType dtype, const GemmOperand& x, int64_t rows, int64_t columns) {
  return x.transposed ? Layout(dtype, rows, columns, x.stride) : Layout(dtype, columns, rows, x.stride);
}

/// Everything of a product but its pointers.
class Plan {
 public:
  Plan(cublasLtHandle_t handle, const GemmCall& call)
      : first_(stored_layout(call.dtype, call.b, call.k, call.n)),
        second_(stored_layout(call.dtype, call.a, call.m, call.k)),
        c_(call.c_dtype, call.n, call.m, call.c_stride) {
    SPANWISE_CUBLAS(cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, call.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, call.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (call.bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(call.c_dtype));
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias);
    }
    choose(handle, call);
  }
  ~Plan() { cublasLtMatmulDescDestroy(operation_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  void run(cublasLtHandle_t handle, const GemmCall& call, void* workspace, cudaStream_t stream) {
    if (call.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias);
    const float alpha = 1, beta = call.accumulate ? 1 : 0;
    SPANWISE_CUBLAS(cublasLtMatmul(handle, operation_, &alpha, call.b.data, first_.get(), call.a.data,
                                   second_.get(), &beta, call.c, c_.get(), call.c, c_.get(), &algorithm_,
                                   workspace, kWorkspaceBytes, stream));
  }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    SPANWISE_CUBLAS(cublasLtMatmulDescSetAttribute(operation_, attribute, &value, sizeof(value)));
  }

  void choose(cublasLtHandle_t handle, const GemmCall& call) {
    cublasLtMatmulPreference_t preference = nullptr;
    SPANWISE_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      SPANWISE_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(call.b.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(call.a.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(call.c));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(call.c));
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, operation_, first_.get(), second_.get(), c_.get(), c_.get(), preference, 1, &result, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    SPANWISE_CHECK(status == CUBLAS_STATUS_SUCCESS && found == 1 && result.state == CUBLAS_STATUS_SUCCESS,
                   "cuBLASLt has no algorithm for [{}, {}] x [{}, {}] of {} to {}: {}", call.m, call.k,
                   call.k, call.n, name_of(call.dtype), name_of(call.c_dtype),
                   cublasLtGetStatusString(status));
    algorithm_ = result.algo;
  }

  Layout first_, second_, c_;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
};

using Key = std::array<int64_t, 12>;

Key key_of(const GemmCall& c) {
  const int64_t flags = c.a.transposed | c.b.transposed << 1 | c.accumulate << 2 | (c.bias != nullptr) << 3;
  return {c.m,
          c.n,
          c.k,
          int64_t(c.dtype),
          c.a.stride,
          c.b.stride,
          c.c_stride,
          int64_t(c.c_dtype),
          flags,
          alignment_of(c.a.data),
          alignment_of(c.b.data),
          alignment_of(c.c)};
}

/// Of one Context: all products run on its stream, so they share the workspace.
class CublasLt {
 public:
  explicit CublasLt(Context& ctx) : workspace_(ctx.allocate(kWorkspaceBytes)) {
    SPANWISE_CUBLAS(cublasLtCreate(&handle_));
  }
  ~CublasLt() { cublasLtDestroy(handle_); }
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  void run(const GemmCall& call, cudaStream_t stream) {
    plans_.try_emplace(key_of(call), handle_, call)
        .first->second.run(handle_, call, workspace_->data(), stream);
  }

 private:
  cublasLtHandle_t handle_ = nullptr;
  std::shared_ptr<Buffer> workspace_;
  std::map<Key, Plan> plans_;
};

}  // namespace

void gemm(Context& ctx, const GemmCall& call) {
  if (call.m == 0 || call.n == 0) return;
  ctx.attached<CublasLt>().run(call, stream_of(ctx));
}

}  // namespace spanwise::cuda
