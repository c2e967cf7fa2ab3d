// Every layout trains as one rank does: the table of layout_row.h, run under mpirun with 8 ranks. The first
// data x sequence x tensor ranks form a row's mesh, the others wait; rank 0 also runs the task alone and
// compares. SPANWISE_LAYOUTS=full takes the whole product of settings, SPANWISE_LAYOUTS=200 so many rows of
// it:
//
//   SPANWISE_LAYOUTS=full launcher/test.sh -R layouts

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/layouts/layout_training.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

/// Meshes of the first ranks of the world, by shape: rows share them.
class Meshes {
 public:
  Meshes() {
    world_->set_timeout(60);  // a rank that fails alone must not keep the others
    SPANWISE_CHECK(world_->size() == kWorldSize, "{} ranks instead of {}", world_->size(), kWorldSize);
  }
  Comm& world() { return *world_; }
  /// Null on ranks that are not part of it. Collective over the world.
  const Mesh* of(const MeshShape& shape) {
    const std::array<int, 3> key{shape.data, shape.sequence, shape.tensor};
    if (!meshes_.contains(key)) {
      std::unique_ptr<Comm>& ranks = ranks_[shape.size()];
      if (!ranks) ranks = world_->split(world_->rank() < shape.size(), "row");
      meshes_[key] = world_->rank() < shape.size() ? std::make_unique<Mesh>(*ranks, shape) : nullptr;
    }
    return meshes_.at(key).get();
  }

 private:
  std::unique_ptr<Comm> world_ = make_world_comm();
  std::map<int, std::unique_ptr<Comm>> ranks_;
  std::map<std::array<int, 3>, std::unique_ptr<Mesh>> meshes_;
};

Meshes& meshes() {
  static Meshes made;
  return made;
}

const Mesh& one_rank() {
  static const std::unique_ptr<Comm> self = make_self_comm();
  static const Mesh mesh(*self, {});
  return mesh;
}

/// Relative, as issue 3 asks.
double loss_bound(DType dtype) {
  return dtype == DType::kF64 ? 1e-10 : 1e-5;
}

/// max|a - b|; infinite where a number is not finite or sizes differ.
double difference(const Tensor& actual, const Tensor& expected) {
  const std::vector<double> a = to_doubles(actual), b = to_doubles(expected);
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
    largest = std::max(largest, std::abs(a[i] - b[i]));
  }
  return largest;
}

/// The one-rank run.
struct Expected {
  double loss;
  std::vector<WholeTensor> values, gradients;
  double rounding;                      ///< of sums of the size of all gradients
  std::vector<double> gradient_bounds;  ///< on the difference
};

Expected run_alone(const Task& task) {
  LayoutTraining alone({.task = task}, one_rank());
  Expected run{.values = alone.values()};
  run.loss = alone.forward_backward(0);
  run.gradients = alone.gradients();
  std::vector<Tensor> all;
  for (const WholeTensor& gradient : run.gradients) all.push_back(gradient.values);
  run.rounding = rounding_of(task.dtype, size_of(all));
  for (const Tensor& gradient : all)
    run.gradient_bounds.push_back(1e-10 * size_of({gradient}) + run.rounding);
  return run;
}

/// In fp32: the op tests' bound, or four times what rounding alone takes from the one-rank run (its distance
/// from fp64) where a gradient is ill-conditioned. Both runs round, and maxima over few elements scatter.
void widen_bounds(const Task& task, Expected& run) {
  Task exact = task;
  exact.dtype = DType::kF64;
  const Expected reference = run_alone(exact);
  for (size_t i = 0; i < run.gradients.size(); ++i) {
    const Tensor &gradient = run.gradients[i].values, &exact_gradient = reference.gradients[i].values;
    run.gradient_bounds[i] = run.rounding + std::max(kTolerance32.gradient * size_of({exact_gradient}),
                                                     4 * difference(gradient, exact_gradient));
  }
}

const Expected& expected_of(const Task& task) {
  static std::map<std::string, Expected> known;
  const std::string key = task.str();
  if (!known.contains(key)) {
    Expected run = run_alone(task);
    if (task.dtype == DType::kF32) widen_bounds(task, run);
    known[key] = std::move(run);
  }
  return known.at(key);
}

struct Worst {
  double error = 0;
  std::string place;
  void take(double other, const std::string& where) {
    if (other > error) *this = {other, where};
  }
};
struct Report {
  size_t rows = 0, passed = 0;
  Worst loss[2], gradient[2];  ///< fp64, fp32
};

void compare(const Row& row, double loss, const std::vector<WholeTensor>& values,
             const std::vector<WholeTensor>& gradients, Report& report) {
  const Expected& expected = expected_of(row.task);
  const int precision = row.task.dtype == DType::kF64 ? 0 : 1;
  const double loss_error = std::abs(loss / expected.loss - 1);
  EXPECT_LE(loss_error, loss_bound(row.task.dtype)) << "loss " << loss << ", alone " << expected.loss;
  report.loss[precision].take(loss_error, row.str());
  ASSERT_EQ(gradients.size(), expected.gradients.size());
  for (size_t i = 0; i < gradients.size(); ++i) {
    ASSERT_EQ(gradients[i].name, expected.gradients[i].name);
    EXPECT_EQ(difference(values[i].values, expected.values[i].values), 0) << "initial " << values[i].name;
    const double error = difference(gradients[i].values, expected.gradients[i].values);
    EXPECT_LE(error, expected.gradient_bounds[i]) << "gradient of " << gradients[i].name;
    report.gradient[precision].take(error / (size_of({expected.gradients[i].values}) + expected.rounding),
                                    gradients[i].name + " " + row.str());
  }
}

/// Runs `body` on the row's ranks; false if any rank failed. Errors become failures of that rank, so that the
/// row is named.
template <class F>
bool run_row(const Row& row, F&& body) {
  SCOPED_TRACE(row.str());
  const ::testing::TestResult& result = *::testing::UnitTest::GetInstance()->current_test_info()->result();
  const int before = result.total_part_count();
  if (const Mesh* mesh = meshes().of(row.mesh)) {
    try {
      body(*mesh);
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
  }
  std::vector<double> failed{double(result.total_part_count() - before)};
  meshes().world().all_reduce("failed", failed);
  return failed[0] == 0;
}

std::vector<Row> chosen_rows() {
  const char* choice = std::getenv("SPANWISE_LAYOUTS");
  if (!choice) return cheap_rows();
  const std::string_view text(choice);
  if (text == "full") return full_product();
  size_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count == 0) {
    fail_user("SPANWISE_LAYOUTS is '{}'; it is 'full' or a number of rows.", text);
  }
  return drawn_rows(count);
}

void print(const Report& report) {
  if (meshes().world().rank() != 0) return;
  fmt::print("{} of {} layouts equal one rank\n", report.passed, report.rows);
  for (const int precision : {0, 1}) {
    if (report.gradient[precision].place.empty()) continue;
    const char* name = precision == 0 ? "fp64" : "fp32";
    fmt::print("worst {} loss {:.2g} {}\n", name, report.loss[precision].error, report.loss[precision].place);
    fmt::print("worst {} gradient {:.2g} {}\n", name, report.gradient[precision].error,
               report.gradient[precision].place);
  }
}

TEST(Layouts, LossAndEveryGradientEqualOneRank) {
  Report report;
  for (const Row& row : chosen_rows()) {
    ++report.rows;
    report.passed += run_row(row, [&](const Mesh& mesh) {
      LayoutTraining training(row, mesh);
      const std::vector<WholeTensor> values = training.values();
      const double loss = training.forward_backward(0);
      const std::vector<WholeTensor> gradients = training.gradients();
      if (mesh.world().rank() == 0) compare(row, loss, values, gradients, report);
    });
  }
  EXPECT_EQ(report.passed, report.rows);
  print(report);
}

TEST(Layouts, TwentyStepsGiveTheLossesOfOneRank) {
  constexpr int kSteps = 20;
  Worst worst;
  std::map<std::string, std::vector<double>> alone;
  const auto losses = [](const Row& row, const Mesh& mesh) {
    return LayoutTraining(row, mesh).losses(kSteps);
  };
  for (const Row& row : trajectory_rows()) {
    run_row(row, [&](const Mesh& mesh) {
      const std::vector<double> actual = losses(row, mesh);
      if (mesh.world().rank() != 0) return;
      std::vector<double>& expected = alone[row.task.str()];
      if (expected.empty()) expected = losses({.task = row.task}, one_rank());
      for (int i = 0; i < kSteps; ++i) {
        const double error = std::abs(actual[i] / expected[i] - 1);
        EXPECT_LE(error, loss_bound(row.task.dtype)) << "step " << i + 1;
        worst.take(error, row.str());
      }
    });
  }
  if (meshes().world().rank() == 0) fmt::print("worst loss {:.2g} {}\n", worst.error, worst.place);
}

// Meshes of all ranks hand their tensors to every other layout, so that each rank has them.
TEST(Layouts, GoOnFromAnyOthersStateBitForBit) {
  constexpr int kSteps = 3;
  for (const Row& from : trajectory_rows()) {
    if (from.mesh.size() != kWorldSize) continue;
    std::vector<WholeTensor> state;
    double next_loss = NAN;
    run_row(from, [&](const Mesh& mesh) {
      LayoutTraining training(from, mesh);
      for (int step = 1; step <= kSteps; ++step) {
        training.forward_backward(step);
        training.update(step);
      }
      state = training.state();
      next_loss = training.forward_backward(kSteps + 1);
    });
    for (const Row& to : trajectory_rows()) {
      run_row(to, [&](const Mesh& mesh) {
        SCOPED_TRACE("state of " + from.str());
        LayoutTraining training(to, mesh);
        training.set_state(state);
        const std::vector<WholeTensor> taken = training.state();
        ASSERT_EQ(taken.size(), state.size());
        for (size_t i = 0; i < state.size(); ++i) {
          EXPECT_TRUE(taken[i].name == state[i].name &&
                      std::memcmp(taken[i].values.raw(), state[i].values.raw(), state[i].values.bytes()) == 0)
              << state[i].name;
        }
        const double loss = training.forward_backward(kSteps + 1);
        EXPECT_LE(std::abs(loss / next_loss - 1), loss_bound(to.task.dtype)) << loss << ", " << next_loss;
      });
    }
  }
}

TEST(Layouts, TheTableNamesEachRowOnceAndTakesOnlySupportedOnes) {
  for (const std::vector<Row>& rows : {cheap_rows(), full_product(), drawn_rows(500), trajectory_rows()}) {
    std::map<std::string, int> seen;
    for (const Row& row : rows) {
      EXPECT_EQ(++seen[row.str()], 1) << row.str();
      EXPECT_TRUE(supported(row)) << row.str();
      EXPECT_LE(row.mesh.size(), kWorldSize) << row.str();
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
