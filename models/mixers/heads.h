#pragma once
// What the linear mixers share: query, key and value projections with their short convolutions, and the call
// of a kernel family with the state kept for generation.

#include "core/ops/gated_delta.h"
#include "core/ops/scalar_decay.h"
#include "models/layers.h"
#include "models/mixers/mixer.h"

namespace spanwise {

/// [B, T, heads·d] → [B, T, heads, d], and back.
Var split_heads(Tape& tape, const Var& x, int64_t num_heads);
Var merge_heads(Tape& tape, const Var& x);

/// The query/key and value heads over the tensor ranks.
struct HeadSplit {
  SplitDim keys, values;
};
HeadSplit split_over_ranks(const MixerOptions& options);

enum class QkvConv { kNone, kAsConfigured };
enum class QkNorm { kNone, kL2 };

/// Query, key and value per head: projection, then a short convolution with SiLU if the mixer has one and
/// options.linear.short_conv asks for it, else `activation`; queries and keys of length 1 with QkNorm::kL2.
/// Parameters q_proj, k_proj, v_proj and q_conv1d, k_conv1d, v_conv1d.
class QkvProjection : public Module {
 public:
  QkvProjection(const MixerOptions& options, Activation activation, QkvConv conv,
                QkNorm norm = QkNorm::kNone);
  struct Heads {
    Var q, k;  ///< [B, T, H, K]
    Var v;     ///< [B, T, HV, V]
  };
  Heads operator()(Tape& tape, const Var& x, const MixerContext& context) const;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  /// [B, T, H, K] of index 0 and 1, [B, T, HV, V] of 2.
  Var project(Tape& tape, const Var& x, int index, const MixerContext& context) const;
  Linear proj_[3];
  ShortConv conv_[3];
  Activation activation_;
  int64_t num_heads_[3];  // of this rank
  QkNorm norm_;
};

/// o_proj(RMSNorm(y) ∘ silu(g_proj x)), the norm per value head; o_proj(RMSNorm(y)) without
/// options.linear.output_gate. Parameters g_proj, o_proj and the norm, whose name depends on the gate in some
/// published checkpoints.
class GatedOutput : public Module {
 public:
  GatedOutput(const MixerOptions& options, std::string gated_norm_name, const std::string& plain_norm_name);
  /// y [B, T, HV, V], x [B, T, hidden] → [B, T, hidden].
  Var operator()(Tape& tape, const Var& y, const Var& x) const;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  Linear g_proj_, o_proj_;
  NormWeight norm_;
  std::string norm_name_;
  double norm_eps_;
};

/// scalar_decay and gated_delta over the spans of a longer sequence if the context has one, or going on from
/// state->recurrent and replacing it if `state` is given; a single token then takes the family's step.
Var run_scalar_decay(Tape& tape, const QkvProjection::Heads& heads, const Decay& decay,
                     const MixerContext& context, LinearStateOptions options);
Var run_gated_delta(Tape& tape, const QkvProjection::Heads& heads, const Var& log_decay, const Var& beta,
                    const MixerContext& context, LinearStateOptions options);

/// A constant log decay for each of this rank's heads, out of all heads' values.
Tensor per_head_tensor(Context& ctx, DType activations, const std::vector<double>& all,
                       const SplitDim& heads);

}  // namespace spanwise
