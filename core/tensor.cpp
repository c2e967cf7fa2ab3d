#include "core/tensor.h"

#include <algorithm>
#include <cstring>

namespace spanwise {

Shape::Shape(const int64_t* dims, size_t n) : num_(int(n)) {
  SPANWISE_CHECK(n <= kMaxDims, "a shape has at most {} dimensions, got {}", kMaxDims, n);
  std::copy(dims, dims + n, dims_.begin());
  for (size_t i = 0; i < n; ++i) SPANWISE_CHECK(dims[i] >= 0, "negative dimension in shape {}", str());
}

int64_t Shape::operator[](int i) const {
  const int at = i < 0 ? i + num_ : i;
  SPANWISE_CHECK(at >= 0 && at < num_, "dimension {} of shape {}", i, str());
  return dims_[at];
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int i = 0; i < num_; ++i) n *= dims_[i];
  return n;
}

std::string Shape::str() const {
  return fmt::format("[{}]", fmt::join(dims_.begin(), dims_.begin() + num_, ", "));
}

Tensor Tensor::empty(Context& ctx, const Shape& shape, DType dtype) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.numel_ = shape.numel();
  t.row_elems_ = t.row_stride_ = t.numel_;
  t.buffer_ = ctx.allocate(t.bytes());
  return t;
}

Tensor Tensor::zeros(Context& ctx, const Shape& shape, DType dtype) {
  Tensor t = empty(ctx, shape, dtype);
  std::memset(t.raw(), 0, t.bytes());
  return t;
}

int64_t Tensor::row_stride(int64_t width) const {
  if (contiguous()) return width;
  SPANWISE_CHECK(width > 0 && row_elems_ % width == 0, "rows of {} elements cross a column block of {}",
                 width, row_elems_);
  SPANWISE_CHECK(width == row_elems_, "rows of {} elements inside a column block of {} have no single stride",
                 width, row_elems_);
  return row_stride_;
}

Tensor Tensor::reshape(const Shape& shape) const {
  SPANWISE_CHECK(shape.numel() == numel_, "cannot reshape {} to {}", shape_.str(), shape.str());
  Tensor t = *this;
  if (!contiguous()) {
    int64_t trailing = 1;
    for (int i = shape.num_dims() - 1; i >= 0 && trailing < row_elems_; --i) trailing *= shape[i];
    SPANWISE_CHECK(trailing == row_elems_, "cannot reshape a column block of {} columns to {}", row_elems_,
                   shape.str());
  }
  t.shape_ = shape;
  return t;
}

Tensor Tensor::slice_flat(int64_t begin, const Shape& shape) const {
  SPANWISE_CHECK(contiguous(), "slice_flat needs a contiguous tensor");
  SPANWISE_CHECK(begin >= 0 && begin + shape.numel() <= numel_, "slice [{}, {}) of {} elements", begin,
                 begin + shape.numel(), numel_);
  Tensor t = *this;
  t.shape_ = shape;
  t.numel_ = t.row_elems_ = t.row_stride_ = shape.numel();
  t.offset_ += begin;
  return t;
}

Tensor Tensor::row_range(int64_t begin, int64_t end) const {
  SPANWISE_CHECK(num_dims() >= 1 && begin >= 0 && begin <= end && end <= dim(0), "rows [{}, {}) of shape {}",
                 begin, end, shape_.str());
  std::vector<int64_t> dims = shape_.to_vector();
  const int64_t width = dims[0] ? numel_ / dims[0] : 0;
  dims[0] = end - begin;
  Tensor t = *this;
  t.shape_ = Shape(dims);
  t.numel_ = t.shape_.numel();
  if (contiguous()) {
    t.offset_ += begin * width;
    t.row_elems_ = t.row_stride_ = t.numel_;
  } else {
    SPANWISE_CHECK(width % row_elems_ == 0, "rows of shape {} cross a column block", shape_.str());
    t.offset_ += begin * (width / row_elems_) * row_stride_;
  }
  return t;
}

Tensor Tensor::column_range(int64_t begin, int64_t end) const {
  SPANWISE_CHECK(num_dims() >= 1 && begin >= 0 && begin <= end && end <= dim(-1),
                 "columns [{}, {}) of shape {}", begin, end, shape_.str());
  const int64_t columns = dim(-1);
  std::vector<int64_t> dims = shape_.to_vector();
  dims.back() = end - begin;
  Tensor t = *this;
  t.row_stride_ = row_stride(columns);
  t.row_elems_ = end - begin;
  t.shape_ = Shape(dims);
  t.numel_ = t.shape_.numel();
  t.offset_ += begin;
  return t;
}

void Tensor::fill(double value) const {
  SPANWISE_CHECK(contiguous(), "fill needs a contiguous tensor");
  dispatch_float(dtype_, [&](auto zero) {
    using T = decltype(zero);
    std::fill_n(data<T>(), numel_, T(value));
  });
}

void Tensor::copy_from(const Tensor& source) const {
  SPANWISE_CHECK(contiguous(), "copy_from writes a contiguous tensor");
  SPANWISE_CHECK(source.numel() == numel_ && source.dtype() == dtype_, "cannot copy {} {} to {} {}",
                 name_of(source.dtype()), source.shape().str(), name_of(dtype_), shape_.str());
  const size_t elem = size_of(dtype_);
  if (source.contiguous()) {
    std::memcpy(raw(), source.raw(), bytes());
    return;
  }
  const int64_t rows = numel_ / source.row_elems_;
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(static_cast<char*>(raw()) + size_t(r * source.row_elems_) * elem,
                static_cast<const char*>(source.raw()) + size_t(r * source.row_stride_) * elem,
                source.row_elems_ * elem);
  }
}

Tensor Tensor::to_contiguous(Context& ctx) const {
  if (contiguous()) return *this;
  Tensor t = empty(ctx, shape_, dtype_);
  t.copy_from(*this);
  return t;
}

}  // namespace spanwise
