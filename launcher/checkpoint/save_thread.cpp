#include "launcher/checkpoint/save_thread.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <exception>

#include "core/check.h"

namespace spanwise {

namespace {

// Signals are the main thread's: it knows what to do with them.
std::thread start_without_signals(std::function<void()> run) {
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, &before);
  std::thread thread(std::move(run));
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace

SaveThread::SaveThread(Device device, int64_t block_bytes)
    : device_(device), block_bytes_(block_bytes), thread_(start_without_signals([this] { run(); })) {}

SaveThread::~SaveThread() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void SaveThread::reserve(int64_t count) {
  while (int64_t(blocks_.size()) < count) {
    auto block = std::make_unique<PinnedBuffer>(device_, size_t(block_bytes_));
    const std::lock_guard lock(mutex_);
    free_.push_back(block->data());
    blocks_.push_back(std::move(block));
  }
}

void SaveThread::shrink(int64_t count) {
  const std::lock_guard lock(mutex_);
  SPANWISE_CHECK(free_.size() == blocks_.size(), "{} of {} blocks are in use", blocks_.size() - free_.size(),
                 blocks_.size());
  blocks_.resize(size_t(std::min(count, int64_t(blocks_.size()))));
  free_.clear();
  for (const auto& block : blocks_) free_.push_back(block->data());
}

char* SaveThread::take_block() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !free_.empty(); });
  char* block = free_.back();
  free_.pop_back();
  return block;
}

bool SaveThread::has_free_block() {
  const std::lock_guard lock(mutex_);
  return !free_.empty();
}

void SaveThread::post(std::function<void()> job, char* block) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back({std::move(job), block, false});
  }
  changed_.notify_all();
}

void SaveThread::post_always(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back({std::move(job), nullptr, true});
  }
  changed_.notify_all();
}

bool SaveThread::busy() {
  const std::lock_guard lock(mutex_);
  return !jobs_.empty();
}

std::string SaveThread::failure() {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void SaveThread::clear_failure() {
  const std::lock_guard lock(mutex_);
  failure_.clear();
}

void SaveThread::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const Job& job = jobs_.front();  // a deque's elements stay where they are
    if (job.always || failure_.empty()) {
      lock.unlock();
      std::string problem;
      try {
        job.work();
      } catch (const std::exception& error) {
        problem = error.what();
      }
      lock.lock();
      if (failure_.empty()) failure_ = problem;
    }
    if (job.block) free_.push_back(job.block);
    jobs_.pop_front();
    changed_.notify_all();
  }
}

}  // namespace spanwise
