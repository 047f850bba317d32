// For fuzzers of devices: a fuzzer's bytes as what a driver may do.
#ifndef QUIRE_VMM_VIRTIO_FUZZED_DRIVER_H_
#define QUIRE_VMM_VIRTIO_FUZZED_DRIVER_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/units.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/one_queue_driver.h"

namespace quire {

class FuzzedDriver {
 public:
  static constexpr ByteCount kMemory = ByteCount::KiB(64);

  explicit FuzzedDriver(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  bool empty() const { return bytes_.empty(); }
  uint8_t Next() {
    if (bytes_.empty()) return 0;
    const uint8_t byte = bytes_[0];
    bytes_.remove_prefix(1);
    return byte;
  }

  // Puts some bytes into memory behind the rings, where Parts() point most of the time.
  void Fill(FakeDeviceMemory& memory, uint64_t from) {
    begin_ = from;
    const size_t size = std::min<size_t>(Next() % 64, bytes_.size());
    for (size_t i = 0; i < size; ++i) memory.At(Gpa(from))[i] = std::byte{Next()};
  }

  // One to eight parts of a chain, those to be written last. Sizes and addresses are mostly such that something comes
  // of them.
  std::vector<OneQueueDriver::Part> Parts() {
    static constexpr std::array<uint32_t, 8> kSizes = {1, 4, 16, 512, 513, 4096, 40960, ~0u - 4096};
    const uint8_t readable = Next() % 5, writable = Next() % 4;
    std::vector<OneQueueDriver::Part> parts;
    for (int i = 0; i < readable + writable || parts.empty(); ++i) {
      const uint8_t kind = Next();
      const uint64_t step = kind / 8 % 8 < 3 ? 1 : 16;
      uint32_t size = kSizes[kind % 8];
      if (kind >= 128) size += Next();
      uint64_t address = begin_ + Next() * step;
      if (kind / 8 % 8 >= 6) address = address << 48 | uint64_t{Next()} << 12;
      parts.push_back({.address = address, .size = size, .writable = i >= readable});
    }
    return parts;
  }

 private:
  absl::Span<const uint8_t> bytes_;
  uint64_t begin_ = 0;
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_FUZZED_DRIVER_H_
