#include "core/tensor.h"

#include <algorithm>
#include <limits>

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
  bool overflows = false;
  for (int i = 0; i < num_; ++i) {
    if (dims_[i] == 0) return 0;
    overflows |= __builtin_mul_overflow(n, dims_[i], &n);
  }
  SPANWISE_CHECK(!overflows, "shape {} has more elements than 64 bits count", str());
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
  SPANWISE_CHECK(t.numel_ <= std::numeric_limits<int64_t>::max() / int64_t(size_of(dtype)),
                 "a {} tensor {} has more bytes than 64 bits count", name_of(dtype), shape.str());
  t.row_elems_ = t.row_stride_ = t.numel_;
  t.buffer_ = ctx.allocate(t.bytes());
  return t;
}

Tensor Tensor::zeros(Context& ctx, const Shape& shape, DType dtype) {
  Tensor t = empty(ctx, shape, dtype);
  t.set_zero();
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
  memory().fill(raw(), dtype_, numel_, value);
}

void Tensor::copy_from(const Tensor& source) const {
  SPANWISE_CHECK(contiguous(), "copy_from writes a contiguous tensor");
  SPANWISE_CHECK(source.numel() == numel_ && source.dtype() == dtype_, "cannot copy {} {} to {} {}",
                 name_of(source.dtype()), source.shape().str(), name_of(dtype_), shape_.str());
  if (source.device() != device()) {
    if (device() == Device::kCUDA) {
      SPANWISE_CHECK(source.contiguous(), "only contiguous tensors are copied between devices");
      copy_from_host(source.raw(), bytes());
    } else {
      source.copy_to_host(raw(), bytes());
    }
    return;
  }
  const size_t elem = size_of(dtype_);
  if (source.contiguous()) {
    memory().copy_rows(raw(), bytes(), source.raw(), bytes(), bytes(), 1);
    return;
  }
  const size_t width = size_t(source.row_elems_) * elem;
  memory().copy_rows(raw(), width, source.raw(), size_t(source.row_stride_) * elem, width,
                     size_t(numel_ / source.row_elems_));
}

void Tensor::copy_from_host(const void* source, size_t source_bytes) const {
  SPANWISE_CHECK(contiguous() && source_bytes == bytes(), "{} bytes of the host for a tensor of {}",
                 source_bytes, bytes());
  memory().from_host(raw(), source, source_bytes);
}

void Tensor::copy_to_host(void* to, size_t to_bytes) const {
  SPANWISE_CHECK(contiguous() && to_bytes == bytes(), "a contiguous tensor of {} bytes cannot be read as {}",
                 bytes(), to_bytes);
  memory().to_host(to, raw(), to_bytes);
}

Tensor Tensor::to_contiguous(Context& ctx) const {
  if (contiguous()) return *this;
  Tensor t = empty(ctx, shape_, dtype_);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Context& ctx) const {
  if (device() == ctx.device() && contiguous()) return *this;
  SPANWISE_CHECK(contiguous(), "only contiguous tensors are copied between devices");
  Tensor t = empty(ctx, shape_, dtype_);
  t.copy_from(*this);
  return t;
}

}  // namespace spanwise
