#pragma once
// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78, RFC 3720 appendix B.4): the checksum of TensorBoard
// records and of checkpoint files. Check value: crc32c("123456789") = 0xE3069283. The processor's own
// instruction where it has one (SSE 4.2, ARMv8 CRC), else tables.

#include <cstddef>
#include <cstdint>

namespace spanwise {

/// Checksum of `bytes` bytes. Pass the checksum of what came before as `previous` to go on with it:
/// crc32c(b, nb, crc32c(a, na)) is the checksum of a followed by b.
uint32_t crc32c(const void* data, size_t bytes, uint32_t previous = 0);

/// Checksum of a followed by b from the checksums of both and b's length: parts can be summed in any order.
uint32_t crc32c_combine(uint32_t first, uint32_t second, uint64_t second_bytes);

}  // namespace spanwise
