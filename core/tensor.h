#pragma once
// Tensor: reference-counted memory, a shape and a dtype. Row-major. Copies share memory.
//
// A tensor is `rows` rows of `row_elems` consecutive elements, `row_stride` elements apart. It is contiguous
// unless it is a column block of a matrix; there are no other strides and no broadcasting. Reshaping a column
// block may split or merge dimensions on either side of the row border, never across it: a [N, 3·H·D]
// projection gives three [B, T, H, D] views without a copy.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/context.h"
#include "core/dtype.h"

namespace spanwise {

/// Up to 6 dimensions.
class Shape {
 public:
  static constexpr int kMaxDims = 6;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(dims.begin(), dims.size()) {}
  explicit Shape(const std::vector<int64_t>& dims) : Shape(dims.data(), dims.size()) {}

  int num_dims() const { return num_; }
  /// Dimension i; negative counts from the end.
  int64_t operator[](int i) const;
  int64_t numel() const;
  std::string str() const;  ///< "[2, 64, 128]"
  std::vector<int64_t> to_vector() const { return {dims_.begin(), dims_.begin() + num_}; }
  /// One dimension more, the last.
  void append(int64_t dim) {
    SPANWISE_CHECK(num_ < kMaxDims && dim >= 0, "shape {} with a last dimension of {}", str(), dim);
    dims_[size_t(num_++)] = dim;
  }
  friend bool operator==(const Shape& a, const Shape& b) = default;  // dimensions beyond num_ are 0

 private:
  Shape(const int64_t* dims, size_t n);
  std::array<int64_t, kMaxDims> dims_{};
  int num_ = 0;
};

class Tensor {
 public:
  /// Undefined: defined() is false.
  Tensor() = default;
  static Tensor empty(Context& ctx, const Shape& shape, DType dtype);
  static Tensor zeros(Context& ctx, const Shape& shape, DType dtype);
  template <class T>
  static Tensor from(Context& ctx, const Shape& shape, const std::vector<T>& values);

  bool defined() const { return buffer_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int num_dims() const { return shape_.num_dims(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t numel() const { return numel_; }
  DType dtype() const { return dtype_; }
  size_t bytes() const { return size_t(numel_) * size_of(dtype_); }

  bool contiguous() const { return row_stride_ == row_elems_ || row_elems_ == numel_; }
  /// Elements between the starts of consecutive rows of `width` elements, where `width` is a product of
  /// trailing dimensions: what a kernel passes as its token stride or leading dimension. Error if rows of
  /// that width cross a column block's border.
  int64_t row_stride(int64_t width) const;
  /// Consecutive elements before the first jump: all of them if contiguous.
  int64_t row_elems() const { return row_elems_; }

  /// Pointer to the first element, in the device's memory; T must match the dtype.
  template <class T>
  T* data() const {
    SPANWISE_CHECK(defined(), "the tensor is undefined");
    SPANWISE_CHECK(dtype_of<T>() == dtype_, "asked for {} elements, the tensor has {}",
                   name_of(dtype_of<T>()), name_of(dtype_));
    return static_cast<T*>(raw());
  }
  /// Memory of the tensor's device.
  void* raw() const { return static_cast<char*>(buffer_->data()) + offset_ * int64_t(size_of(dtype_)); }

  // Views share memory.
  Tensor reshape(const Shape& shape) const;
  /// Elements [begin, begin + shape.numel()) of a contiguous tensor: slices of flat parameter buffers.
  Tensor slice_flat(int64_t begin, const Shape& shape) const;
  /// Rows [begin, end) along dimension 0.
  Tensor row_range(int64_t begin, int64_t end) const;
  /// Columns [begin, end) of the last dimension: a column block.
  Tensor column_range(int64_t begin, int64_t end) const;

  /// True if no other tensor shares the memory, so that writing in place is seen by nobody else.
  bool unique() const { return buffer_.use_count() == 1; }
  /// True if both view the same allocation.
  bool shares_memory_with(const Tensor& other) const { return buffer_ == other.buffer_; }

  // Whole-tensor helpers; contiguous tensors only, except copy_from, which reads column blocks too. On a GPU
  // they take their turn on its compute stream; those that hand values to the host wait for it.
  Device device() const { return memory().device(); }
  /// Where work on this tensor goes; nullptr on the CPU.
  CUstream_st* stream() const { return memory().stream(); }
  void fill(double value) const;
  void set_zero() const { memory().set_zero(raw(), bytes()); }
  /// Of the same dtype; from another device only contiguous tensors.
  void copy_from(const Tensor& source) const;
  void copy_from_host(const void* source, size_t source_bytes) const;
  void copy_to_host(void* to, size_t to_bytes) const;
  template <class T>
  std::vector<T> to_vector() const;
  /// A contiguous tensor with the same values: itself if it is contiguous already.
  Tensor to_contiguous(Context& ctx) const;
  /// The same values in ctx's memory: itself if it lies there already and is contiguous.
  Tensor to(Context& ctx) const;

 private:
  Memory& memory() const {
    SPANWISE_CHECK(defined(), "the tensor is undefined");
    return buffer_->memory();
  }
  std::shared_ptr<Buffer> buffer_;
  Shape shape_;
  DType dtype_ = DType::kF32;
  int64_t numel_ = 0, offset_ = 0;
  int64_t row_elems_ = 0, row_stride_ = 0;
};

template <class T>
Tensor Tensor::from(Context& ctx, const Shape& shape, const std::vector<T>& values) {
  Tensor t = empty(ctx, shape, dtype_of<T>());
  SPANWISE_CHECK(int64_t(values.size()) == t.numel(), "{} values for shape {}", values.size(), shape.str());
  t.copy_from_host(values.data(), t.bytes());
  return t;
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  SPANWISE_CHECK(dtype_of<T>() == dtype_, "asked for {} elements, the tensor has {}", name_of(dtype_of<T>()),
                 name_of(dtype_));
  std::vector<T> values(static_cast<size_t>(numel_));
  copy_to_host(values.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace spanwise
