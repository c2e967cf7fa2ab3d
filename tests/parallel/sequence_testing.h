#pragma once
// What the tests of sequence parallelism share: whole rows known to every rank, this rank's part of them, and
// the comparison of an op on parts with the op on whole rows.

#include <map>

#include "core/ops/block_copy.h"
#include "parallel/comm.h"
#include "parallel/sequence_parallel.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {

inline Comm& world() {
  static const std::unique_ptr<Comm> comm = make_world_comm();
  return *comm;
}

/// The ranks add the same terms in another order, in fp64: far less than the value bound of kTolerance64. For
/// gradients with the rounding of what was summed for the whole rows: a rank's part of them may be nothing
/// else.
constexpr double kLayoutTolerance = 1e-10;

struct Rows {
  const char* name;
  int64_t batch, length;
  std::vector<int64_t> starts;  ///< of documents, as SequencePlan takes them
  SequenceLayout layout() const { return {batch, length, starts}; }
};

/// Even and uneven lengths, documents on and beside the borders of 2 and 4 ranks, of one token, over three
/// ranks and more, and ranks with padding alone.
inline std::vector<Rows> row_cases() {
  return {{"one document", 1, 32, {0}},
          {"two uneven rows", 2, 29, {0, 29}},
          {"documents on and beside borders", 1, 32, {0, 7, 8, 9, 16, 17, 31}},
          {"different documents in each row", 2, 32, {0, 1, 3, 15, 32, 32 + 16, 32 + 25}},
          {"long documents between short ones", 1, 45, {0, 2, 3, 41, 44}},
          {"less tokens than parts", 2, 3, {0, 2, 3}},
          {"one token", 1, 1, {0}},
          {"empty last parts", 1, 9, {0, 4}}};
}

inline std::vector<Partition> partitions() {
  return {Partition::kContiguous, Partition::kZigzag};
}

inline SequencePlan plan_of(const Rows& rows, Partition partition) {
  return {SequencePartition(partition, world().size(), rows.length), world().rank(), rows.batch, rows.starts};
}

/// [B, T, …] → this rank's [R, capacity, …]; `padding` elsewhere.
inline Tensor take_local(const SequencePlan& plan, const Tensor& whole, double padding) {
  const SequencePartition& p = plan.partition();
  std::vector<int64_t> dims = whole.shape().to_vector();
  const int64_t width = whole.numel() / (dims[0] * dims[1]);
  dims[0] = plan.num_local_rows();
  dims[1] = p.capacity();
  const Tensor local = Tensor::empty(test_context(), Shape(dims), whole.dtype());
  local.fill(padding);
  for (int64_t row = 0; row < plan.num_local_rows(); ++row) {
    const int part = p.part(plan.rank(), int(row % p.slots()));
    const int64_t elems = (p.end(part) - p.begin(part)) * width;
    const int64_t from = (row / p.slots() * p.length() + p.begin(part)) * width;
    copy_blocks(test_context(), whole, local, {{1, elems, from, elems, row * p.capacity() * width, elems}});
  }
  return local;
}

/// Local values with zeros at padding, whose outputs are nobody's.
inline Tensor without_padding(const SequencePlan& plan, const Tensor& local, const Rows& rows) {
  const Tensor padding =
      take_local(plan, Tensor::zeros(test_context(), {rows.batch, rows.length}, DType::kF64), 1);
  const Tensor out = Tensor::zeros(test_context(), local.shape(), DType::kF64);
  const int64_t width = local.numel() / padding.numel();
  for (int64_t i = 0; i < out.numel(); ++i) {
    if (padding.data<double>()[i / width] == 0) out.data<double>()[i] = local.data<double>()[i];
  }
  return out;
}

using Op = std::function<Var(Tape&, const std::vector<Var>&)>;

struct Run {
  Tensor out;
  std::vector<Tensor> grads;
};
enum class Checkpointing { kOff, kOn };
/// op's output, and the gradients that `dout` gives.
inline Run run_op(const Op& op, const std::vector<Tensor>& operands, const Tensor& dout,
                  Checkpointing checkpointing = Checkpointing::kOff) {
  std::vector<Var> leaves;
  for (const Tensor& t : operands) leaves.push_back(t.defined() ? Var(t, true) : Var());
  Tape tape(test_context());
  const Var out =
      checkpointing == Checkpointing::kOff
          ? op(tape, leaves)
          : checkpoint(
                tape, [&op](Tape& t, const std::vector<Var>& in) { return std::vector<Var>{op(t, in)}; },
                leaves)[0];
  Run run{out.value(), {}};
  tape.backward({out}, {dout});
  for (const Var& leaf : leaves)
    run.grads.push_back(leaf.defined() ? leaf.grad_or_zeros(test_context()) : Tensor());
  return run;
}

/// The local op on this rank's tokens gives what the whole op gives there, and the same gradients; padding,
/// whose values are arbitrary, gets no gradient. Checkpointing gives the same bits and the same traffic.
inline void expect_equals_whole(const Rows& rows, const SequencePlan& plan, const Op& local, const Op& whole,
                                const std::vector<Tensor>& operands) {
  std::vector<Tensor> parts;
  for (const Tensor& t : operands) parts.push_back(t.defined() ? take_local(plan, t, 2.5) : t);
  Tape probe(test_context(), Tape::Mode::kInference);
  std::vector<Var> leaves;
  for (const Tensor& t : operands) leaves.push_back(t.defined() ? Var(t) : Var());
  const Tensor dout = random_tensor(whole(probe, leaves).shape(), DType::kF64, "dout");

  const Run expected = run_op(whole, operands, dout);
  world().reset_traffic();
  const Run actual = run_op(local, parts, take_local(plan, dout, 0));
  const auto traffic = world().traffic();
  EXPECT_TRUE(
      near(without_padding(plan, actual.out, rows), take_local(plan, expected.out, 0), kLayoutTolerance))
      << "output";
  const double rounding = rounding_of(DType::kF64, size_of(expected.grads));
  for (size_t i = 0; i < operands.size(); ++i) {
    if (!operands[i].defined()) continue;
    EXPECT_TRUE(near(actual.grads[i], take_local(plan, expected.grads[i], 0), kLayoutTolerance, rounding))
        << "gradient of operand " << i;
  }

  world().reset_traffic();
  const Run recomputed = run_op(local, parts, take_local(plan, dout, 0), Checkpointing::kOn);
  EXPECT_TRUE(bitwise_equal(recomputed.out, actual.out));
  for (size_t i = 0; i < operands.size(); ++i) {
    if (!operands[i].defined()) continue;
    EXPECT_TRUE(bitwise_equal(recomputed.grads[i], actual.grads[i])) << "recomputed gradient " << i;
  }
  for (const auto& [name, counted] : traffic) {
    EXPECT_EQ(world().traffic().at(name).calls, counted.calls) << name;
    EXPECT_EQ(world().traffic().at(name).received_bytes, counted.received_bytes) << name;
  }
}

/// Other values at one token of every operand change no bit of the outputs before it, nor of those of other
/// documents.
inline void expect_no_leaks(const Rows& rows, const SequencePlan& plan, const Op& local,
                            const std::vector<Tensor>& operands) {
  const auto outputs = [&](const std::vector<Tensor>& whole) {
    Tape tape(test_context(), Tape::Mode::kInference);
    std::vector<Var> leaves;
    for (const Tensor& t : whole) leaves.push_back(t.defined() ? Var(take_local(plan, t, 2.5)) : Var());
    return local(tape, leaves).value();
  };
  const Tensor before = outputs(operands);
  const int64_t width = before.numel() / (before.dim(0) * before.dim(1));
  const SequencePartition& p = plan.partition();
  const SequenceLayout layout = rows.layout();
  for (const Segment& document : layout.segments()) {
    const int64_t at = (document.begin + document.end) / 2;
    std::vector<Tensor> changed;
    for (const Tensor& t : operands) {
      changed.push_back(t);
      if (!t.defined()) continue;
      changed.back() = Tensor::empty(test_context(), t.shape(), t.dtype());
      changed.back().copy_from(t);
      const int64_t elems = t.numel() / (rows.batch * rows.length);
      for (int64_t i = 0; i < elems; ++i)
        changed.back().data<double>()[(document.row * rows.length + at) * elems + i] *= 1.5;
    }
    const Tensor after = outputs(changed);
    for (int64_t row = 0; row < plan.num_local_rows(); ++row) {
      const int part = p.part(plan.rank(), int(row % p.slots()));
      for (int64_t token = p.begin(part); token < p.end(part); ++token) {
        if (row / p.slots() == document.row && token >= at && token < document.end) continue;
        const int64_t element = (row * p.capacity() + token - p.begin(part)) * width;
        EXPECT_TRUE(bitwise_equal(before.slice_flat(element, {width}), after.slice_flat(element, {width})))
            << "token " << token << " of local row " << row << " saw token " << at;
      }
    }
  }
}

}  // namespace spanwise::testing
