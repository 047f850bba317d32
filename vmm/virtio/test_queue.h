// For tests of virtio: the driver's side of one queue, as correct or as hostile as the test wants.
#ifndef QUIRE_VMM_VIRTIO_TEST_QUEUE_H_
#define QUIRE_VMM_VIRTIO_TEST_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/units.h"
#include "mmu/device_memory.h"
#include "vmm/virtio/virtqueue.h"

// Without the legacy part, which is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

namespace quire {

template <class T>
T Load(DeviceMemory& memory, Gpa address) {
  T value;
  QUIRE_CHECK(memory.Read(address, absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof value)).ok());
  return value;
}
template <class T>
void Store(DeviceMemory& memory, Gpa address, T value) {
  QUIRE_CHECK(
      memory.Write(address, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof value)).ok());
}
inline std::string LoadString(DeviceMemory& memory, Gpa address, size_t size) {
  std::string text(size, 0);
  QUIRE_CHECK(memory.Read(address, absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), size)).ok());
  return text;
}
inline void StoreString(DeviceMemory& memory, Gpa address, absl::string_view text) {
  QUIRE_CHECK(memory.Write(address, {reinterpret_cast<const std::byte*>(text.data()), text.size()}).ok());
}

// The guest's side of one queue. One thread.
class TestQueue {
 public:
  struct Buffer {
    Gpa address;
    uint32_t size = 0;
    bool writable = false;
  };
  struct Used {
    uint32_t id;
    uint32_t length;
  };

  TestQueue(DeviceMemory& memory, const VirtqueueLayout& layout) : memory_(memory), layout_(layout) {}
  // Lies in memory from `base`, which is page aligned, on. `size` is at most 256 descriptors.
  TestQueue(DeviceMemory& memory, Gpa base, uint16_t size)
      : TestQueue(memory, {.size = size,
                           .descriptors = base,
                           .available = base + ByteCount::Bytes(size * sizeof(vring_desc)),
                           .used = base + ByteCount::KiB(8)}) {}
  static constexpr ByteCount kFootprint = ByteCount::KiB(16);

  const VirtqueueLayout& layout() const { return layout_; }

  // Makes a chain of these buffers available; returns its head.
  uint16_t Add(const std::vector<Buffer>& buffers) {
    const uint16_t head = free_;
    for (size_t i = 0; i < buffers.size(); ++i) {
      const uint16_t next = Follower(free_);
      SetDescriptor(free_, ToDescriptor(buffers[i], i + 1 < buffers.size(), next));
      free_ = next;
    }
    Offer(head);
    return head;
  }
  // The same through a table at `table`.
  uint16_t AddIndirect(Gpa table, const std::vector<Buffer>& buffers) {
    for (size_t i = 0; i < buffers.size(); ++i) {
      const vring_desc entry = ToDescriptor(buffers[i], i + 1 < buffers.size(), static_cast<uint16_t>(i + 1));
      Store(memory_, table + ByteCount::Bytes(i * sizeof entry), entry);
    }
    const uint16_t head = std::exchange(free_, Follower(free_));
    SetDescriptor(head, {.addr = table.value(),
                         .len = static_cast<uint32_t>(buffers.size() * sizeof(vring_desc)),
                         .flags = VRING_DESC_F_INDIRECT,
                         .next = 0});
    Offer(head);
    return head;
  }

  // The next chain that the device has given back, if there is one.
  std::optional<Used> TakeUsed() {
    if (UsedIndex() == next_used_) return std::nullopt;
    const uint64_t slot = next_used_++ % layout_.size;
    const auto element =
        Load<vring_used_elem>(memory_, UsedAt(offsetof(vring_used, ring) + slot * sizeof(vring_used_elem)));
    return Used{.id = element.id, .length = element.len};
  }
  uint16_t UsedIndex() { return Load<uint16_t>(memory_, UsedAt(offsetof(vring_used, idx))); }

  // What the parts of the rings say that no chain is made of.
  void SetDescriptor(uint16_t index, const vring_desc& descriptor) {
    Store(memory_, layout_.descriptors + ByteCount::Bytes(index * sizeof descriptor), descriptor);
  }
  void Offer(uint16_t head) {
    const uint64_t slot = available_ % layout_.size;
    Store(memory_, AvailableAt(offsetof(vring_avail, ring) + slot * sizeof head), head);
    SetAvailableIndex(static_cast<uint16_t>(available_ + 1));
  }
  void SetAvailableIndex(uint16_t index) {
    available_ = index;
    Store(memory_, AvailableAt(offsetof(vring_avail, idx)), index);
  }
  void SetAvailableFlags(uint16_t flags) { Store(memory_, AvailableAt(offsetof(vring_avail, flags)), flags); }
  // The used index after which an interrupt is wanted.
  void SetUsedEvent(uint16_t index) {
    Store(memory_, AvailableAt(offsetof(vring_avail, ring) + layout_.size * sizeof index), index);
  }
  // The available index after which the device wants to be notified.
  uint16_t AvailableEvent() {
    return Load<uint16_t>(memory_, UsedAt(offsetof(vring_used, ring) + layout_.size * sizeof(vring_used_elem)));
  }

 private:
  static vring_desc ToDescriptor(const Buffer& buffer, bool more, uint16_t next) {
    const int flags = (buffer.writable ? VRING_DESC_F_WRITE : 0) | (more ? VRING_DESC_F_NEXT : 0);
    return {.addr = buffer.address.value(), .len = buffer.size, .flags = static_cast<uint16_t>(flags), .next = next};
  }
  uint16_t Follower(uint16_t index) const { return static_cast<uint16_t>((index + 1) % layout_.size); }
  Gpa AvailableAt(uint64_t offset) const { return layout_.available + ByteCount::Bytes(offset); }
  Gpa UsedAt(uint64_t offset) const { return layout_.used + ByteCount::Bytes(offset); }

  DeviceMemory& memory_;
  const VirtqueueLayout layout_;
  uint16_t free_ = 0;  // descriptors are taken round and round: a test has few chains under way
  uint16_t available_ = 0;
  uint16_t next_used_ = 0;
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_TEST_QUEUE_H_
