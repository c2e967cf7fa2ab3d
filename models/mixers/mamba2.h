#pragma once
// Mamba2's mixer, state-space duality (Dao & Gu, arXiv 2405.21060):
//
//   [z | x | B | C | dt] = in_proj u;   x, B, C through one short convolution with SiLU
//   Δ = softplus(dt + dt_bias),   g = −Δ e^{A_log}
//   S_t = e^{g_t} S_{t-1} + B_t (Δ_t x_t)ᵀ,   y_t = C_tᵀ S_t + D_skip x_t
//   out = out_proj(RMSNorm(y ∘ silu(z))), each group's heads normalised apart
//
// H = num_heads of P = head_dim; G = num_groups share B and C of N = state_size. Parameters: in_proj
// [2HP + 2GN + H, D], conv1d {weight [HP + 2GN, 1, W], bias}, A_log, D, dt_bias [H], norm [HP],
// out_proj [D, HP].

#include "models/mixers/linear_mixer.h"

namespace spanwise {

struct Mamba2Options {
  static constexpr std::string_view kName = "mamba2";
  using Layer = class Mamba2;
  int64_t num_heads = 0;   ///< a multiple of num_groups
  int64_t num_groups = 0;  ///< of heads that share B and C
  int64_t state_size = 0;  ///< N
  int64_t head_dim = 0;    ///< P
  int64_t conv_size = 0;   ///< W
  bool conv_bias = false;
  int64_t chunk = 0;
};

class Mamba2 : public Mixer {
 public:
  Mamba2(const Mamba2Options& options, const SharedOptions& shared);
  Var forward(Tape& tape, const Var& x, const LayerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  int64_t num_groups_;  // of all ranks
  double norm_eps_;
  TensorGroup tensor_;
  LinearStateOptions family_;
  int64_t heads_, groups_;         // of this rank
  int64_t inner_, group_columns_;  // H·P and G·N columns, of this rank
  Linear in_proj_, out_proj_;
  ShortConv conv_;
  Param A_log_, D_, dt_bias_;
  NormWeight norm_;
  int64_t norm_groups_;   // of this rank's heads, each normalised apart
  SplitDim inner_split_;  // H·P as ranks divide it
};

}  // namespace spanwise
