#pragma once
// Ranks that are threads of one process: for tests of more ranks than a machine would start.

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/comm_backend.h"

namespace spanwise::testing {

class ThreadWorld {
 public:
  /// From a tensor's memory to the host's and back.
  using Copy = std::function<void(void* to, const void* from, size_t bytes)>;

  explicit ThreadWorld(int size, Copy to_host = copy_bytes, Copy from_host = copy_bytes)
      : size_(size), to_host_(std::move(to_host)), from_host_(std::move(from_host)) {}

  /// body(comm) on every rank's thread; a rank's exception comes out of here.
  void run(const std::function<void(Comm&)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([this, rank, &body] {
        try {
          ThreadComm comm(*this, rank);
          body(comm);
        } catch (...) {
          const std::lock_guard lock(mutex_);
          if (!failure_) failure_ = std::current_exception();
          arrived_.notify_all();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  using Bytes = std::vector<char>;
  /// Tickets may be joined in any order, so letters carry their collective's number.
  struct Address {
    int from, to;
    int64_t collective;
    int index;
    auto operator<=>(const Address&) const = default;
  };

  static void copy_bytes(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

  Bytes read(const CommBlock& block) const {
    Bytes bytes(size_t(block.bytes()));
    to_host_(bytes.data(), block.data, bytes.size());
    return bytes;
  }
  void post(const Address& address, const CommBlock& block) {
    Bytes bytes = read(block);
    const std::lock_guard lock(mutex_);
    mail_[address] = std::move(bytes);
    arrived_.notify_all();
  }
  Bytes take(const Address& address) {
    std::unique_lock lock(mutex_);
    const bool there = arrived_.wait_for(lock, std::chrono::seconds(60),
                                         [&] { return failure_ || mail_.contains(address); });
    SPANWISE_CHECK(there && !failure_, "rank {} sent rank {} nothing", address.from, address.to);
    Bytes bytes = std::move(mail_.at(address));
    mail_.erase(address);
    return bytes;
  }

  class ThreadComm final : public Comm {
   public:
    ThreadComm(ThreadWorld& world, int rank) : Comm(rank, world.size_, "sequence"), world_(world) {}
    std::unique_ptr<Comm> split(int, std::string) override { SPANWISE_FAIL("threads are not split"); }
    void set_timeout(double) override {}
    void abort(int exit_code) override { std::_Exit(exit_code); }

   private:
    class Joined final : public Ticket::Pending {
     public:
      Joined(ThreadComm& comm, Collective collective) : comm_(comm), collective_(std::move(collective)) {}
      void wait() override { comm_.finish(collective_); }

     private:
      ThreadComm& comm_;
      Collective collective_;
    };

    std::unique_ptr<Ticket::Pending> start(Collective c) override {
      using Operation = Collective::Operation;
      const auto to = [&](int peer, int index) { return Address{rank(), peer, c.sequence_number, index}; };
      if (c.operation == Operation::kExchange) {
        std::map<int, int> sent;
        for (const Collective::Peer& send : c.sends)
          world_.post(to(send.rank, sent[send.rank]++), send.block);
      } else {
        const bool whole = c.operation == Operation::kAllGather;
        SPANWISE_CHECK(
            whole || c.operation == Operation::kReduceScatter || c.operation == Operation::kAllToAll,
            "threads have no {}", name_of(c.operation));
        for (int peer = 0; peer < size(); ++peer)
          world_.post(to(peer, 0), whole ? c.input : c.input.slice(peer, size()));
      }
      return std::make_unique<Joined>(*this, std::move(c));
    }

    void finish(const Collective& c) {
      using Operation = Collective::Operation;
      const auto from = [&](int peer, int index) {
        return world_.take({peer, rank(), c.sequence_number, index});
      };
      const auto write = [&](const CommBlock& block, const Bytes& bytes) {
        SPANWISE_CHECK(int64_t(bytes.size()) == block.bytes(), "{} bytes for {}", bytes.size(),
                       block.bytes());
        world_.from_host_(block.data, bytes.data(), bytes.size());
      };
      if (c.operation == Operation::kExchange) {
        std::map<int, int> received;
        for (const Collective::Peer& r : c.receives) write(r.block, from(r.rank, received[r.rank]++));
        return;
      }
      std::vector<Bytes> all;
      for (int peer = 0; peer < size(); ++peer) all.push_back(from(peer, 0));
      if (c.operation == Operation::kReduceScatter) {
        std::vector<CommBlock> inputs;
        for (Bytes& bytes : all) inputs.emplace_back(bytes.data(), c.output.numel, c.output.dtype);
        reduce_in_order(inputs, c.reduce, inputs[0]);
        return write(c.output, all[0]);
      }
      for (int peer = 0; peer < size(); ++peer) write(c.output.slice(peer, size()), all[size_t(peer)]);
    }

    ThreadWorld& world_;
  };

  const int size_;
  const Copy to_host_, from_host_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<Address, Bytes> mail_;
  std::exception_ptr failure_;
};

}  // namespace spanwise::testing
