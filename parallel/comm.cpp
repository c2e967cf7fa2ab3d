#include "parallel/comm.h"

#include <cstring>

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

void check_reducible(std::string_view name, DType dtype) {
  SPANWISE_CHECK(dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kI64,
                 "'{}': {} cannot be reduced (F32, F64, I64 can)", name, name_of(dtype));
}

/// `whole` is `part` times the number of ranks.
void check_gathered(std::string_view name, const Tensor& part, const Tensor& whole, int num_ranks) {
  SPANWISE_CHECK(part.dtype() == whole.dtype(), "'{}': operands of {} and {}", name, name_of(part.dtype()),
                 name_of(whole.dtype()));
  SPANWISE_CHECK(part.numel() * num_ranks == whole.numel(),
                 "'{}': {} elements a rank, {} ranks, but {} in all", name, part.numel(), num_ranks,
                 whole.numel());
}

std::vector<Collective::Peer> peers_of(std::string_view name, const char* side,
                                       const std::vector<Message>& messages, int num_ranks) {
  std::vector<Collective::Peer> peers;
  for (const Message& message : messages) {
    check_tensor(name, side, message.tensor);
    SPANWISE_CHECK(message.peer >= 0 && message.peer < num_ranks, "'{}': {} rank {} of {}", name, side,
                   message.peer, num_ranks);
    peers.push_back({message.peer, Block(message.tensor)});
  }
  return peers;
}

std::vector<Collective::Peer> take_peer(std::vector<Collective::Peer>& peers, int rank) {
  std::vector<Collective::Peer> taken, rest;
  for (const Collective::Peer& peer : peers) (peer.rank == rank ? taken : rest).push_back(peer);
  peers = std::move(rest);
  return taken;
}

/// Copies a rank's messages to itself and removes them.
void deliver_own_messages(Collective& exchange, int rank) {
  const auto sent = take_peer(exchange.sends, rank), received = take_peer(exchange.receives, rank);
  SPANWISE_CHECK(sent.size() == received.size(), "'{}': {} messages sent to oneself, {} received",
                 exchange.name, sent.size(), received.size());
  for (size_t i = 0; i < sent.size(); ++i) {
    SPANWISE_CHECK(sent[i].block.bytes() == received[i].block.bytes(),
                   "'{}': message {} to oneself has {} bytes, {} are received", exchange.name, i,
                   sent[i].block.bytes(), received[i].block.bytes());
    copy(sent[i].block, received[i].block);
  }
}

}  // namespace

Ticket Comm::all_reduce(std::string_view name, const Tensor& tensor, Reduce op) {
  check_tensor(name, "tensor", tensor);
  check_reducible(name, tensor.dtype());
  count(name, ReceivedBytes::all_reduce(size_, int64_t(tensor.bytes())));
  return launch({.operation = Operation::kAllReduce,
                 .name = std::string(name),
                 .output = Block(tensor),
                 .reduce = op,
                 .held = {tensor}});
}

void Comm::all_reduce(std::string_view name, std::vector<double>& values, Reduce op) {
  const Block block(values.data(), int64_t(values.size()), DType::kF64);
  count(name, ReceivedBytes::all_reduce(size_, block.bytes()));
  launch({.operation = Operation::kAllReduce, .name = std::string(name), .output = block, .reduce = op})
      .wait();
}

Ticket Comm::all_gather(std::string_view name, const Tensor& mine, const Tensor& all) {
  check_tensor(name, "mine", mine);
  check_tensor(name, "all", all);
  check_gathered(name, mine, all, size_);
  count(name, ReceivedBytes::all_gather(size_, int64_t(mine.bytes())));
  copy(Block(mine), Block(all).slice(rank_, size_));
  return launch({.operation = Operation::kAllGather,
                 .name = std::string(name),
                 .input = Block(mine),
                 .output = Block(all),
                 .held = {mine, all}});
}

Ticket Comm::reduce_scatter(std::string_view name, const Tensor& all, const Tensor& mine) {
  check_tensor(name, "all", all);
  check_tensor(name, "mine", mine);
  check_reducible(name, mine.dtype());
  check_gathered(name, mine, all, size_);
  count(name, ReceivedBytes::reduce_scatter(size_, int64_t(mine.bytes())));
  if (size_ == 1) copy(Block(all), Block(mine));
  return launch({.operation = Operation::kReduceScatter,
                 .name = std::string(name),
                 .input = Block(all),
                 .output = Block(mine),
                 .held = {all, mine}});
}

Ticket Comm::all_to_all(std::string_view name, const Tensor& send, const Tensor& receive) {
  check_tensor(name, "send", send);
  check_tensor(name, "receive", receive);
  SPANWISE_CHECK(send.dtype() == receive.dtype() && send.numel() == receive.numel(),
                 "'{}': {} {} is sent, {} {} received", name, name_of(send.dtype()), send.shape().str(),
                 name_of(receive.dtype()), receive.shape().str());
  SPANWISE_CHECK(send.numel() % size_ == 0, "'{}': {} elements cannot be cut into {} equal slices", name,
                 send.numel(), size_);
  SPANWISE_CHECK(send.raw() != receive.raw() || send.numel() == 0, "'{}': send and receive are one memory",
                 name);
  count(name, ReceivedBytes::all_to_all(size_, int64_t(send.bytes())));
  copy(Block(send).slice(rank_, size_), Block(receive).slice(rank_, size_));
  return launch({.operation = Operation::kAllToAll,
                 .name = std::string(name),
                 .input = Block(send),
                 .output = Block(receive),
                 .held = {send, receive}});
}

Ticket Comm::exchange(std::string_view name, std::vector<Message> sends, std::vector<Message> receives) {
  Collective collective{.operation = Operation::kExchange,
                        .name = std::string(name),
                        .sends = peers_of(name, "sends to", sends, size_),
                        .receives = peers_of(name, "receives from", receives, size_)};
  deliver_own_messages(collective, rank_);
  int64_t received_bytes = 0;
  for (const Collective::Peer& peer : collective.receives) received_bytes += peer.block.bytes();
  count(name, received_bytes);
  for (const Message& message : sends) collective.held.push_back(message.tensor);
  for (const Message& message : receives) collective.held.push_back(message.tensor);
  return launch(std::move(collective));
}

Ticket Comm::broadcast(std::string_view name, const Tensor& tensor, int root) {
  check_tensor(name, "tensor", tensor);
  SPANWISE_CHECK(root >= 0 && root < size_, "'{}': root {} of {} ranks", name, root, size_);
  count(name, rank_ == root ? 0 : int64_t(tensor.bytes()));
  return launch({.operation = Operation::kBroadcast,
                 .name = std::string(name),
                 .output = Block(tensor),
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

void Comm::barrier(std::string_view name) {
  count(name, 0);
  launch({.operation = Operation::kBarrier, .name = std::string(name)}).wait();
}

Ticket Comm::launch(Collective collective) {
  collective.sequence_number = sequence_number_++;
  if (size_ == 1) return Ticket();
  return Ticket(start(std::move(collective)));
}

void Comm::count(std::string_view name, int64_t received_bytes) {
  auto found = traffic_.find(name);
  if (found == traffic_.end()) found = traffic_.emplace(name, Traffic{}).first;
  ++found->second.calls;
  found->second.received_bytes += received_bytes;
}

}  // namespace spanwise
