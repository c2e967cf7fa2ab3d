#pragma once
// How far a long piece of work is. Work of less than two seconds shows nothing. On a terminal a live line
// follows, gone at the end; elsewhere a line of its own after two seconds and then ever more rarely, at least
// one a minute.
// SPANWISE_PROGRESS_SECONDS says another number than two.
//
//   Progress progress({.what = "evaluating", .unit = "sequences", .total = 640});
//   for (…) progress.advance_to(++done);
//
//   evaluating: 128 of 640 sequences (20%), 32s left
//   saving step 100: 12s                                       where no total is known

#include <chrono>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>

#include "core/terminal.h"

namespace spanwise {

/// Two seconds, or SPANWISE_PROGRESS_SECONDS.
std::chrono::milliseconds progress_delay();

struct ProgressOptions {
  std::string what;             ///< what is being done
  std::string unit = "";        ///< of what there are `total`
  int64_t total = 0;            ///< 0: unknown
  std::ostream* out = nullptr;  ///< std::cout if null; nothing else may write there meanwhile
  std::function<int()> columns = [] { return terminal_columns(); };  ///< asked for every line; 0: no terminal
  std::chrono::milliseconds delay = progress_delay();                ///< before the first line
  std::chrono::milliseconds redraw{200};                             ///< from one live line to the next
};

/// On standard error, for work whose result goes to standard output.
ProgressOptions progress_on_stderr(const std::string& what, const std::string& unit = "", int64_t total = 0);

/// "evaluating: 128 of 640 sequences (20%), 32s left": the text after `elapsed_ms`.
std::string progress_text(const ProgressOptions& options, int64_t done, double elapsed_ms);

/// A thread of its own draws, so the work may as well stand still in one long call.
class Progress {
 public:
  explicit Progress(ProgressOptions options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// From any thread; costs nothing.
  void advance_to(int64_t done);

 private:
  struct Drawing;
  std::unique_ptr<Drawing> drawing_;
};

}  // namespace spanwise
