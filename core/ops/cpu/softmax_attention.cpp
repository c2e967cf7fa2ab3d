#include "core/ops/softmax_attention.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/parallel_for.h"
#include "core/ops/cpu/softmax_row.h"

namespace spanwise::cpu {

namespace {

// A block of scores stays in the second-level cache beside its q, k and v rows.
constexpr int64_t kQueryBlock = 64, kKeyBlock = 256;

/// One head of one row of a [B, T, heads, width] tensor: a matrix of T rows.
template <class T>
struct HeadMatrix {
  HeadMatrix(const Tensor& t, int64_t row, int64_t head) : stride(t.row_stride(t.dim(2) * t.dim(3))) {
    data = t.data<T>() + row * t.dim(1) * stride + head * t.dim(3);
  }
  T* row(int64_t i) const { return data + i * stride; }
  int64_t stride;
  T* data;
};

struct Span {
  int64_t begin, end;
  bool empty() const { return begin >= end; }
};

/// The key ranges of queries [begin, end) of one row.
class QueryBlock {
 public:
  QueryBlock(const AttentionInputs& in, int64_t row, int64_t index)
      : begin(index * kQueryBlock), end(std::min(begin + kQueryBlock, in.q.dim(1))) {
    const int64_t at = row * in.q.dim(1) + begin;
    key_begin_ = in.ranges.begin.data() + at;
    key_end_ = in.ranges.end.data() + at;
  }
  int64_t size() const { return end - begin; }
  /// Keys of the block's query i among `keys`, relative to keys.begin.
  Span keys_of(int64_t i, Span keys) const {
    const int64_t first = std::max(key_begin_[i], keys.begin), last = std::min(key_end_[i], keys.end);
    return first < last ? Span{first - keys.begin, last - keys.begin} : Span{0, 0};
  }
  /// visit(keys) for every block of keys that some query of this block reads, in ascending order.
  template <class F>
  void for_each_key_block(F&& visit) const {
    Span all{INT64_MAX, 0};
    for (int64_t i = 0; i < size(); ++i) {
      if (key_begin_[i] >= key_end_[i]) continue;
      all = {std::min(all.begin, key_begin_[i]), std::max(all.end, key_end_[i])};
    }
    for (int64_t at = all.begin; at < all.end; at += kKeyBlock) {
      const Span keys{at, std::min(at + kKeyBlock, all.end)};
      bool read = false;
      for (int64_t i = 0; i < size() && !read; ++i) read = !keys_of(i, keys).empty();
      if (read) visit(keys);
    }
  }

  const int64_t begin, end;

 private:
  const int64_t *key_begin_, *key_end_;
};

int64_t num_query_blocks(const AttentionInputs& in) {
  return (in.q.dim(1) + kQueryBlock - 1) / kQueryBlock;
}

/// scores [queries, kKeyBlock] = scale · q kᵀ
template <class T>
void score_block(const HeadMatrix<T>& q, const HeadMatrix<T>& k, const QueryBlock& queries, Span keys,
                 const AttentionInputs& in, T* scores) {
  gemm<T>(Trans::kNo, Trans::kYes, queries.size(), keys.end - keys.begin, in.q.dim(3), T(in.scale),
          q.row(queries.begin), q.stride, k.row(keys.begin), k.stride, T(0), scores, kKeyBlock);
}

template <class T>
void fill_outside(T* row, int64_t n, Span kept) {
  std::fill(row, row + kept.begin, T(0));
  std::fill(row + kept.end, row + n, T(0));
}

/// The calling thread's blocks of attention_scratch().
template <class T>
T* scores_of_thread(const Tensor& scratch) {
  return scratch.data<T>() + omp_get_thread_num() * (scratch.numel() / scratch.dim(0));
}

/// Online softmax of one block of queries of one head. out holds the sum of exp(score − largest) · v of the
/// keys so far, and is divided by the sum of the exponentials at the end.
template <class T>
void forward_block(const AttentionInputs& in, const AttentionForward& forward, int64_t row, int64_t head,
                   int64_t block, T* scores) {
  const int64_t heads = in.q.dim(2), kv_head = head / (heads / in.k.dim(2)), width = in.v.dim(3);
  const QueryBlock queries(in, row, block);
  const HeadMatrix<T> q(in.q, row, head), k(in.k, row, kv_head), v(in.v, row, kv_head);
  const HeadMatrix<T> out(forward.out, row, head);
  T largest[kQueryBlock], sum[kQueryBlock];
  std::fill_n(largest, kQueryBlock, -std::numeric_limits<T>::infinity());
  std::fill_n(sum, kQueryBlock, T(0));
  for (int64_t i = queries.begin; i < queries.end; ++i) std::fill_n(out.row(i), width, T(0));

  queries.for_each_key_block([&](Span keys) {
    const int64_t n = keys.end - keys.begin;
    score_block(q, k, queries, keys, in, scores);
    for (int64_t i = 0; i < queries.size(); ++i) {
      const Span kept = queries.keys_of(i, keys);
      T* s = scores + i * kKeyBlock;
      fill_outside(s, n, kept);
      if (kept.empty()) continue;
      const T before = largest[i];
      largest[i] = std::max(before, max_of(s + kept.begin, kept.end - kept.begin));
      const T shrink = std::exp(before - largest[i]);  // 0 at a query's first block
      sum[i] = sum[i] * shrink + exp_shifted(s + kept.begin, kept.end - kept.begin, largest[i]);
      if (shrink == T(1)) continue;
      T* o = out.row(queries.begin + i);
      for (int64_t c = 0; c < width; ++c) o[c] *= shrink;
    }
    gemm<T>(Trans::kNo, Trans::kNo, queries.size(), width, n, T(1), scores, kKeyBlock, v.row(keys.begin),
            v.stride, T(1), out.row(queries.begin), out.stride);
  });

  for (int64_t i = 0; i < queries.size(); ++i) {
    const bool empty = sum[i] == T(0);
    const int64_t token = row * in.q.dim(1) + queries.begin + i;
    forward.log_sum_exp.data<T>()[token * heads + head] = empty ? T(0) : largest[i] + std::log(sum[i]);
    const T factor = empty ? T(0) : T(1) / sum[i];
    T* o = out.row(queries.begin + i);
    for (int64_t c = 0; c < width; ++c) o[c] *= factor;
  }
}

/// Adds one query block of one head to dq, and to dk and dv of its key head. p: memory for two blocks of
/// scores.
template <class T>
void backward_block(const Tensor& dout_tensor, const AttentionInputs& in, const AttentionForward& forward,
                    const AttentionBackward& grads, int64_t row, int64_t head, int64_t block, T* p) {
  const int64_t heads = in.q.dim(2), kv_head = head / (heads / in.k.dim(2));
  const int64_t key_width = in.q.dim(3), value_width = in.v.dim(3);
  const QueryBlock queries(in, row, block);
  const HeadMatrix<T> q(in.q, row, head), k(in.k, row, kv_head), v(in.v, row, kv_head);
  const HeadMatrix<T> out(forward.out, row, head), dout(dout_tensor, row, head), dq(grads.dq, row, head),
      dk(grads.dk, row, kv_head), dv(grads.dv, row, kv_head);
  T* ds = p + kQueryBlock * kKeyBlock;
  T delta[kQueryBlock], log_sum_exp[kQueryBlock];
  for (int64_t i = 0; i < queries.size(); ++i) {
    const T *o = out.row(queries.begin + i), *g = dout.row(queries.begin + i);
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < value_width; ++c) dot += o[c] * g[c];
    delta[i] = dot;
    log_sum_exp[i] = forward.log_sum_exp.data<T>()[(row * in.q.dim(1) + queries.begin + i) * heads + head];
  }

  queries.for_each_key_block([&](Span keys) {
    const int64_t m = queries.size(), n = keys.end - keys.begin;
    score_block(q, k, queries, keys, in, p);
    gemm<T>(Trans::kNo, Trans::kYes, m, n, value_width, T(1), dout.row(queries.begin), dout.stride,
            v.row(keys.begin), v.stride, T(0), ds, kKeyBlock);
    for (int64_t i = 0; i < m; ++i) {
      const Span kept = queries.keys_of(i, keys);
      T *pi = p + i * kKeyBlock, *dsi = ds + i * kKeyBlock;
      fill_outside(pi, n, kept);
      fill_outside(dsi, n, kept);
      exp_shifted(pi + kept.begin, kept.end - kept.begin, log_sum_exp[i]);
      const T scale = T(in.scale), di = delta[i];
#pragma omp simd
      for (int64_t j = kept.begin; j < kept.end; ++j) dsi[j] = scale * pi[j] * (dsi[j] - di);
    }
    gemm<T>(Trans::kYes, Trans::kNo, n, value_width, m, T(1), p, kKeyBlock, dout.row(queries.begin),
            dout.stride, T(1), dv.row(keys.begin), dv.stride);
    gemm<T>(Trans::kYes, Trans::kNo, n, key_width, m, T(1), ds, kKeyBlock, q.row(queries.begin), q.stride,
            T(1), dk.row(keys.begin), dk.stride);
    gemm<T>(Trans::kNo, Trans::kNo, m, key_width, n, T(1), ds, kKeyBlock, k.row(keys.begin), k.stride, T(1),
            dq.row(queries.begin), dq.stride);
  });
}

}  // namespace

Tensor attention_scratch(Context& ctx, DType dtype, int num_blocks) {
  return Tensor::empty(ctx, {ctx.num_threads(), num_blocks, kQueryBlock, kKeyBlock}, dtype);
}

void softmax_attention_fwd(Context& ctx, const AttentionInputs& in, const AttentionForward& forward) {
  const int64_t heads = in.q.dim(2), blocks = num_query_blocks(in);
  dispatch_float(in.q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Tensor scratch = attention_scratch(ctx, in.q.dtype(), 1);
    parallel_for(ctx, in.q.dim(0) * heads * blocks, [&](int64_t task) {
      // Causal blocks grow with their index; alternating ends gives each thread cheap and dear ones.
      const int64_t i = task % blocks, block = i % 2 == 0 ? i / 2 : blocks - 1 - i / 2;
      forward_block<T>(in, forward, task / blocks / heads, task / blocks % heads, block,
                       scores_of_thread<T>(scratch));
    });
  });
}

// One task a key head, so that dk and dv have one writer and one order; B · HKV bounds the threads of use.
void softmax_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in,
                           const AttentionForward& forward, const AttentionBackward& grads) {
  const int64_t kv_heads = in.k.dim(2), group = in.q.dim(2) / kv_heads, blocks = num_query_blocks(in);
  dispatch_float(in.q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Tensor scratch = attention_scratch(ctx, in.q.dtype(), 2);
    parallel_for(ctx, in.q.dim(0) * kv_heads, [&](int64_t task) {
      for (int64_t h = task % kv_heads * group; h < (task % kv_heads + 1) * group; ++h) {
        for (int64_t block = 0; block < blocks; ++block)
          backward_block<T>(dout, in, forward, grads, task / kv_heads, h, block,
                            scores_of_thread<T>(scratch));
      }
    });
  });
}

}  // namespace spanwise::cpu
