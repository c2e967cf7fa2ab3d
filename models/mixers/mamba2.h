#pragma once
// Mamba2's mixer, state-space duality (Dao & Gu, arXiv 2405.21060):
//
//   [z | x | B | C | dt] = in_proj u;   x, B, C through one short convolution with SiLU
//   Δ = softplus(dt + dt_bias),   g = −Δ e^{A_log}
//   S_t = e^{g_t} S_{t-1} + B_t (Δ_t x_t)ᵀ,   y_t = C_tᵀ S_t + D_skip x_t
//   out = out_proj(RMSNorm(y ∘ silu(z))), each group's heads normalised apart
//
// H = num_value_heads heads of P = value_dim; num_heads groups share B and C of N = key_dim (n_groups and
// state_size in published configs). Parameters: in_proj [2HP + 2GN + H, D], conv1d {weight [HP + 2GN, 1, W],
// bias}, A_log, D, dt_bias [H], norm [HP], out_proj [D, HP]. Reads num_heads, num_value_heads, key_dim,
// value_dim, conv_size, conv_bias, chunk.

#include "models/mixers/heads.h"

namespace spanwise {

class Mamba2 : public Mixer {
 public:
  explicit Mamba2(const MixerOptions& options);
  Var forward(Tape& tape, const Var& x, const MixerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  MixerOptions options_;
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
