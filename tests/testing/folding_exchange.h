#pragma once
// A SpanExchange without ranks: all spans of all sequences are rows of one call, and their summaries are
// folded in this process, in the order of the tokens, from the definitions in core/ops/span.h.

#include <cmath>

#include "core/ops/span.h"
#include "core/sequence_layout.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {

class FoldingExchange : public SpanExchange {
 public:
  /// `chains`: for every sequence its rows, in the order of its tokens.
  FoldingExchange(const SequenceLayout& layout, std::vector<std::vector<int64_t>> chains)
      : chains_(std::move(chains)) {
    for (int64_t row = 0; row < layout.batch(); ++row) {
      continues_.push_back(layout.segments()[layout.row_begin(row)].continues);
      passes_.push_back(continues_.back() && layout.row_end(row) - layout.row_begin(row) == 1);
    }
  }

  int num_forwards = 0, num_backwards = 0;
  SpanSummary summary;  ///< the last one
  Tensor dstate_in;     ///< the last one

  std::unique_ptr<Forward> start_forward(const SpanSummary& s) override {
    ++num_forwards;
    summary = s;
    return std::make_unique<Forwarding>(*this, s);
  }
  std::unique_ptr<Backward> start_backward(const Tensor& d,
                                           const std::shared_ptr<const void>& saved) override {
    ++num_backwards;
    dstate_in = d;
    return std::make_unique<Backwarding>(*this, d, std::static_pointer_cast<const SpanSummary>(saved));
  }

 private:
  // y [K, V] += M x or Mᵀ x for one row and head.
  enum class Transpose { kNo, kYes };
  template <class T>
  static void add_transformed(const SpanSummary& s, int64_t unit, Transpose transpose, const T* x, T* y) {
    const int64_t K = s.state.dim(2), V = s.state.dim(3);
    const auto& [kind, values] = s.transition;
    if (kind != TransitionKind::kDense) {
      const int64_t decays = transition_elems(kind, K);
      for (int64_t i = 0; i < K * V; ++i) {
        const int64_t at = unit * decays + (kind == TransitionKind::kDiagonal ? i / V : 0);
        y[i] += (decays ? std::exp(values.data<T>()[at]) : T(1)) * x[i];
      }
      return;
    }
    const T* m = values.data<T>() + unit * K * K;
    for (int64_t i = 0; i < K; ++i) {
      for (int64_t j = 0; j < K; ++j) {
        const T factor = transpose == Transpose::kNo ? m[i * K + j] : m[j * K + i];
        for (int64_t c = 0; c < V; ++c) y[i * V + c] += factor * x[j * V + c];
      }
    }
  }

  struct Forwarding : Forward {
    Forwarding(FoldingExchange& owner, const SpanSummary& s) : owner(owner), summary(s) {}
    FoldingExchange& owner;
    SpanSummary summary;
    // Folds only here: the op must not have touched the summary since.
    IncomingState wait() override {
      const Tensor& B = summary.state;
      const Tensor incoming = Tensor::zeros(test_context(), B.shape(), B.dtype());
      dispatch_float(B.dtype(), [&](auto zero) { owner.fold_forward<decltype(zero)>(summary, incoming); });
      return {incoming, std::make_shared<const SpanSummary>(summary)};
    }
  };
  struct Backwarding : Backward {
    Backwarding(FoldingExchange& owner, const Tensor& d, std::shared_ptr<const SpanSummary> s)
        : owner(owner), D(d), summary(std::move(s)) {}
    FoldingExchange& owner;
    Tensor D;
    std::shared_ptr<const SpanSummary> summary;
    Tensor wait() override {
      const Tensor dlast = Tensor::zeros(test_context(), D.shape(), D.dtype());
      dispatch_float(D.dtype(), [&](auto zero) { owner.fold_backward<decltype(zero)>(*summary, D, dlast); });
      return dlast;
    }
  };

  template <class T>
  void fold_forward(const SpanSummary& s, const Tensor& incoming) const {
    const int64_t HV = s.state.dim(1), elems = s.state.dim(2) * s.state.dim(3);
    for (const auto& chain : chains_) {
      for (int64_t head = 0; head < HV; ++head) {
        std::vector<T> state(size_t(elems), T(0));
        for (const int64_t row : chain) {
          const int64_t unit = row * HV + head;
          if (continues_[row]) std::copy(state.begin(), state.end(), incoming.data<T>() + unit * elems);
          const T* B = s.state.data<T>() + unit * elems;
          std::vector<T> next(B, B + elems);
          if (passes_[row]) add_transformed<T>(s, unit, Transpose::kNo, state.data(), next.data());
          state = next;
        }
      }
    }
  }

  template <class T>
  void fold_backward(const SpanSummary& s, const Tensor& D, const Tensor& dlast) const {
    const int64_t HV = D.dim(1), elems = D.dim(2) * D.dim(3);
    for (const auto& chain : chains_) {
      for (int64_t head = 0; head < HV; ++head) {
        std::vector<T> dstate(size_t(elems), T(0));  // of the last state of the row before
        for (auto row = chain.rbegin(); row != chain.rend(); ++row) {
          const int64_t unit = *row * HV + head;
          std::copy(dstate.begin(), dstate.end(), dlast.data<T>() + unit * elems);
          const T* d = D.data<T>() + unit * elems;
          std::vector<T> before(d, d + elems);
          if (passes_[*row]) add_transformed<T>(s, unit, Transpose::kYes, dstate.data(), before.data());
          dstate = before;
        }
      }
    }
  }

  std::vector<std::vector<int64_t>> chains_;
  std::vector<bool> continues_, passes_;
};

/// B sequences of T tokens cut into P parts of ceil(T / P) tokens, each a row; parts that are shorter or
/// empty are filled up with a document of padding.
class SpanCut {
 public:
  enum class Order { kInRow, kZigzag };
  /// `starts`: flat offsets b·T + t. Zigzag: parts 0, P−1, 1, P−2 … of a sequence are consecutive rows.
  SpanCut(int64_t B, int64_t T, int64_t P, std::vector<int64_t> starts, Order order)
      : B_(B), T_(T), P_(P), capacity_((T + P - 1) / P), order_(order), layout_(make_layout(starts)) {}

  const SequenceLayout& layout() const { return layout_; }
  int64_t row(int64_t b, int64_t part) const {
    if (order_ == Order::kInRow) return b * P_ + part;
    return b * P_ + (2 * part < P_ ? 2 * part : 2 * (P_ - 1 - part) + 1);
  }
  std::vector<std::vector<int64_t>> chains() const {
    std::vector<std::vector<int64_t>> chains(static_cast<size_t>(B_));
    for (int64_t b = 0; b < B_; ++b) {
      for (int64_t part = 0; part < P_; ++part) chains[b].push_back(row(b, part));
    }
    return chains;
  }
  /// [B, T, ...] → [B·P, capacity, ...]; padding is random, negative if it stands for log decays.
  Tensor cut(const Tensor& whole, double padding_sign = 1) const {
    if (!whole.defined()) return {};
    std::vector<int64_t> dims = whole.shape().to_vector();
    dims[0] = B_ * P_;
    dims[1] = capacity_;
    const Tensor rows = random_tensor(Shape(dims), whole.dtype(), "padding");
    for (int64_t i = 0; i < rows.numel(); ++i)
      rows.data<double>()[i] = padding_sign * std::abs(rows.data<double>()[i]) / 4;
    copy_tokens(whole, rows, [](double& whole_element, double& row_element) { row_element = whole_element; });
    return rows;
  }
  /// The other way round.
  Tensor join(const Tensor& rows) const {
    if (!rows.defined()) return {};
    std::vector<int64_t> dims = rows.shape().to_vector();
    dims[0] = B_;
    dims[1] = T_;
    const Tensor whole = Tensor::empty(test_context(), Shape(dims), DType::kF64);
    copy_tokens(whole, cast(rows, DType::kF64),
                [](double& whole_element, double& row_element) { whole_element = row_element; });
    return whole;
  }

 private:
  template <class F>
  void copy_tokens(const Tensor& whole, const Tensor& rows, F&& copy) const {
    const int64_t width = whole.numel() / (B_ * T_);
    for (int64_t b = 0; b < B_; ++b) {
      for (int64_t t = 0; t < T_; ++t) {
        const int64_t to = row(b, t / capacity_) * capacity_ + t % capacity_;
        for (int64_t i = 0; i < width; ++i)
          copy(whole.data<double>()[(b * T_ + t) * width + i], rows.data<double>()[to * width + i]);
      }
    }
  }
  SequenceLayout make_layout(const std::vector<int64_t>& starts) const {
    std::vector<int64_t> local;
    for (const int64_t start : starts) {
      const int64_t t = start % T_;
      local.push_back(row(start / T_, t / capacity_) * capacity_ + t % capacity_);
    }
    for (int64_t b = 0; b < B_; ++b) {
      for (int64_t part = 0; part < P_; ++part) {
        const int64_t filled = std::clamp<int64_t>(T_ - part * capacity_, 0, capacity_);
        if (filled < capacity_) local.push_back(row(b, part) * capacity_ + filled);
      }
    }
    std::sort(local.begin(), local.end());
    return SequenceLayout(B_ * P_, capacity_, local);
  }

  int64_t B_, T_, P_, capacity_;
  Order order_;
  SequenceLayout layout_;
};

}  // namespace spanwise::testing
