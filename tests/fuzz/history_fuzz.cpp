// metrics.jsonl as a start finds it: what stays is a history of its own, and stays as it is.

#include "launcher/metrics/history.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view content = fuzz::text_of({data, size});
  const auto cut = [](std::string_view text) { return cut_history(text, "metrics.jsonl", 5, 8); };
  fuzz::expect_answer("metrics.jsonl", [&] {
    const CutHistory first = cut(content);
    SPANWISE_CHECK(first.history.last_step.value_or(0) <= 5, "step {} stays", *first.history.last_step);
    const CutHistory again = cut(content.substr(0, first.kept_bytes));
    SPANWISE_CHECK(again.kept_bytes == first.kept_bytes && again.history.num_set_aside == 0 &&
                       again.history.last_step == first.history.last_step,
                   "{} bytes stay, then {}", first.kept_bytes, again.kept_bytes);
  });
  return 0;
}
