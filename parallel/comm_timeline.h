#pragma once
// When the GPU collectives of a stretch of work ran, and how much of them the compute stream had to wait for:
// what Comm::take_timeline gives. Times are this rank's GPU clock; a collective's time includes waiting for
// ranks that come later.
//
//   exposed = from when the compute stream came to the join (Ticket::wait) to the collective's end, if later
//   hidden  = the collective's time, less what of it was exposed

#include <cstdint>
#include <string>
#include <vector>

namespace spanwise {

struct CommSpan {
  std::string axis, operation, name;
  int64_t sequence_number = 0, received_bytes = 0;
  double begin_ms = 0, end_ms = 0;  ///< on the axis's stream, since the beginning of the timeline
  double join_ms = 0;               ///< when the compute stream came to wait for it
  bool joined = false;

  double duration_ms() const { return end_ms - begin_ms; }
  double exposed_ms() const { return joined && end_ms > join_ms ? end_ms - join_ms : 0; }
  double hidden_ms() const { return duration_ms() > exposed_ms() ? duration_ms() - exposed_ms() : 0; }
};

struct CommTimeline {
  double total_ms = 0;  ///< of the compute stream
  std::vector<CommSpan> spans;

  /// A line for each axis and name, the most exposed first: calls, MB received, ms in all, exposed and
  /// hidden.
  std::string table() const;
  /// Chrome's trace format (chrome://tracing, ui.perfetto.dev): a process a rank, with a thread for the
  /// compute stream's work and waits and one for each axis.
  std::string chrome_trace(int rank) const;
};

}  // namespace spanwise
