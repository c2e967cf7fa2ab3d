#pragma once
// Softmax attention (Vaswani et al., arXiv 1706.03762) with grouped query heads, rotary positions inside each
// document, an optional sliding window, per-head query and key RMSNorm, and an output gate o∘σ(g_proj x).
//
//   o = softmax(q kᵀ / √d + mask) v,   q, k rotated;   out = o_proj(o)
//
// Parameters: q_proj [H·d, D], k_proj, v_proj [HKV·d, D] (with biases if qkv_bias), o_proj [D, H·d], q_norm,
// k_norm [d], g_proj [H·d, D]. Generation keeps every key and value.

#include "models/mixers/mixer.h"

namespace spanwise {

struct AttentionOptions {
  static constexpr std::string_view kName = "attention";
  using Layer = class Attention;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;  ///< a divisor of num_heads
  int64_t head_dim = 0;      ///< even
  int64_t window = 0;        ///< keys a query sees, itself included; 0 = all
  double rope_theta = 0;     ///< base of the rotary frequencies
  bool qk_norm = false;
  bool qkv_bias = false;
  bool output_gate = false;
};

class Attention : public Mixer {
 public:
  Attention(const AttentionOptions& options, const SharedOptions& shared);
  Var forward(Tape& tape, const Var& x, const LayerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  Var attend_cached(Tape& tape, const Var& q, const Var& k, const Var& v, MixerState& state) const;
  AttentionOptions options_;  // with this rank's head counts
  double norm_eps_;
  Linear q_proj_, k_proj_, v_proj_, g_proj_, o_proj_;
  NormWeight q_norm_, k_norm_;
};

}  // namespace spanwise
