#ifndef QUIRE_VMM_LIBVIRT_MANAGE_TO_BYTES_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_TO_BYTES_H_

#include <algorithm>
#include <cstdint>

#include "base/units.h"

namespace quire {

// What was calculated, as a size: not below nothing, and at most what a size can be. Hosts that lie give such figures,
// and the largest sizes are rounded to 2^64. Not of a NaN.
inline ByteCount ToBytes(double bytes) {
  constexpr double kBeyondAll = 0x1p64;
  return ByteCount::Bytes(bytes < kBeyondAll ? static_cast<uint64_t>(std::max(0.0, bytes)) : UINT64_MAX);
}

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_TO_BYTES_H_
