// For tests of virtio devices: a driver, with its queues in a FakeDeviceMemory, that is as correct or as hostile as the
// test wants.
//
//   TestDriver driver(std::make_unique<VirtioRng>(), memory, Gpa(0));   // queues from there on
//   driver.Start();
//   driver.queue(0).Add({{.address = buffer, .size = 16, .writable = true}});
//   driver.Notify(0);
//   driver.Settle();
//   EXPECT_EQ(driver.queue(0).TakeUsed()->length, 16);
#ifndef QUIRE_VMM_VIRTIO_TEST_DRIVER_H_
#define QUIRE_VMM_VIRTIO_TEST_DRIVER_H_

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/units.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/mmio_transport.h"
#include "vmm/virtio/virtio_device.h"
#include "vmm/virtio/virtqueue.h"

// Without the legacy part, which is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

namespace quire {

inline constexpr uint64_t kVersion1 = uint64_t{1} << VIRTIO_F_VERSION_1;
inline constexpr uint64_t kIndirect = uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC;
inline constexpr uint64_t kEventIndex = uint64_t{1} << VIRTIO_RING_F_EVENT_IDX;

template <class T>
T Load(FakeDeviceMemory& memory, Gpa address) {
  T value;
  QUIRE_CHECK(memory.Read(address, absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof value)).ok());
  return value;
}
template <class T>
void Store(FakeDeviceMemory& memory, Gpa address, T value) {
  QUIRE_CHECK(
      memory.Write(address, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof value)).ok());
}
inline std::string LoadString(FakeDeviceMemory& memory, Gpa address, size_t size) {
  std::string text(size, 0);
  QUIRE_CHECK(memory.Read(address, absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), size)).ok());
  return text;
}
inline void StoreString(FakeDeviceMemory& memory, Gpa address, absl::string_view text) {
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

  // Lies in memory from `base`, which is page aligned, on. `size` is at most 256 descriptors.
  TestQueue(FakeDeviceMemory& memory, Gpa base, uint16_t size) : memory_(memory), layout_{.size = size} {
    layout_.descriptors = base;
    layout_.available = base + ByteCount::Bytes(size * sizeof(vring_desc));
    layout_.used = base + ByteCount::KiB(8);
  }
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

  FakeDeviceMemory& memory_;
  VirtqueueLayout layout_;
  uint16_t free_ = 0;  // descriptors are taken round and round: a test has few chains under way
  uint16_t available_ = 0;
  uint16_t next_used_ = 0;
};

// Drives a device through the registers of its transport. One thread.
class TestDriver {
 public:
  // `queues` is where queues of up to kQueueSize descriptors are laid out, one each TestQueue::kFootprint.
  TestDriver(std::unique_ptr<VirtioDevice> device, FakeDeviceMemory& memory, Gpa queues)
      : memory_(memory),
        queues_at_(queues),
        sizes_(device->queue_sizes()),
        transport_(std::move(device), memory, [this] { ++interrupts_; }) {}

  static constexpr uint16_t kQueueSize = 16;

  uint32_t Read(uint64_t offset) { return ReadAs<uint32_t>(offset); }
  void Write(uint64_t offset, uint32_t value) { WriteAs(offset, value); }
  template <class T>
  T ReadConfig(uint64_t offset) {
    return ReadAs<T>(VIRTIO_MMIO_CONFIG + offset);
  }
  template <class T>
  void WriteConfig(uint64_t offset, T value) {
    WriteAs(VIRTIO_MMIO_CONFIG + offset, value);
  }

  // The whole of 3.1.1: reset, features, queues, DRIVER_OK. False: the device did not accept the features.
  bool Start(uint64_t features) {
    if (!Negotiate(features)) return false;
    for (size_t i = 0; i < sizes_.size(); ++i) SetUpQueue(static_cast<int>(i), std::min(sizes_[i], kQueueSize));
    AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
    return true;
  }
  // With all that the device offers.
  bool Start() { return Start(Offered()); }

  uint64_t Offered() {
    Write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    const uint64_t high = Read(VIRTIO_MMIO_DEVICE_FEATURES);
    Write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    return high << 32 | Read(VIRTIO_MMIO_DEVICE_FEATURES);
  }
  bool Negotiate(uint64_t features) {
    Reset();
    AddStatus(VIRTIO_CONFIG_S_ACKNOWLEDGE);
    AddStatus(VIRTIO_CONFIG_S_DRIVER);
    for (uint32_t word = 0; word < 2; ++word) {
      Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
      Write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features >> (32 * word)));
    }
    AddStatus(VIRTIO_CONFIG_S_FEATURES_OK);
    return (Status() & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  }
  // Makes fresh rings for queue `index` and has the device take them.
  void SetUpQueue(int index, uint16_t size) {
    const size_t number = static_cast<size_t>(index);
    const Gpa base = queues_at_ + ByteCount::Bytes(number * TestQueue::kFootprint.in_bytes());
    StoreString(memory_, base, std::string(TestQueue::kFootprint.in_bytes(), 0));
    if (queues_.size() <= number) queues_.resize(number + 1);
    queues_[number] = std::make_unique<TestQueue>(memory_, base, size);
    const VirtqueueLayout& layout = queues_[number]->layout();
    Write(VIRTIO_MMIO_QUEUE_SEL, static_cast<uint32_t>(index));
    Write(VIRTIO_MMIO_QUEUE_NUM, size);
    WriteAddress(VIRTIO_MMIO_QUEUE_DESC_LOW, layout.descriptors);
    WriteAddress(VIRTIO_MMIO_QUEUE_AVAIL_LOW, layout.available);
    WriteAddress(VIRTIO_MMIO_QUEUE_USED_LOW, layout.used);
    Write(VIRTIO_MMIO_QUEUE_READY, 1);
  }
  TestQueue& queue(int index) { return *queues_[static_cast<size_t>(index)]; }

  uint32_t Status() { return Read(VIRTIO_MMIO_STATUS); }
  void AddStatus(uint32_t bits) { Write(VIRTIO_MMIO_STATUS, Status() | bits); }
  void Reset() { Write(VIRTIO_MMIO_STATUS, 0); }

  void Notify(int index) { Write(VIRTIO_MMIO_QUEUE_NOTIFY, static_cast<uint32_t>(index)); }
  // Waits until the device has done what there is to do.
  void Settle() { transport_.Settle(); }
  // Edges so far.
  int interrupts() const { return interrupts_; }
  // The causes since the last time, acknowledged.
  uint32_t TakeInterruptStatus() {
    const uint32_t causes = Read(VIRTIO_MMIO_INTERRUPT_STATUS);
    Write(VIRTIO_MMIO_INTERRUPT_ACK, causes);
    return causes;
  }

  MmioTransport& transport() { return transport_; }

 private:
  template <class T>
  T ReadAs(uint64_t offset) {
    T value;
    transport_.Read(offset, absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof value));
    return value;
  }
  template <class T>
  void WriteAs(uint64_t offset, T value) {
    transport_.Write(offset, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof value));
  }
  void WriteAddress(uint64_t low, Gpa address) {
    Write(low, static_cast<uint32_t>(address.value()));
    Write(low + sizeof(uint32_t), static_cast<uint32_t>(address.value() >> 32));
  }

  FakeDeviceMemory& memory_;
  const Gpa queues_at_;
  const std::vector<uint16_t> sizes_;
  std::vector<std::unique_ptr<TestQueue>> queues_;
  std::atomic<int> interrupts_ = 0;
  MmioTransport transport_;  // last: its thread uses the others
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_TEST_DRIVER_H_
