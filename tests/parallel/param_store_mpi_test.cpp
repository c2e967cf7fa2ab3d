// Parameters over data × tensor ranks. Run under mpirun with several rank counts; every rank runs every test.

#include "parallel/param_store.h"

#include <cmath>

#include "parallel/gradient_reducer.h"
#include "parallel/sharded_adamw.h"
#include "parallel/whole_params.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

Comm& world() {
  static const std::unique_ptr<Comm> comm = [] {
    std::unique_ptr<Comm> made = make_world_comm();
    made->set_timeout(30);  // a rank that fails alone must not keep the others
    return made;
  }();
  return *comm;
}

// Data × tensor ranks, tensor innermost.
struct Axes {
  explicit Axes(int tensor_size)
      : data(world().split(world().rank() % tensor_size, "data")),
        tensor(world().split(world().rank() / tensor_size, "tensor")) {}
  std::unique_ptr<Comm> data, tensor;
};

std::vector<int> tensor_sizes() {
  std::vector<int> sizes;
  for (int n = 1; n <= world().size(); ++n) {
    if (world().size() % n == 0) sizes.push_back(n);
  }
  return sizes;
}

constexpr int64_t kDim = 12, kOther = 5;

// Rows, columns, overlapping rows, and a replicated vector, as one tensor rank holds them.
struct Layers : Module {
  Param rows, columns, shared, norm;
  explicit Layers(int rank = 0, int size = 1) {
    const int64_t n = kDim / size, begin = rank * n, end = begin + n;
    rows = {{n, kOther}, init::normal(1), true, {{kDim, kOther}, 0, {{begin, end}}}};
    columns = {{kOther, n}, init::normal(1), true, {{kOther, kDim}, 1, {{begin, end}}}};
    // Every rank holds the first 2 rows and a share of the others; all compute a part of the gradient.
    shared = {{2 + n, kOther},
              init::normal(1),
              false,
              {{kDim + 2, kOther}, 0, {{0, 2}, {begin + 2, end + 2}}, true}};
    norm = {{kDim}, init::constant(1), false, {}};
    norm.placement.partial_gradient = true;
  }
  void visit(const std::string& prefix, const ParamVisitor& visitor) override {
    visitor(prefix + "rows", rows);
    visitor(prefix + "shared", shared);
    visitor(prefix + "columns", columns);
    visitor(prefix + "norm", norm);
  }
};

ParamStoreOptions options_of(int zero_stage) {
  return {.dtype = DType::kF64, .seed = 9, .zero_stage = zero_stage, .bucket_bytes = 600};
}

std::vector<double> whole(const ParamStore& params, const Tensor& flat, int entry) {
  return to_doubles(
      gather_piece(params, flat, entry, {0, params.entries()[entry].param->global_shape().numel()}));
}

// Adds gradients as a backward would: g(global index) times `factor`, and of elements that several tensor
// ranks hold an equal part on each.
void add_gradients(ParamStore& params, double factor) {
  Context& ctx = test_context();
  params.acquire(0, ParamGate::kNoPart);
  Tape tape(ctx);
  std::vector<Var> outputs;
  std::vector<Tensor> seeds;
  for (const ParamEntry& entry : params.entries()) {
    const Param& param = *entry.param;
    const Tensor g = Tensor::zeros(ctx, param.shape, params.master_dtype());
    dispatch_float(g.dtype(), [&](auto zero) {
      using T = decltype(zero);
      for (const ElementRun& run : element_runs(param)) {
        for (int64_t i = 0; i < run.count; ++i) {
          const int64_t at = run.global + i;
          const bool everywhere = !param.placement.sharded() || (entry.name == "shared" && at < 2 * kOther);
          g.data<T>()[run.local + i] =
              T(factor * std::sin(double(at + 1)) / (everywhere ? params.tensor().size() : 1));
        }
      }
    });
    outputs.push_back(Var(Tensor::zeros(ctx, {1}, DType::kF64), true));
    seeds.push_back(Tensor::from<double>(ctx, {1}, {1}));
    tape.record({param.var}, {outputs.back()}, [var = param.var, g, &ctx] { var.add_grad(ctx, g); });
  }
  tape.backward(outputs, seeds);
  params.release(0);
}

double step(ParamStore& params, GradientReducer& reducer, ShardedAdamW& optimizer, double factor, int step) {
  reducer.expect_last_backward();
  add_gradients(params, factor);
  reducer.finish();
  const double norm = optimizer.grad_norm();
  optimizer.step({.lr = 0.1, .weight_decay = 0.1, .step = step, .grad_scale = 1 / norm});
  return norm;
}

TEST(ShardedParams, InitialWeightsAreBitIdenticalInEveryLayout) {
  Layers reference;
  const ParamStore alone(test_context(), reference, DType::kF64, 9);
  for (const int tensor_size : tensor_sizes()) {
    const Axes axes(tensor_size);
    for (const int stage : {0, 1, 2, 3}) {
      Layers module(axes.tensor->rank(), tensor_size);
      const ParamStore params(test_context(), module, options_of(stage), *axes.data, *axes.tensor);
      EXPECT_EQ(params.num_parameters(), alone.num_parameters());
      for (int e = 0; e < 4; ++e)
        EXPECT_EQ(whole(params, params.values(), e), whole(alone, alone.values(), e));
    }
  }
}

TEST(ShardedParams, StepsInEveryLayoutEqualOneRank) {
  Layers reference;
  ParamStore alone(test_context(), reference, DType::kF64, 9);
  GradientReducer alone_reducer(alone);
  ShardedAdamW alone_optimizer(alone);
  std::vector<double> norms;
  for (int s = 1; s <= 3; ++s) norms.push_back(step(alone, alone_reducer, alone_optimizer, 1.0 / s, s));

  for (const int tensor_size : tensor_sizes()) {
    const Axes axes(tensor_size);
    for (const int stage : {0, 1, 2, 3}) {
      Layers module(axes.tensor->rank(), tensor_size);
      ParamStore params(test_context(), module, options_of(stage), *axes.data, *axes.tensor);
      GradientReducer reducer(params);
      ShardedAdamW optimizer(params);
      for (int s = 1; s <= 3; ++s) {
        // Data ranks give unequal parts of the gradient.
        const int n = axes.data->size();
        const double part = 2.0 * (axes.data->rank() + 1) / (n * (n + 1)) / s;
        EXPECT_NEAR(step(params, reducer, optimizer, part, s), norms[s - 1], 1e-12 * norms[s - 1])
            << "an element is counted twice or not at all";
      }
      for (int e = 0; e < 4; ++e) {
        const std::vector<double> got = whole(params, params.values(), e),
                                  expected = whole(alone, alone.values(), e);
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_NEAR(got[i], expected[i], 1e-12) << params.entries()[e].name << " element " << i;
        }
      }
    }
  }
}

// What a rank's model reads of a parameter, next to the masters of the same elements.
void expect_rounded_masters(ParamStore& params) {
  params.acquire(0, ParamGate::kNoPart);
  for (int e = 0; e < 4; ++e) {
    const Param& param = *params.entries()[e].param;
    const std::vector<double> masters = whole(params, params.values(), e);
    const Tensor& read = param.var.value();
    EXPECT_EQ(read.dtype(), param.shape.num_dims() == 2 ? DType::kBF16 : DType::kF32);
    dispatch_storage(read.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const std::vector<T> values = read.to_vector<T>();
      for (const ElementRun& run : element_runs(param)) {
        for (int64_t i = 0; i < run.count; ++i) {
          ASSERT_EQ(double(values[size_t(run.local + i)]), double(T(masters[size_t(run.global + i)])))
              << params.entries()[e].name << " element " << run.global + i;
        }
      }
    });
  }
  params.release(0);
}

TEST(ShardedParams, InBF16EveryRankReadsRoundedMastersWhichStepAsF32) {
  Layers reference;
  ParamStore alone(test_context(), reference, DType::kF32, 9);
  GradientReducer alone_reducer(alone);
  ShardedAdamW alone_optimizer(alone);
  for (int s = 1; s <= 3; ++s) step(alone, alone_reducer, alone_optimizer, 1.0 / s, s);

  for (const int tensor_size : tensor_sizes()) {
    const Axes axes(tensor_size);
    for (const int stage : {0, 1, 2, 3}) {
      SCOPED_TRACE(fmt::format("{} tensor ranks, stage {}", tensor_size, stage));
      Layers module(axes.tensor->rank(), tensor_size);
      ParamStoreOptions options = options_of(stage);
      options.dtype = DType::kBF16;
      ParamStore params(test_context(), module, options, *axes.data, *axes.tensor);
      GradientReducer reducer(params);
      ShardedAdamW optimizer(params);
      expect_rounded_masters(params);
      for (int s = 1; s <= 3; ++s) {
        const int n = axes.data->size();
        step(params, reducer, optimizer, 2.0 * (axes.data->rank() + 1) / (n * (n + 1)) / s, s);
      }
      expect_rounded_masters(params);
      for (int e = 0; e < 4; ++e) {
        const std::vector<double> got = whole(params, params.values(), e),
                                  expected = whole(alone, alone.values(), e);
        for (size_t i = 0; i < expected.size(); ++i)
          ASSERT_NEAR(got[i], expected[i], 1e-6) << "element " << i;
      }
    }
  }
}

TEST(ShardedParams, PiecesPassThroughEveryLayoutBitByBit) {
  for (const int tensor_size : tensor_sizes()) {
    const Axes axes(tensor_size);
    for (const int stage : {0, 2, 3}) {
      Layers module(axes.tensor->rank(), tensor_size);
      const ParamStore params(test_context(), module, options_of(stage), *axes.data, *axes.tensor);
      const Tensor moment = params.make_moment();
      for (int e = 0; e < 4; ++e) {
        const int64_t numel = params.entries()[e].param->global_shape().numel();
        const Tensor source = random_tensor({numel}, DType::kF64, "source");
        source.data<double>()[3] = -0.0;
        source.data<double>()[4] = std::nan("7");
        for (const Tensor& flat : {params.values(), moment}) {
          for (int64_t begin = 0; begin < numel; begin += 7) {
            const FlatRange piece{begin, std::min(begin + 7, numel)};
            if (!holds_piece(params, flat, e, piece)) continue;
            scatter_piece(params, flat, e, piece, source.slice_flat(begin, {piece.numel()}));
          }
          EXPECT_TRUE(bitwise_equal(gather_piece(params, flat, e, {0, numel}), source));
        }
      }
    }
  }
}

// Values that name the element, the parameter and what the buffer is.
Tensor source_of(const ParamStore& params, int entry, bool moment) {
  const int64_t numel = params.entries()[entry].param->global_shape().numel();
  const Tensor source = Tensor::empty(test_context(), {numel}, DType::kF64);
  for (int64_t i = 0; i < numel; ++i) source.data<double>()[i] = 1e4 * entry + double(i) + (moment ? 0.5 : 0);
  source.data<double>()[3] = -0.0;
  source.data<double>()[4] = std::nan("7");
  return source;
}

int64_t received(const std::string& name) {
  const auto found = world().traffic().find(name);
  return found == world().traffic().end() ? 0 : found->second.received_bytes;
}

TEST(ShardedParams, PiecesAreDeliveredToWhoHoldsThemAndCollectedWhereTheyAreWanted) {
  for (const int tensor_size : tensor_sizes()) {
    const Axes axes(tensor_size);
    for (const int stage : {0, 1, 2, 3}) {
      SCOPED_TRACE(fmt::format("{} tensor ranks, stage {}", tensor_size, stage));
      Layers module(axes.tensor->rank(), tensor_size);
      const ParamStore params(test_context(), module, options_of(stage), *axes.data, *axes.tensor);
      const ParamHolders holders(params);
      const Tensor moment = params.make_moment();
      const std::vector<Tensor> buffers = {params.values(), moment};
      for (const Tensor& flat : buffers) {
        for (int e = 0; e < 4; ++e) {
          const Tensor source = source_of(params, e, &flat == &buffers[1]);
          for (int64_t begin = 0; begin < source.numel(); begin += 7) {
            const FlatRange piece{begin, std::min(begin + 7, source.numel())};
            const Tensor values = source.slice_flat(begin, {piece.numel()});
            deliver_piece(holders, world(), flat, e, piece, world().rank() == 0 ? values : Tensor());
          }
          EXPECT_TRUE(bitwise_equal(gather_piece(params, flat, e, {0, source.numel()}), source));
        }
      }
      // Each parameter at another position, in two pieces, of which the second comes first.
      std::vector<Tensor> got;
      std::vector<WantedPiece> wanted;
      for (const Tensor& flat : buffers) {
        for (int e = 0; e < 4; ++e) {
          const int64_t numel = params.entries()[e].param->global_shape().numel();
          const int position = (e + 1) % axes.data->size();
          Tensor& whole = got.emplace_back(Tensor::empty(test_context(), {numel}, DType::kF64));
          const bool here = position == axes.data->rank() && axes.tensor->rank() == 0;
          double* to = here ? whole.data<double>() : nullptr;
          wanted.push_back({e, flat, {11, numel}, position, here ? to + 11 : nullptr});
          wanted.push_back({e, flat, {0, 11}, position, to});
        }
      }
      world().reset_traffic();
      collect_pieces(holders, world(), wanted);
      for (size_t i = 0; i < got.size(); ++i) {
        const int e = int(i % 4), position = (e + 1) % axes.data->size();
        if (position != axes.data->rank() || axes.tensor->rank() != 0) continue;
        EXPECT_TRUE(bitwise_equal(got[i], source_of(params, e, i >= 4))) << params.entries()[e].name;
      }
      // Nobody sends what a position has already.
      if (tensor_size == 1 && stage == 0) {
        EXPECT_EQ(received("collect_whole"), 0);
      }
    }
  }
}

TEST(ShardedParams, CollectingSendsEachElementOnceToWhereItIsLacked) {
  const Axes axes(1);
  Layers module;
  const ParamStore params(test_context(), module, options_of(1), *axes.data, *axes.tensor);
  const ParamHolders holders(params);
  const Tensor moment = params.make_moment();
  int64_t lacked = 0;
  std::vector<Tensor> got;
  std::vector<WantedPiece> wanted;
  for (int e = 0; e < 4; ++e) {
    const int64_t numel = params.entries()[e].param->global_shape().numel();
    got.push_back(Tensor::empty(test_context(), {numel}, DType::kF64));
    wanted.push_back({e, moment, {0, numel}, 0, got.back().raw()});
    lacked += numel;
    for (const ElementRun& run : holders.runs(e, {0, numel}, moment, 0, 0, HolderRuns::kOwned))
      lacked -= run.count;
  }
  world().reset_traffic();
  collect_pieces(holders, world(), wanted);
  EXPECT_EQ(received("collect_whole"), world().rank() == 0 ? lacked * 8 : 0);
}

TEST(ShardedParams, PartialGradientsAreSummedOnceOverTheTensorAxis) {
  for (const int tensor_size : tensor_sizes()) {
    const Axes axes(tensor_size);
    Layers module(axes.tensor->rank(), tensor_size);
    ParamStore params(test_context(), module, options_of(1), *axes.data, *axes.tensor);
    GradientReducer reducer(params);
    ShardedAdamW optimizer(params);
    step(params, reducer, optimizer, 1, 1);
    const auto& traffic = axes.tensor->traffic();
    if (tensor_size == 1) {
      EXPECT_EQ(traffic.count("grad_reduce_partial"), 0u);
      continue;
    }
    const int64_t bytes = (module.shared.global_shape().numel() + module.norm.numel()) * 8;
    EXPECT_NEAR(double(traffic.at("grad_reduce_partial").received_bytes),
                2.0 * (tensor_size - 1) * double(bytes) / tensor_size, 2.0);
  }
}

}  // namespace
}  // namespace spanwise::testing
