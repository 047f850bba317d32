#include "vmm/devices/debug_exit.h"

#include <algorithm>
#include <cstring>

namespace quire {

void DebugExit::Read(uint64_t /*offset*/, absl::Span<std::byte> data) {
  std::fill(data.begin(), data.end(), std::byte{0});
}

void DebugExit::Write(uint64_t /*offset*/, absl::Span<const std::byte> data) {
  uint32_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof value));
  if (!reported_.exchange(true)) report_(value);
}

}  // namespace quire
