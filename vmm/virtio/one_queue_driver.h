// For tests of devices: the driver's side of one queue, with nothing around it.
#ifndef QUIRE_VMM_VIRTIO_ONE_QUEUE_DRIVER_H_
#define QUIRE_VMM_VIRTIO_ONE_QUEUE_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/check.h"
#include "base/units.h"
#include "mmu/device_memory.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {

class OneQueueDriver {
 public:
  static constexpr uint16_t kSize = 64;                            // descriptors
  static constexpr ByteCount kRoom = ByteCount::Bytes(kPageSize);  // that the rings take

  struct Part {
    uint64_t address;
    uint32_t size;
    bool writable;
  };

  // A chain that has been given back.
  struct Used {
    uint32_t head;
    uint32_t written;
  };

  // The rings begin at `rings`, the beginning of a page.
  OneQueueDriver(DeviceMemory& memory, Gpa rings) : memory_(memory), rings_(rings), queue_(memory, Layout(rings)) {}

  // Makes a chain of these parts available and returns its head. At most kSize parts are under way at a time.
  uint16_t Offer(const std::vector<Part>& parts) {
    const uint16_t head = next_;
    for (size_t i = 0; i < parts.size(); ++i) {
      const uint16_t index = next_;
      next_ = static_cast<uint16_t>((next_ + 1) % kSize);
      const bool last = i + 1 == parts.size();
      const unsigned flags = (parts[i].writable ? kWrite : 0) | (last ? 0 : kNext);
      Store(rings_.value() + index * sizeof(Descriptor), Descriptor{.address = parts[i].address,
                                                                    .length = parts[i].size,
                                                                    .flags = static_cast<uint16_t>(flags),
                                                                    .next = next_});
    }
    Store(Available() + 4 + available_ % kSize * 2, head);
    Store(Available() + 2, ++available_);
    return head;
  }

  // What the device has given back since this was last asked.
  std::vector<Used> TakeUsed() {
    std::vector<Used> used;
    const uint16_t end = Load<uint16_t>(UsedRing() + 2);
    for (; used_ != end; ++used_) used.push_back(Load<Used>(UsedRing() + 4 + used_ % kSize * sizeof used[0]));
    return used;
  }

  Virtqueue& queue() { return queue_; }

  template <class T>
  T Load(uint64_t address) {
    T value;
    QUIRE_CHECK(memory_.Read(Gpa(address), absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof value)).ok());
    return value;
  }
  template <class T>
  void Store(uint64_t address, const T& value) {
    const auto bytes = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof value);
    QUIRE_CHECK(memory_.Write(Gpa(address), bytes).ok());
  }

 private:
  static constexpr unsigned kNext = 1, kWrite = 2;
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };

  static VirtqueueLayout Layout(Gpa rings) {
    return {.size = kSize,
            .descriptors = rings,
            .available = rings + ByteCount::KiB(1),
            .used = rings + ByteCount::KiB(2),
            .indirect = false,
            .event_index = false};
  }
  uint64_t Available() const { return rings_.value() + 1024; }
  uint64_t UsedRing() const { return rings_.value() + 2048; }

  DeviceMemory& memory_;
  const Gpa rings_;
  Virtqueue queue_;
  uint16_t next_ = 0;       // free descriptor
  uint16_t available_ = 0;  // chains made available
  uint16_t used_ = 0;       // chains taken back
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_ONE_QUEUE_DRIVER_H_
