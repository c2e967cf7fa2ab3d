#pragma once
// The sentence a user would see.

#include <string>

#include "core/check.h"

namespace spanwise {

/// The message of the UserError `function` throws; "no UserError" if it throws none.
template <class Function>
std::string user_error_of(Function function) {
  try {
    function();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no UserError";
}

}  // namespace spanwise
