#pragma once
// Errors. Library code throws Error; only the program's main turns one into an exit code.
//
//   Error      something inside was used wrongly: message carries file and line.
//   UserError  a file, a setting or the environment is wrong: one sentence naming it and the way out.

#include <spdlog/fmt/fmt.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace spanwise {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class UserError : public Error {
 public:
  using Error::Error;
};

namespace detail {
/// Throws Error("[gated_delta.cpp:41] message").
[[noreturn]] void throw_error(const char* file, int line, const std::string& message);
}  // namespace detail

/// Throws UserError with an fmt-formatted sentence.
template <class... Args>
[[noreturn]] void fail_user(fmt::format_string<Args...> format, Args&&... args) {
  throw UserError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace spanwise

/// SPANWISE_CHECK(cond, "K={} is not supported (64, 128, 256 are)", k): stays on in every build.
#define SPANWISE_CHECK(condition, ...)                                                               \
  do {                                                                                               \
    if (!(condition)) ::spanwise::detail::throw_error(__FILE__, __LINE__, fmt::format(__VA_ARGS__)); \
  } while (false)

#define SPANWISE_FAIL(...) ::spanwise::detail::throw_error(__FILE__, __LINE__, fmt::format(__VA_ARGS__))
