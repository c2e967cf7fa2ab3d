#include "parallel/halo.h"

#include <algorithm>
#include <map>

#include "core/ops/block_copy.h"
#include "core/ops/convert.h"

namespace spanwise {

namespace {

/// Messages between this rank and its peers, filled or emptied piece by piece.
class Mailbox {
 public:
  /// Room for the tokens_of(peer) tokens, of `channels` each, that go between this rank and each other one.
  template <class TokensOf>
  Mailbox(Context& ctx, const Comm& comm, int64_t channels, DType dtype, TokensOf&& tokens_of) {
    for (int peer = 0; peer < comm.size(); ++peer) {
      const int64_t tokens = peer == comm.rank() ? 0 : tokens_of(peer);
      if (tokens > 0) boxes_[peer] = {Tensor::empty(ctx, {tokens, channels}, dtype), 0};
    }
  }
  /// The next `count` tokens of the peer's message.
  Tensor next(int peer, int64_t count) {
    Box& box = boxes_.at(peer);
    box.used += count;
    return box.tokens.row_range(box.used - count, box.used);
  }
  std::vector<Message> messages() const {
    std::vector<Message> out;
    for (const auto& [peer, box] : boxes_) out.push_back({peer, box.tokens});
    return out;
  }

 private:
  struct Box {
    Tensor tokens;
    int64_t used = 0;
  };
  std::map<int, Box> boxes_;
};

}  // namespace

int64_t window_halo_width(int64_t window, int64_t length) {
  return std::max<int64_t>(std::min(window, length) - 1, 1);
}

Halo::Halo(const SequencePlan& plan, int64_t width) : plan_(plan), width_(width) {
  SPANWISE_CHECK(width >= 1, "a halo of {} tokens", width);
  const SequencePartition& p = plan.partition();
  const auto local_row = [&](int64_t row, int part) { return row * p.slots() + p.slot(part); };
  for (int64_t row = 0; row < plan.batch(); ++row) {
    for (int part = 0; part < p.num_parts(); ++part) {
      if (!plan.continues(row, part)) continue;
      const int64_t end = p.begin(part), begin = std::max(end - width, plan.document_begin(row, end));
      for (int64_t source = begin / p.capacity(); source < part; ++source) {
        const int64_t first = std::max(begin, p.begin(int(source)));
        const Piece piece{.from_rank = p.owner(int(source)),
                          .to_rank = p.owner(part),
                          .from = local_row(row, int(source)) * p.capacity() + first - p.begin(int(source)),
                          .to = local_row(row, part) * width + width - (end - first),
                          .count = p.end(int(source)) - first};
        if (piece.from_rank == plan.rank() || piece.to_rank == plan.rank()) pieces_.push_back(piece);
      }
    }
  }
}

int64_t Halo::tokens_between(int from_rank, int to_rank) const {
  int64_t tokens = 0;
  for (const Piece& piece : pieces_) {
    if (piece.from_rank == from_rank && piece.to_rank == to_rank) tokens += piece.count;
  }
  return tokens;
}

int64_t Halo::received_tokens() const {
  int64_t tokens = 0;
  for (const Piece& piece : pieces_) {
    if (piece.from_rank != plan_.rank()) tokens += piece.count;
  }
  return tokens;
}

int64_t Halo::given_tokens() const {
  int64_t tokens = 0;
  for (const Piece& piece : pieces_) {
    if (piece.to_rank != plan_.rank()) tokens += piece.count;
  }
  return tokens;
}

Tensor Halo::fetch(Context& ctx, Comm& comm, std::string_view name, const Tensor& x) const {
  const int64_t channels = x.dim(2);
  const int rank = plan_.rank();
  const Tensor tokens = x.reshape({x.dim(0) * x.dim(1), channels});
  const Tensor halo = Tensor::zeros(ctx, {x.dim(0), width_, channels}, x.dtype());
  const Tensor halo_tokens = halo.reshape({x.dim(0) * width_, channels});
  Mailbox out(ctx, comm, channels, x.dtype(), [&](int peer) { return tokens_between(rank, peer); });
  Mailbox in(ctx, comm, channels, x.dtype(), [&](int peer) { return tokens_between(peer, rank); });
  for (const Piece& piece : pieces_) {
    if (piece.from_rank != rank) continue;
    const Tensor target = piece.to_rank == rank ? halo_tokens.row_range(piece.to, piece.to + piece.count)
                                                : out.next(piece.to_rank, piece.count);
    target.copy_from(tokens.row_range(piece.from, piece.from + piece.count));
  }
  comm.exchange(name, out.messages(), in.messages()).wait();
  for (const Piece& piece : pieces_) {
    if (piece.from_rank == rank) continue;
    halo_tokens.row_range(piece.to, piece.to + piece.count).copy_from(in.next(piece.from_rank, piece.count));
  }
  return halo;
}

void Halo::give_back(Context& ctx, Comm& comm, std::string_view name, const Tensor& dhalo,
                     const Tensor& dx) const {
  const int64_t channels = dx.dim(2);
  const int rank = plan_.rank();
  const Tensor halo_tokens = dhalo.reshape({dhalo.dim(0) * dhalo.dim(1), channels});
  const Tensor tokens = dx.reshape({dx.dim(0) * dx.dim(1), channels});
  Mailbox out(ctx, comm, channels, dx.dtype(), [&](int peer) { return tokens_between(peer, rank); });
  Mailbox in(ctx, comm, channels, dx.dtype(), [&](int peer) { return tokens_between(rank, peer); });
  for (const Piece& piece : pieces_) {
    if (piece.to_rank != rank || piece.from_rank == rank) continue;
    out.next(piece.from_rank, piece.count).copy_from(halo_tokens.row_range(piece.to, piece.to + piece.count));
  }
  comm.exchange(name, out.messages(), in.messages()).wait();
  // A token of a short part is in the halos of several: their sum is rounded once.
  const int64_t given =
      std::count_if(pieces_.begin(), pieces_.end(), [&](const Piece& p) { return p.from_rank == rank; });
  const Tensor sums =
      given > plan_.num_local_rows() ? converted(ctx, tokens, accumulation_dtype(dx.dtype())) : tokens;
  for (const Piece& piece : pieces_) {
    if (piece.from_rank != rank) continue;
    const Tensor source = piece.to_rank == rank ? halo_tokens.row_range(piece.to, piece.to + piece.count)
                                                : in.next(piece.to_rank, piece.count);
    const int64_t elems = piece.count * channels;
    add_blocks(ctx, source, sums, {{1, elems, 0, elems, piece.from * channels, elems}});
  }
  if (sums.dtype() != tokens.dtype()) convert(ctx, sums, tokens);
}

}  // namespace spanwise
