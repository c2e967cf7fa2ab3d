#include "parallel/comm.h"

#include <algorithm>

#include "parallel/comm_backend.h"

namespace spanwise {

using Operation = Collective::Operation;

Ticket::Ticket() noexcept = default;
Ticket::Ticket(std::unique_ptr<Pending> pending) : pending_(std::move(pending)) {}
Ticket::Ticket(Ticket&&) noexcept = default;
Ticket& Ticket::operator=(Ticket&&) noexcept = default;
Ticket::~Ticket() = default;

void Ticket::wait() {
  if (!pending_) return;
  pending_->wait();
  pending_.reset();
}

namespace {

void check_tensor(std::string_view name, const char* operand, const Tensor& tensor) {
  SPANWISE_CHECK(tensor.defined(), "'{}': the tensor {} is undefined", name, operand);
  SPANWISE_CHECK(tensor.contiguous(), "'{}': the tensor {} {} is not contiguous", name, operand,
                 tensor.shape().str());
}

void check_reducible(std::string_view name, const Tensor& tensor, Reduce op) {
  const DType dtype = tensor.dtype();
  const bool gpu_sum = tensor.device() == Device::kCUDA && op == Reduce::kSum;
  SPANWISE_CHECK(dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kI64 ||
                     (dtype == DType::kBF16 && gpu_sum),
                 "'{}': {} cannot be reduced (F32, F64, I64 can, and sums of BF16 on a GPU)", name,
                 name_of(dtype));
}

void check_same_device(std::string_view name, const Tensor& a, const Tensor& b) {
  SPANWISE_CHECK(a.device() == b.device(), "'{}': operands on {} and on {}", name, name_of(a.device()),
                 name_of(b.device()));
}

/// `whole` is `part` times the number of ranks.
void check_gathered(std::string_view name, const Tensor& part, const Tensor& whole, int num_ranks) {
  check_same_device(name, part, whole);
  SPANWISE_CHECK(part.dtype() == whole.dtype(), "'{}': operands of {} and {}", name, name_of(part.dtype()),
                 name_of(whole.dtype()));
  SPANWISE_CHECK(part.numel() * num_ranks == whole.numel(),
                 "'{}': {} elements a rank, {} ranks, but {} in all", name, part.numel(), num_ranks,
                 whole.numel());
}

/// target = source, unless they are the same memory.
void copy(const Tensor& source, const Tensor& target) {
  if (source.numel() > 0 && source.raw() != target.raw()) target.copy_from(source);
}

/// Slice `index` of `num` equal ones.
Tensor slice_of(const Tensor& whole, int index, int num) {
  const int64_t numel = whole.numel() / num;
  return whole.slice_flat(index * numel, {numel});
}

void check_messages(std::string_view name, const char* side, const std::vector<Message>& messages,
                    int num_ranks) {
  for (const Message& message : messages) {
    check_tensor(name, side, message.tensor);
    SPANWISE_CHECK(message.peer >= 0 && message.peer < num_ranks, "'{}': {} rank {} of {}", name, side,
                   message.peer, num_ranks);
  }
}

/// The tensors of a rank's messages to itself, which leave the list.
std::vector<Tensor> take_own(std::vector<Message>& messages, int rank) {
  std::vector<Tensor> own;
  std::vector<Message> rest;
  for (Message& message : messages) {
    if (message.peer == rank) {
      own.push_back(std::move(message.tensor));
    } else {
      rest.push_back(std::move(message));
    }
  }
  messages = std::move(rest);
  return own;
}

/// Copies a rank's messages to itself and removes them.
void deliver_own_messages(std::string_view name, std::vector<Message>& sends, std::vector<Message>& receives,
                          int rank) {
  const std::vector<Tensor> sent = take_own(sends, rank), received = take_own(receives, rank);
  SPANWISE_CHECK(sent.size() == received.size(), "'{}': {} messages sent to oneself, {} received", name,
                 sent.size(), received.size());
  for (size_t i = 0; i < sent.size(); ++i) {
    SPANWISE_CHECK(sent[i].bytes() == received[i].bytes(),
                   "'{}': message {} to oneself has {} bytes, {} are received", name, i, sent[i].bytes(),
                   received[i].bytes());
    copy(sent[i], received[i]);
  }
}

}  // namespace

LocalRanks Comm::local_ranks() const {
  const auto mine = machines_.begin() + rank_;
  return {.rank = int(std::count(machines_.begin(), mine, *mine)),
          .size = int(std::count(machines_.begin(), machines_.end(), *mine))};
}

Ticket Comm::all_reduce(std::string_view name, const Tensor& tensor, Reduce op) {
  check_tensor(name, "tensor", tensor);
  check_reducible(name, tensor, op);
  const int64_t received = count(name, ReceivedBytes::all_reduce(size_, int64_t(tensor.bytes())));
  return launch({.operation = Operation::kAllReduce,
                 .name = std::string(name),
                 .device = tensor.device(),
                 .received_bytes = received,
                 .output = CommBlock(tensor),
                 .reduce = op,
                 .held = {tensor}});
}

void Comm::all_reduce(std::string_view name, std::vector<double>& values, Reduce op) {
  const CommBlock block(values.data(), int64_t(values.size()), DType::kF64);
  count(name, ReceivedBytes::all_reduce(size_, block.bytes()));
  launch({.operation = Operation::kAllReduce, .name = std::string(name), .output = block, .reduce = op})
      .wait();
}

Ticket Comm::all_gather(std::string_view name, const Tensor& mine, const Tensor& all) {
  check_tensor(name, "mine", mine);
  check_tensor(name, "all", all);
  check_gathered(name, mine, all, size_);
  const int64_t received = count(name, ReceivedBytes::all_gather(size_, int64_t(mine.bytes())));
  // On a GPU NCCL does it on the axis's stream.
  if (size_ == 1 || all.device() == Device::kCPU) copy(mine, slice_of(all, rank_, size_));
  return launch({.operation = Operation::kAllGather,
                 .name = std::string(name),
                 .device = all.device(),
                 .received_bytes = received,
                 .input = CommBlock(mine),
                 .output = CommBlock(all),
                 .held = {mine, all}});
}

Ticket Comm::reduce_scatter(std::string_view name, const Tensor& all, const Tensor& mine) {
  check_tensor(name, "all", all);
  check_tensor(name, "mine", mine);
  check_reducible(name, mine, Reduce::kSum);
  check_gathered(name, mine, all, size_);
  const int64_t received = count(name, ReceivedBytes::reduce_scatter(size_, int64_t(mine.bytes())));
  if (size_ == 1) copy(all, mine);
  return launch({.operation = Operation::kReduceScatter,
                 .name = std::string(name),
                 .device = all.device(),
                 .received_bytes = received,
                 .input = CommBlock(all),
                 .output = CommBlock(mine),
                 .held = {all, mine}});
}

Ticket Comm::all_to_all(std::string_view name, const Tensor& send, const Tensor& receive) {
  check_tensor(name, "send", send);
  check_tensor(name, "receive", receive);
  check_same_device(name, send, receive);
  SPANWISE_CHECK(send.dtype() == receive.dtype() && send.numel() == receive.numel(),
                 "'{}': {} {} is sent, {} {} received", name, name_of(send.dtype()), send.shape().str(),
                 name_of(receive.dtype()), receive.shape().str());
  SPANWISE_CHECK(send.numel() % size_ == 0, "'{}': {} elements cannot be cut into {} equal slices", name,
                 send.numel(), size_);
  SPANWISE_CHECK(send.raw() != receive.raw() || send.numel() == 0, "'{}': send and receive are one memory",
                 name);
  const int64_t received = count(name, ReceivedBytes::all_to_all(size_, int64_t(send.bytes())));
  copy(slice_of(send, rank_, size_), slice_of(receive, rank_, size_));
  return launch({.operation = Operation::kAllToAll,
                 .name = std::string(name),
                 .device = send.device(),
                 .received_bytes = received,
                 .input = CommBlock(send),
                 .output = CommBlock(receive),
                 .held = {send, receive}});
}

Ticket Comm::exchange(std::string_view name, std::vector<Message> sends, std::vector<Message> receives) {
  check_messages(name, "sends to", sends, size_);
  check_messages(name, "receives from", receives, size_);
  deliver_own_messages(name, sends, receives, rank_);
  Collective collective{.operation = Operation::kExchange, .name = std::string(name)};
  const auto add = [&](std::vector<Collective::Peer>& peers, const std::vector<Message>& messages) {
    for (const Message& message : messages) {
      if (!collective.held.empty()) check_same_device(name, message.tensor, collective.held[0]);
      collective.device = message.tensor.device();
      collective.held.push_back(message.tensor);
      peers.push_back({message.peer, CommBlock(message.tensor)});
    }
  };
  add(collective.sends, sends);
  add(collective.receives, receives);
  for (const Collective::Peer& peer : collective.receives) collective.received_bytes += peer.block.bytes();
  count(name, collective.received_bytes);
  return launch(std::move(collective));
}

Ticket Comm::broadcast(std::string_view name, const Tensor& tensor, int root) {
  check_tensor(name, "tensor", tensor);
  SPANWISE_CHECK(root >= 0 && root < size_, "'{}': root {} of {} ranks", name, root, size_);
  const int64_t received = count(name, rank_ == root ? 0 : int64_t(tensor.bytes()));
  return launch({.operation = Operation::kBroadcast,
                 .name = std::string(name),
                 .device = tensor.device(),
                 .received_bytes = received,
                 .output = CommBlock(tensor),
                 .root = root,
                 .held = {tensor}});
}

void Comm::broadcast(std::string_view name, std::string& text) {
  const auto join = [&](void* memory, int64_t numel, DType dtype) {
    launch({.operation = Operation::kBroadcast, .name = std::string(name), .output = {memory, numel, dtype}})
        .wait();
  };
  int64_t length = int64_t(text.size());
  join(&length, 1, DType::kI64);
  text.resize(size_t(length));
  join(text.data(), length, DType::kU8);
  count(name, rank_ == 0 ? 0 : length + int64_t(sizeof(length)));
}

std::vector<std::string> Comm::all_gather(std::string_view name, const std::string& text) {
  std::vector<double> lengths(size_t(size_), 0.0);
  lengths[size_t(rank_)] = double(text.size());
  all_reduce(name, lengths);
  // Equal slices, as a collective takes them.
  const auto longest = int64_t(*std::max_element(lengths.begin(), lengths.end()));
  std::string all(size_t(longest * size_), '\0');
  text.copy(all.data() + longest * rank_, text.size());
  count(name, ReceivedBytes::all_gather(size_, longest));
  launch({.operation = Operation::kAllGather,
          .name = std::string(name),
          .input = {all.data() + longest * rank_, longest, DType::kU8},
          .output = {all.data(), longest * size_, DType::kU8}})
      .wait();
  std::vector<std::string> texts;
  for (int rank = 0; rank < size_; ++rank)
    texts.push_back(all.substr(size_t(longest * rank), size_t(lengths[size_t(rank)])));
  return texts;
}

void Comm::barrier(std::string_view name) {
  count(name, 0);
  launch({.operation = Operation::kBarrier, .name = std::string(name)}).wait();
}

CommTimeline Comm::take_timeline() {
  return {};
}

Ticket Comm::launch(Collective collective) {
  collective.sequence_number = sequence_number_++;
  if (size_ == 1) return Ticket();
  return Ticket(start(std::move(collective)));
}

int64_t Comm::count(std::string_view name, int64_t received_bytes) {
  auto found = traffic_.find(name);
  if (found == traffic_.end()) found = traffic_.emplace(name, Traffic{}).first;
  ++found->second.calls;
  found->second.received_bytes += received_bytes;
  return received_bytes;
}

}  // namespace spanwise
