#pragma once
// What the linear-attention families read, listed once: Vars where a family is called, Tensors in kernels
// (and, under the same names, their gradients), Saved and Adjoints in what backward keeps.
//
//   B rows, T tokens, H key heads, HV value heads (a multiple of H; head j uses key head j·H/HV)
//
// A new operand is a member of LinearOperands, a LinearOperand, and a line of for_each_operand.

#include <cstdint>
#include <initializer_list>

#include "core/tensor.h"

namespace spanwise {

template <class T>
struct LinearOperands {
  T q, k;            ///< [B,T,H,K]
  T v;               ///< [B,T,HV,V]
  T log_decay;       ///< [B,T,HV]: g ≤ 0
  T head_log_decay;  ///< [HV]: g ≤ 0 of all tokens, a constant; at most one of the two
  T beta;            ///< [B,T,HV]
  T initial_state;   ///< [B,HV,K,V], before the first token
};

enum class LinearOperand { kQ, kK, kV, kLogDecay, kHeadLogDecay, kBeta, kInitialState };

class LinearOperandSet {
 public:
  constexpr LinearOperandSet(std::initializer_list<LinearOperand> operands) {
    for (const LinearOperand operand : operands) bits_ |= 1u << int(operand);
  }
  constexpr bool has(LinearOperand operand) const { return bits_ >> int(operand) & 1; }

 private:
  uint32_t bits_ = 0;
};

/// A call's sizes, which need no tensors.
struct LinearStateShape {
  int64_t rows, length, key_heads, value_heads, key_dim, value_dim;
  DType dtype;       ///< of q, k and v
  bool token_decay;  ///< there is a log_decay
  int64_t tokens() const { return rows * length; }
  Shape states() const { return {rows, value_heads, key_dim, value_dim}; }
};

/// What backward makes of an operand that is there.
enum class OperandGradient {
  kNone,      ///< a constant
  kAlways,    ///< kernels write it, wanted or not
  kIfNeeded,  ///< where it requires one
  kSummed,    ///< where it requires one; comes zeroed
};

struct LinearOperandRule {
  LinearOperand operand;
  const char* name;
  enum class Precision { kActivation, kAccumulation } precision;
  OperandGradient gradient;
  Shape (*shape)(const LinearStateShape&);

  DType dtype(const LinearStateShape& s) const {
    return precision == Precision::kActivation ? s.dtype : accumulation_dtype(s.dtype);
  }
};

/// fn(rule, the operand of each list) for every operand, in the order of the members.
template <class F, class... Lists>
void for_each_operand(F&& fn, Lists&&... x) {
  using Rule = LinearOperandRule;
  using Sizes = const LinearStateShape&;
  using enum LinearOperand;
  using enum LinearOperandRule::Precision;
  using enum OperandGradient;
  constexpr auto of_keys = [](Sizes s) { return Shape{s.rows, s.length, s.key_heads, s.key_dim}; };
  constexpr auto of_values = [](Sizes s) { return Shape{s.rows, s.length, s.value_heads, s.value_dim}; };
  constexpr auto a_token = [](Sizes s) { return Shape{s.rows, s.length, s.value_heads}; };
  constexpr auto a_head = [](Sizes s) { return Shape{s.value_heads}; };
  constexpr auto of_states = [](Sizes s) { return s.states(); };
  fn(Rule{kQ, "q", kActivation, kAlways, of_keys}, x.q...);
  fn(Rule{kK, "k", kActivation, kAlways, of_keys}, x.k...);
  fn(Rule{kV, "v", kActivation, kAlways, of_values}, x.v...);
  fn(Rule{kLogDecay, "log_decay", kAccumulation, kIfNeeded, a_token}, x.log_decay...);
  fn(Rule{kHeadLogDecay, "the decay per head", kAccumulation, kNone, a_head}, x.head_log_decay...);
  fn(Rule{kBeta, "beta", kAccumulation, kAlways, a_token}, x.beta...);
  fn(Rule{kInitialState, "initial_state", kAccumulation, kSummed, of_states}, x.initial_state...);
}

/// The list of of(operand).
template <class To, class From, class F>
LinearOperands<To> map_operands(const LinearOperands<From>& x, F&& of) {
  LinearOperands<To> out;
  for_each_operand([&](const LinearOperandRule&, const From& from, To& to) { to = of(from); }, x, out);
  return out;
}

}  // namespace spanwise
