#include "parallel/comm_timeline.h"

#include <gtest/gtest.h>

namespace spanwise {
namespace {

CommSpan span(const char* axis, const char* name, double begin, double end, double join) {
  return {.axis = axis,
          .operation = "all_gather",
          .name = name,
          .sequence_number = 7,
          .received_bytes = 1500000,
          .begin_ms = begin,
          .end_ms = end,
          .join_ms = join,
          .joined = true};
}

TEST(CommTimeline, WhatTheComputeStreamWaitedForIsExposed) {
  EXPECT_DOUBLE_EQ(span("data", "x", 1, 3, 2.5).exposed_ms(), 0.5);
  EXPECT_DOUBLE_EQ(span("data", "x", 1, 3, 2.5).hidden_ms(), 1.5);
  EXPECT_DOUBLE_EQ(span("data", "x", 1, 3, 4).exposed_ms(), 0);
  EXPECT_DOUBLE_EQ(span("data", "x", 1, 3, 4).hidden_ms(), 2);
  // Joined before it began: all of it, and the wait before it, is exposed.
  EXPECT_DOUBLE_EQ(span("data", "x", 1, 3, 0.5).exposed_ms(), 2.5);
  EXPECT_DOUBLE_EQ(span("data", "x", 1, 3, 0.5).hidden_ms(), 0);
  CommSpan never = span("data", "x", 1, 3, 0);
  never.joined = false;
  EXPECT_DOUBLE_EQ(never.exposed_ms(), 0);
}

TEST(CommTimeline, TheTableAddsUpByAxisAndNameMostExposedFirst) {
  const CommTimeline timeline{10,
                              {span("data", "grads", 1, 3, 5), span("data", "grads", 4, 5, 4.75),
                               span("sequence", "state", 6, 8, 6)}};
  EXPECT_EQ(
      timeline.table(),
      "axis           collective                  calls         MB        ms   exposed    hidden   hidden\n"
      "sequence       state                           1      1.500     2.000     2.000     0.000     0.0%\n"
      "data           grads                           2      3.000     3.000     0.250     2.750    91.7%\n"
      "all                                            3      4.500     5.000     2.250     2.750    55.0%\n"
      "compute stream: 10.000 ms, 22.5% of it waiting for collectives\n");
}

TEST(CommTimeline, TheTraceShowsWorkWaitsAndEveryAxis) {
  const CommTimeline timeline{10, {span("data", "a \"b\"", 1, 3, 2), span("tensor", "c", 4, 5, 6)}};
  EXPECT_EQ(timeline.chrome_trace(2),
            R"({"traceEvents":[
{"name":"thread_name","ph":"M","pid":2,"tid":0,"args":{"name":"compute stream"}},
{"name":"work","ph":"X","pid":2,"tid":0,"ts":0.000,"dur":2000.000,"args":{}},
{"name":"wait for a \"b\"","ph":"X","pid":2,"tid":0,"ts":2000.000,"dur":1000.000,"args":{}},
{"name":"work","ph":"X","pid":2,"tid":0,"ts":3000.000,"dur":7000.000,"args":{}},
{"name":"thread_name","ph":"M","pid":2,"tid":1,"args":{"name":"axis data"}},
{"name":"a \"b\"","ph":"X","pid":2,"tid":1,"ts":1000.000,"dur":2000.000,"args":{"operation":"all_gather","number":7,"received_bytes":1500000,"exposed_ms":1.0000}},
{"name":"thread_name","ph":"M","pid":2,"tid":2,"args":{"name":"axis tensor"}},
{"name":"c","ph":"X","pid":2,"tid":2,"ts":4000.000,"dur":1000.000,"args":{"operation":"all_gather","number":7,"received_bytes":1500000,"exposed_ms":0.0000}}
]}
)");
}

}  // namespace
}  // namespace spanwise
