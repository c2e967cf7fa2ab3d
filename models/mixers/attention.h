#pragma once
// Softmax attention (Vaswani et al., arXiv 1706.03762) with grouped query heads, rotary positions inside each
// document, an optional sliding window, per-head query and key RMSNorm, and an output gate o∘σ(g_proj x).
//
//   o = softmax(q kᵀ / √d + mask) v,   q, k rotated;   out = o_proj(o)
//
// Parameters: q_proj [H·d, D], k_proj, v_proj [HKV·d, D] (with biases if qkv_bias), o_proj [D, H·d], q_norm,
// k_norm [d], g_proj [H·d, D]. Reads MixerOptions::attention. Generation keeps every key and value.

#include "models/layers.h"
#include "models/mixers/mixer.h"

namespace spanwise {

class Attention : public Mixer {
 public:
  explicit Attention(const MixerOptions& options);
  Var forward(Tape& tape, const Var& x, const MixerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  Var attend_cached(Tape& tape, const Var& q, const Var& k, const Var& v, MixerState& state) const;
  AttentionOptions options_;  // with this rank's head counts
  double norm_eps_;
  Linear q_proj_, k_proj_, v_proj_, g_proj_, o_proj_;
  NormWeight q_norm_, k_norm_;
};

}  // namespace spanwise
