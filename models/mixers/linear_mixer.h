#pragma once
// What the linear mixers share: query, key and value projections with their short convolutions, the gated
// output, and the call of a kernel family with the state kept for generation.

#include <string>
#include <vector>

#include "core/ops/gated_delta.h"
#include "core/ops/scalar_decay.h"
#include "models/mixers/heads.h"
#include "models/mixers/mixer.h"

namespace spanwise {

enum class QkNorm { kNone, kL2 };

struct QkvOptions {
  Activation activation = Activation::kNone;  ///< of q, k and v where no convolution has its SiLU
  int64_t conv_size = 0;                      ///< tokens that short convolutions with SiLU see; 0: none
  QkNorm norm = QkNorm::kNone;                ///< kL2: queries and keys of length 1
};

/// Query, key and value per head. Parameters q_proj, k_proj, v_proj and q_conv1d, k_conv1d, v_conv1d.
class QkvProjection : public Module {
 public:
  QkvProjection(const SharedOptions& shared, const HeadSplit& split, const QkvOptions& options);
  /// q, k and v.
  LinearOperands<Var> operator()(Tape& tape, const Var& x, const LayerContext& context) const;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  /// [B, T, H, K] of index 0 and 1, [B, T, HV, V] of 2.
  Var project(Tape& tape, const Var& x, int index, const LayerContext& context) const;
  QkvOptions options_;
  Linear proj_[3];
  ShortConv conv_[3];
  int64_t num_heads_[3];  // of this rank
};

struct GatedOutputOptions {
  bool gate = false;
  /// The norm's name, which depends on the gate in some published checkpoints.
  std::string gated_norm_name, plain_norm_name;
};

/// o_proj(RMSNorm(y) ∘ silu(g_proj x)), the norm per value head; o_proj(RMSNorm(y)) without the gate.
/// Parameters g_proj, o_proj and the norm.
class GatedOutput : public Module {
 public:
  GatedOutput(const SharedOptions& shared, const HeadSplit& split, const GatedOutputOptions& options);
  /// y [B, T, HV, V], x [B, T, hidden] → [B, T, hidden].
  Var operator()(Tape& tape, const Var& y, const Var& x) const;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  Linear g_proj_, o_proj_;
  NormWeight norm_;
  std::string norm_name_;
  double norm_eps_;
};

/// A family's options but the exchange, which the context gives. `mixer` names the mixer if chunk is 0.
LinearStateOptions family_options(const SharedOptions& shared, std::string_view mixer, double scale,
                                  int64_t chunk);

/// The family's result over the spans of a longer sequence if the context has one, or going on from
/// state->recurrent and replacing it if `state` is given; a single token then takes the family's step. The
/// initial state is left to this.
Var run_family(Tape& tape, const LinearFamily& family, LinearOperands<Var> operands,
               const LayerContext& context, LinearStateOptions options);

/// A constant log decay for each of this rank's heads, out of all heads' values.
Var per_head_decay(Context& ctx, DType activations, const std::vector<double>& all, const SplitDim& heads);

}  // namespace spanwise
