// A config and, behind its first zero byte, an override. A config that is read has a printed form that means
// the same.

#include "launcher/config/config.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input = fuzz::text_of({data, size});
  const size_t zero = input.find('\0');
  std::vector<std::string> overrides;
  if (zero != input.npos) overrides.emplace_back(input.substr(zero + 1));
  fuzz::expect_answer(overrides.empty() ? "fuzzed" : "", [&] {
    const RunConfig config = parse_config(std::string(input.substr(0, zero)), "fuzzed", overrides);
    config_problems(config, 4);
    config_problems(config, 1, 256, ConfigUse::kPlan);
    const std::string printed = print_config(config);
    SPANWISE_CHECK(print_config(parse_config(printed, "printed")) == printed, "printed otherwise:\n{}",
                   printed);
  });
  return 0;
}
