#include "parallel/whole_params.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

#include "core/host_context.h"

namespace spanwise {

namespace {

// Calls fn(run) for the elements of `runs` that lie in `stored` of the flat buffers and in the piece;
// run.local counts from the first element of the parameter, run.global from that of the piece.
template <class F>
void for_each_run_in_piece(const ParamStore& params, const std::vector<ElementRun>& runs, int entry,
                           FlatRange stored, FlatRange piece, F&& fn) {
  const ParamEntry& e = params.entries()[entry];
  const FlatRange local{stored.begin - e.offset, stored.end - e.offset};
  for_each_run(runs, local, [&](const ElementRun& run) {
    const int64_t begin = std::max(run.global, piece.begin),
                  end = std::min(run.global + run.count, piece.end);
    if (begin < end) fn(ElementRun{run.local + begin - run.global, begin - piece.begin, end - begin});
  });
}

// What for_each_run_in_piece calls fn with, and the elements of the parameter that span it. All that this
// rank holds of a piece lies side by side, since elements keep their order in a part.
struct HeldRuns {
  std::vector<ElementRun> runs;
  FlatRange span{0, 0};
};
HeldRuns held_runs(const ParamStore& params, const std::vector<ElementRun>& runs, int entry, FlatRange stored,
                   FlatRange piece) {
  HeldRuns held;
  for_each_run_in_piece(params, runs, entry, stored, piece,
                        [&](const ElementRun& run) { held.runs.push_back(run); });
  if (!held.runs.empty()) {
    held.span = {held.runs.front().local, held.runs.back().local + held.runs.back().count};
  }
  return held;
}

Tensor view_of_span(const ParamStore& params, const Tensor& flat, int entry, FlatRange span) {
  const ParamEntry& e = params.entries()[entry];
  return params.view(flat, params.buckets()[e.bucket], {e.offset + span.begin, e.offset + span.end});
}

}  // namespace

Tensor gather_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece) {
  const size_t elem = size_of(flat.dtype());
  Context& host = host_context(params.context());
  const FlatRange own = params.layout().own_slice(params.buckets()[params.entries()[entry].bucket]);
  // Every element has one owner and the others give zero bits, so integer sums put the owners' bits together:
  // exact for every value, negative zeros and NaNs too.
  constexpr int64_t kWordBytes = 8;
  const int64_t num_words = (piece.numel() * int64_t(elem) + kWordBytes - 1) / kWordBytes;
  const Tensor words = Tensor::zeros(host, {num_words}, DType::kI64);
  const HeldRuns held = held_runs(params, params.owned_runs(entry), entry, own, piece);
  if (!held.runs.empty()) {
    const Tensor mine = view_of_span(params, flat, entry, held.span).to(host);
    for (const ElementRun& run : held.runs) {
      std::memcpy(static_cast<char*>(words.raw()) + size_t(run.global) * elem,
                  static_cast<const char*>(mine.raw()) + size_t(run.local - held.span.begin) * elem,
                  size_t(run.count) * elem);
    }
  }
  params.data_sequence().all_reduce("gather_whole", words).wait();
  params.tensor().all_reduce("gather_whole", words).wait();
  const Tensor whole = Tensor::empty(host, {piece.numel()}, flat.dtype());
  std::memcpy(whole.raw(), words.raw(), whole.bytes());
  return whole;
}

bool holds_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece) {
  const ParamEntry& e = params.entries()[entry];
  bool found = false;
  for_each_run_in_piece(params, element_runs(*e.param), entry,
                        params.stored_range(flat, params.buckets()[e.bucket]), piece,
                        [&](const ElementRun&) { found = true; });
  return found;
}

void scatter_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece,
                   const Tensor& values) {
  SPANWISE_CHECK(values.contiguous() && values.numel() == piece.numel() && values.dtype() == flat.dtype() &&
                     values.device() == Device::kCPU,
                 "a piece of {} {} elements in host memory from {} {} on {}", piece.numel(),
                 name_of(flat.dtype()), name_of(values.dtype()), values.shape().str(),
                 name_of(values.device()));
  const size_t elem = size_of(flat.dtype());
  const ParamEntry& e = params.entries()[entry];
  const FlatRange stored = params.stored_range(flat, params.buckets()[e.bucket]);
  const HeldRuns held = held_runs(params, element_runs(*e.param), entry, stored, piece);
  if (held.runs.empty()) return;
  const Tensor mine = Tensor::empty(host_context(params.context()), {held.span.numel()}, flat.dtype());
  for (const ElementRun& run : held.runs) {
    std::memcpy(static_cast<char*>(mine.raw()) + size_t(run.local - held.span.begin) * elem,
                static_cast<const char*>(values.raw()) + size_t(run.global) * elem, size_t(run.count) * elem);
  }
  view_of_span(params, flat, entry, held.span).copy_from(mine);
}

namespace {

int64_t num_elements(const std::vector<ElementRun>& runs) {
  return std::accumulate(runs.begin(), runs.end(), int64_t{0},
                         [](int64_t sum, const ElementRun& run) { return sum + run.count; });
}

/// What this rank keeps at the runs' local elements, at to + place(run) elements.
template <class Place>
void read_runs(const ParamStore& params, const Tensor& flat, int entry, const std::vector<ElementRun>& runs,
               char* to, Place&& place) {
  const size_t elem = size_of(flat.dtype());
  const FlatRange span{runs.front().local, runs.back().local + runs.back().count};
  const Tensor kept = view_of_span(params, flat, entry, span);
  if (runs.size() == 1) return kept.copy_to_host(to + size_t(place(runs.front())) * elem, kept.bytes());
  const Tensor mine = kept.to(host_context(params.context()));
  for (const ElementRun& run : runs) {
    std::memcpy(to + size_t(place(run)) * elem,
                static_cast<const char*>(mine.raw()) + size_t(run.local - span.begin) * elem,
                size_t(run.count) * elem);
  }
}

/// A host tensor that grows to what is sent to or comes from one rank.
struct Parcel {
  int64_t numel = 0, at = 0;
  Tensor tensor;
};
using Parcels = std::map<int, Parcel>;  // by rank of the world

std::vector<Message> messages(Parcels& parcels, Context& host, DType dtype) {
  std::vector<Message> messages;
  for (auto& [peer, parcel] : parcels) {
    parcel.tensor = Tensor::empty(host, {parcel.numel}, dtype);
    messages.push_back({peer, parcel.tensor});
  }
  return messages;
}

char* next_of(Parcel& parcel, int64_t numel) {
  char* at = static_cast<char*>(parcel.tensor.raw()) + size_t(parcel.at) * size_of(parcel.tensor.dtype());
  parcel.at += numel;
  return at;
}

}  // namespace

void collect_pieces(const ParamHolders& holders, Comm& world, const std::vector<WantedPiece>& pieces) {
  const ParamStore& params = holders.params();
  const int num_tensor = holders.num_tensor_ranks(), position = params.data_sequence().rank(),
            tensor = params.tensor().rank();
  SPANWISE_CHECK(world.rank() == position * num_tensor + tensor, "rank {} of the mesh is {} of {}",
                 world.rank(), position, world.axis());
  const auto runs_of = [&](const WantedPiece& p, int at, int t) {
    return holders.runs(p.entry, p.piece, p.flat, at, t, HolderRuns::kOwned);
  };
  // Calls fn(rank, runs) for the ranks that have a part of what is wanted here, this one included.
  const auto for_each_source = [&](const WantedPiece& p, auto&& fn) {
    const bool sliced = holders.sliced(p.flat);
    const int first = sliced ? 0 : p.position, last = sliced ? holders.num_positions() - 1 : p.position;
    for (int at = first; at <= last; ++at) {
      for (int t = 0; t < num_tensor; ++t) {
        const std::vector<ElementRun> runs = runs_of(p, at, t);
        if (!runs.empty()) fn(at * num_tensor + t, runs);
      }
    }
  };
  const auto wants = [&](const WantedPiece& p) { return tensor == 0 && p.position == position; };
  // A position that has all of a buffer gives to its own alone.
  const auto gives = [&](const WantedPiece& p) {
    return !wants(p) && (holders.sliced(p.flat) || p.position == position);
  };

  bool anyone_lacks = false;
  Parcels sent, received;
  for (const WantedPiece& p : pieces) {
    anyone_lacks |= num_tensor > 1 || holders.sliced(p.flat);
    if (gives(p)) {
      const int64_t numel = num_elements(runs_of(p, position, tensor));
      if (numel > 0) sent[p.position * num_tensor].numel += numel;
    } else if (wants(p)) {
      for_each_source(p, [&](int rank, const std::vector<ElementRun>& runs) {
        if (rank != world.rank()) received[rank].numel += num_elements(runs);
      });
    }
  }
  Ticket ticket;
  if (anyone_lacks) {
    Context& host = host_context(params.context());
    std::vector<Message> sends = messages(sent, host, params.master_dtype());
    for (const WantedPiece& p : pieces) {
      if (!gives(p)) continue;
      const std::vector<ElementRun> runs = runs_of(p, position, tensor);
      if (runs.empty()) continue;
      int64_t packed = 0;
      char* to = next_of(sent[p.position * num_tensor], num_elements(runs));
      read_runs(params, p.flat, p.entry, runs, to,
                [&](const ElementRun& run) { return std::exchange(packed, packed + run.count); });
    }
    ticket =
        world.exchange("collect_whole", std::move(sends), messages(received, host, params.master_dtype()));
  }
  const auto at_its_place = [](const ElementRun& run) { return run.global; };
  for (const WantedPiece& p : pieces) {
    if (!wants(p)) continue;
    const std::vector<ElementRun> mine = runs_of(p, position, tensor);
    if (!mine.empty()) read_runs(params, p.flat, p.entry, mine, static_cast<char*>(p.to), at_its_place);
  }
  ticket.wait();
  for (const WantedPiece& p : pieces) {
    if (!wants(p)) continue;
    for_each_source(p, [&](int rank, const std::vector<ElementRun>& runs) {
      if (rank == world.rank()) return;
      const size_t elem = size_of(p.flat.dtype());
      for (const ElementRun& run : runs) {
        std::memcpy(static_cast<char*>(p.to) + size_t(run.global) * elem, next_of(received[rank], run.count),
                    size_t(run.count) * elem);
      }
    });
  }
}

namespace {

/// What a rank holds of the piece, one run behind the other: as it lies in its part.
Tensor pack(const Tensor& values, const std::vector<ElementRun>& runs, Context& host) {
  if (runs.front().count == values.numel()) return values;
  const Tensor packed = Tensor::empty(host, {num_elements(runs)}, values.dtype());
  const size_t elem = size_of(values.dtype());
  char* to = static_cast<char*>(packed.raw());
  for (const ElementRun& run : runs) {
    std::memcpy(to, static_cast<const char*>(values.raw()) + size_t(run.global) * elem,
                size_t(run.count) * elem);
    to += size_t(run.count) * elem;
  }
  return packed;
}

}  // namespace

void deliver_piece(const ParamHolders& holders, Comm& world, const Tensor& flat, int entry, FlatRange piece,
                   const Tensor& values) {
  const ParamStore& params = holders.params();
  const int num_tensor = holders.num_tensor_ranks(), position = params.data_sequence().rank(),
            tensor = params.tensor().rank();
  const bool sliced = holders.sliced(flat), root = world.rank() == 0;
  Context& host = host_context(params.context());
  const auto runs_of = [&](int at, int t) {
    return holders.runs(entry, piece, flat, at, t, HolderRuns::kHeld);
  };
  const std::vector<ElementRun> mine = runs_of(position, tensor);
  Tensor packed;
  if (!mine.empty()) {
    packed = root ? pack(values, mine, host) : Tensor::empty(host, {num_elements(mine)}, flat.dtype());
  }
  // Slices go straight to their holders. What all positions have goes to the first one of each tensor rank,
  // and from there along the axis.
  const int num_direct = (sliced ? holders.num_positions() : 1) * num_tensor;
  if (num_direct > 1) {
    std::vector<Message> sends, receives;
    for (int rank = 1; root && rank < num_direct; ++rank) {
      const std::vector<ElementRun> runs = runs_of(rank / num_tensor, rank % num_tensor);
      if (!runs.empty()) sends.push_back({rank, pack(values, runs, host)});
    }
    if (!root && world.rank() < num_direct && packed.defined()) receives.push_back({0, packed});
    world.exchange("deliver_whole", std::move(sends), std::move(receives)).wait();
  }
  if (!sliced && holders.num_positions() > 1 && packed.defined())
    params.data_sequence().broadcast("deliver_whole", packed).wait();
  if (!packed.defined()) return;
  view_of_span(params, flat, entry, {mine.front().local, mine.back().local + mine.back().count})
      .copy_from(packed);
}

}  // namespace spanwise
