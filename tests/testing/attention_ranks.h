#pragma once
// Softmax attention over many simulated ranks in BF16, against whole rows on one rank in F64.

#include <cmath>

#include "core/ops/softmax_attention.h"
#include "parallel/sequence_parallel.h"
#include "tests/testing/op_testing.h"
#include "tests/testing/thread_comm.h"

namespace spanwise::testing {

struct AttentionSizes {
  int64_t tokens, heads, kv_heads, dim, window;
};
/// ‖actual − expected‖ / ‖expected‖ of the output and of each gradient.
struct AttentionErrors {
  double out, dq, dk, dv;
};

/// Contexts of ranks and the way between their memory and the host's.
struct RankDevices {
  std::function<std::unique_ptr<Context>()> make_context;
  ThreadWorld::Copy to_host, from_host;
};
inline RankDevices cpu_ranks() {
  const auto copy = [](void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); };
  return {[] { return std::make_unique<Context>(ContextOptions{.num_threads = 1, .poison = true}); }, copy,
          copy};
}

class AttentionOverRanks {
 public:
  AttentionOverRanks(const AttentionSizes& sizes, DType dtype) : sizes_(sizes), dtype_(dtype) {
    for (const auto& [name, heads] :
         {std::pair{"q", sizes.heads}, {"k", sizes.kv_heads}, {"v", sizes.kv_heads}, {"dout", sizes.heads}})
      operands_.push_back(
          stored_values(random_tensor({1, sizes.tokens, heads, sizes.dim}, DType::kF64, name)));
    expected_ = on_one_rank();
  }

  AttentionErrors errors(int ranks, Partition kind, AttentionExchange exchange,
                         const RankDevices& devices) const {
    std::vector<std::vector<double>> actual;
    for (const std::vector<double>& values : expected_) actual.emplace_back(values.size());
    // Made one after the other: a Context sets what the process has one of.
    std::vector<std::unique_ptr<Context>> contexts;
    for (int rank = 0; rank < ranks; ++rank) contexts.push_back(devices.make_context());
    ThreadWorld world(ranks, devices.to_host, devices.from_host);
    world.run([&](Comm& comm) {
      Context* const ctx = contexts[size_t(comm.rank())].get();
      const SequencePlan plan(SequencePartition(kind, ranks, sizes_.tokens), comm.rank(), 1, {0});
      const SequenceParallel sequence(*ctx, comm, plan, {.attention = exchange});
      std::vector<Var> x;
      for (size_t i = 0; i < 3; ++i) x.push_back(Var(local(*ctx, plan, operands_[i]), true));
      Tape tape(*ctx);
      const Var out = sequence.attention(tape, x[0], x[1], x[2], sizes_.window, scale());
      tape.backward({out}, {local(*ctx, plan, operands_[3])});
      give_back(plan, out.value(), actual[0]);
      for (size_t i = 0; i < 3; ++i) give_back(plan, x[i].grad(), actual[i + 1]);
    });
    return {ratio(actual, 0), ratio(actual, 1), ratio(actual, 2), ratio(actual, 3)};
  }

 private:
  double scale() const { return 1 / std::sqrt(double(sizes_.dim)); }

  /// As they are once stored in the dtype.
  std::vector<double> stored_values(const Tensor& t) const {
    std::vector<double> values = to_doubles(t);
    dispatch_storage(dtype_, [&](auto zero) {
      for (double& x : values) x = double(decltype(zero)(x));
    });
    return values;
  }

  std::vector<std::vector<double>> on_one_rank() const {
    std::vector<Var> x;
    for (size_t i = 0; i < 3; ++i) {
      const int64_t heads = i == 0 ? sizes_.heads : sizes_.kv_heads;
      x.push_back(
          Var(Tensor::from(test_context(), {1, sizes_.tokens, heads, sizes_.dim}, operands_[i]), true));
    }
    Tape tape(test_context());
    const KeyRanges ranges = causal_key_ranges(SequenceLayout(1, sizes_.tokens), sizes_.window);
    const Var out = softmax_attention(tape, x[0], x[1], x[2], ranges, scale());
    tape.backward({out}, {Tensor::from(test_context(), out.shape(), operands_[3])});
    return {to_doubles(out.value()), to_doubles(x[0].grad()), to_doubles(x[1].grad()),
            to_doubles(x[2].grad())};
  }

  /// visit(element of the whole, element of the rank's rows, how many) for each part of a rank; there is no
  /// padding.
  template <class F>
  static void for_each_part(const SequencePlan& plan, int64_t width, F&& visit) {
    const SequencePartition& p = plan.partition();
    for (int slot = 0; slot < p.slots(); ++slot) {
      const int part = p.part(plan.rank(), slot);
      SPANWISE_CHECK(p.end(part) - p.begin(part) == p.capacity(), "part {} has padding", part);
      visit(p.begin(part) * width, slot * p.capacity() * width, p.capacity() * width);
    }
  }
  Tensor local(Context& ctx, const SequencePlan& plan, const std::vector<double>& whole) const {
    const SequencePartition& p = plan.partition();
    const int64_t width = int64_t(whole.size()) / sizes_.tokens;
    return dispatch_storage(dtype_, [&](auto zero) {
      using T = decltype(zero);
      std::vector<T> values(size_t(p.slots() * p.capacity() * width));
      for_each_part(plan, width, [&](int64_t from, int64_t to, int64_t count) {
        for (int64_t i = 0; i < count; ++i) values[size_t(to + i)] = T(whole[size_t(from + i)]);
      });
      return Tensor::from(ctx, {p.slots(), p.capacity(), width / sizes_.dim, sizes_.dim}, values);
    });
  }
  void give_back(const SequencePlan& plan, const Tensor& t, std::vector<double>& whole) const {
    SPANWISE_CHECK(t.dtype() == dtype_, "a result of {}", name_of(t.dtype()));
    dispatch_storage(dtype_, [&](auto zero) {
      const auto values = t.to_vector<decltype(zero)>();
      for_each_part(plan, int64_t(whole.size()) / sizes_.tokens,
                    [&](int64_t to, int64_t from, int64_t count) {
                      for (int64_t i = 0; i < count; ++i)
                        whole[size_t(to + i)] = double(values[size_t(from + i)]);
                    });
    });
  }

  double ratio(const std::vector<std::vector<double>>& actual, size_t index) const {
    double error = 0, norm = 0;
    for (size_t i = 0; i < actual[index].size(); ++i) {
      error += std::pow(actual[index][i] - expected_[index][i], 2);
      norm += std::pow(expected_[index][i], 2);
    }
    return std::sqrt(error / norm);
  }

  AttentionSizes sizes_;
  DType dtype_;
  std::vector<std::vector<double>> operands_, expected_;  ///< q, k, v, dout; out, dq, dk, dv
};

}  // namespace spanwise::testing
