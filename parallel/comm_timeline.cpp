#include "parallel/comm_timeline.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <map>

#include "core/json_quote.h"

namespace spanwise {

namespace {

struct Row {
  std::string axis, name;
  int64_t calls = 0, received_bytes = 0;
  double ms = 0, exposed_ms = 0, hidden_ms = 0;
};

void add(Row& row, const CommSpan& span) {
  ++row.calls;
  row.received_bytes += span.received_bytes;
  row.ms += span.duration_ms();
  row.exposed_ms += span.exposed_ms();
  row.hidden_ms += span.hidden_ms();
}

std::string line(const Row& row) {
  const double hidden_percent = row.ms > 0 ? 100 * row.hidden_ms / row.ms : 0;
  return fmt::format("{:<14} {:<26} {:>6} {:>10.3f} {:>9.3f} {:>9.3f} {:>9.3f} {:>7.1f}%\n", row.axis,
                     row.name, row.calls, double(row.received_bytes) / 1e6, row.ms, row.exposed_ms,
                     row.hidden_ms, hidden_percent);
}

/// A complete event of the trace format; times in microseconds.
std::string event(std::string_view name, int rank, int thread, double begin_ms, double end_ms,
                  const std::string& arguments) {
  return fmt::format(R"({{"name":{},"ph":"X","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f},"args":{{{}}}}})",
                     json_quote(name), rank, thread, begin_ms * 1e3, (end_ms - begin_ms) * 1e3, arguments);
}

std::string thread_name(int rank, int thread, std::string_view name) {
  return fmt::format(R"({{"name":"thread_name","ph":"M","pid":{},"tid":{},"args":{{"name":{}}}}})", rank,
                     thread, json_quote(name));
}

/// The compute stream: waits where a join was exposed, work between them.
void add_compute(std::vector<std::string>& events, const CommTimeline& timeline, int rank) {
  std::vector<const CommSpan*> waits;
  for (const CommSpan& span : timeline.spans) {
    if (span.exposed_ms() > 0) waits.push_back(&span);
  }
  std::sort(waits.begin(), waits.end(),
            [](const CommSpan* a, const CommSpan* b) { return a->join_ms < b->join_ms; });
  double at = 0;
  for (const CommSpan* span : waits) {
    if (span->join_ms > at) events.push_back(event("work", rank, 0, at, span->join_ms, ""));
    events.push_back(event("wait for " + span->name, rank, 0, span->join_ms, span->end_ms, ""));
    at = span->end_ms;
  }
  if (timeline.total_ms > at) events.push_back(event("work", rank, 0, at, timeline.total_ms, ""));
}

}  // namespace

std::string CommTimeline::table() const {
  std::map<std::pair<std::string, std::string>, Row> by_name;
  Row all{.axis = "all", .name = ""};
  for (const CommSpan& span : spans) {
    Row& row = by_name[{span.axis, span.name}];
    row.axis = span.axis;
    row.name = span.name;
    add(row, span);
    add(all, span);
  }
  std::vector<Row> rows;
  for (const auto& [key, row] : by_name) rows.push_back(row);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.exposed_ms > b.exposed_ms; });
  std::string text = fmt::format("{:<14} {:<26} {:>6} {:>10} {:>9} {:>9} {:>9} {:>8}\n", "axis", "collective",
                                 "calls", "MB", "ms", "exposed", "hidden", "hidden");
  for (const Row& row : rows) text += line(row);
  text += line(all);
  return text + fmt::format("compute stream: {:.3f} ms, {:.1f}% of it waiting for collectives\n", total_ms,
                            total_ms > 0 ? 100 * all.exposed_ms / total_ms : 0);
}

std::string CommTimeline::chrome_trace(int rank) const {
  std::vector<std::string> events{thread_name(rank, 0, "compute stream")};
  add_compute(events, *this, rank);
  std::map<std::string, int> threads;
  for (const CommSpan& span : spans) {
    const auto [found, is_new] = threads.try_emplace(span.axis, int(threads.size()) + 1);
    if (is_new) events.push_back(thread_name(rank, found->second, "axis " + span.axis));
    events.push_back(
        event(span.name, rank, found->second, span.begin_ms, span.end_ms,
              fmt::format(R"("operation":{},"number":{},"received_bytes":{},"exposed_ms":{:.4f})",
                          json_quote(span.operation), span.sequence_number, span.received_bytes,
                          span.exposed_ms())));
  }
  return fmt::format("{{\"traceEvents\":[\n{}\n]}}\n", fmt::join(events, ",\n"));
}

}  // namespace spanwise
