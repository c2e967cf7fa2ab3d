#pragma once
// Host memory beside a Context: for values that a GPU run makes, saves or sends as host values.

#include "core/context.h"

namespace spanwise {

/// `ctx` itself on the CPU; else a CPU Context of as many threads, which lives as long.
inline Context& host_context(Context& ctx) {
  if (ctx.device() == Device::kCPU) return ctx;
  struct Host {
    explicit Host(Context& of) : ctx({.num_threads = of.num_threads()}) {}
    Context ctx;
  };
  return ctx.attached<Host>().ctx;
}

}  // namespace spanwise
