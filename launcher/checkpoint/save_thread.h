#pragma once
// What writes a checkpoint's files beside training: one thread that does one job after the other and calls no
// collective, and the blocks of host memory that pass between it and the copy.

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/pinned_buffer.h"

namespace spanwise {

class SaveThread {
 public:
  SaveThread(Device device, int64_t block_bytes);
  /// Waits for the jobs given.
  ~SaveThread();
  SaveThread(const SaveThread&) = delete;
  SaveThread& operator=(const SaveThread&) = delete;

  /// Sees to `count` blocks; what is there stays from one save to the next. UserError if there is not that
  /// much memory.
  void reserve(int64_t count);
  int64_t num_blocks() const { return int64_t(blocks_.size()); }
  /// Gives back all blocks but `count`. Not while jobs have blocks.
  void shrink(int64_t count);
  /// A free block, once there is one.
  char* take_block();
  bool has_free_block();

  /// Does `job` after those before it, then gives `block` back, if there is one. After a job has failed,
  /// those that follow are left out until clear_failure().
  void post(std::function<void()> job, char* block = nullptr);
  /// As post, but done after a failure, too.
  void post_always(std::function<void()> job);
  bool busy();
  /// What the first failed job said; empty if none failed.
  std::string failure();
  void clear_failure();

 private:
  struct Job {
    std::function<void()> work;
    char* block;
    bool always;
  };
  void run();

  Device device_;
  int64_t block_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  ///< the first is being done
  std::string failure_;
  bool ending_ = false;
  std::vector<std::unique_ptr<PinnedBuffer>> blocks_;
  std::vector<char*> free_;
  std::thread thread_;
};

}  // namespace spanwise
