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
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/units.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/mmio_transport.h"
#include "vmm/virtio/test_queue.h"
#include "vmm/virtio/virtio_device.h"
#include "vmm/virtio/virtqueue.h"

// Without the legacy part, which is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

namespace quire {

inline constexpr uint64_t kVersion1 = uint64_t{1} << VIRTIO_F_VERSION_1;
inline constexpr uint64_t kIndirect = uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC;
inline constexpr uint64_t kEventIndex = uint64_t{1} << VIRTIO_RING_F_EVENT_IDX;

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
