#pragma once
// One pre-norm transformer block: h = x + mixer(norm(x)), out = h + mlp(norm(h)). The mixer and the MLP are
// divided over the tensor ranks; the block adds their terms, so that the stream is whole on every rank, or
// each rank has some of its rows (parallel/tensor_parallel.h).

#include "models/layers.h"
#include "models/mixers/mixer.h"

namespace spanwise {

struct MlpOptions {
  int64_t intermediate;    ///< of the whole model
  bool recompute = false;  ///< backward computes gate_proj x and up_proj x again instead of keeping them
};

/// SwiGLU feed-forward (Shazeer, arXiv 2002.05202): down_proj(silu(gate_proj x) ∘ up_proj x).
class Mlp : public Module {
 public:
  Mlp(const TensorGroup& tensor, int64_t hidden, const MlpOptions& options, double init_stddev);
  /// Between TensorStream's enter and leave.
  Var operator()(Tape& tape, const Var& x) const;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  Recompute recompute_;
  Linear gate_proj_, up_proj_, down_proj_;
};

/// The residual stream between blocks is residual + delta; the addition is fused into the next norm.
/// [B, T, hidden], or sharded [rows, hidden].
struct Stream {
  Var delta;
  Var residual;  ///< undefined before the first block
};

class Block : public Module {
 public:
  Block(MixerKind kind, const MixerOptions& options, const MlpOptions& mlp, const TensorStream& stream);
  Stream forward(Tape& tape, const Stream& stream, const MixerContext& context) const;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  TensorStream tensor_stream_;
  int64_t hidden_;
  double norm_eps_;
  NormWeight mixer_norm_, mlp_norm_;
  std::unique_ptr<Mixer> mixer_;
  Mlp mlp_;
};

}  // namespace spanwise
