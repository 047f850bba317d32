// For tests of devices: one queue, both sides of it, with nothing around.
#ifndef QUIRE_VMM_VIRTIO_ONE_QUEUE_DRIVER_H_
#define QUIRE_VMM_VIRTIO_ONE_QUEUE_DRIVER_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "base/units.h"
#include "mmu/device_memory.h"
#include "vmm/virtio/test_queue.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {

class OneQueueDriver {
 public:
  struct Part {
    uint64_t address;
    uint32_t size;
    bool writable;
  };

  // The rings, of 64 descriptors, lie in the page that begins at `rings`: fuzzers' inputs count on where.
  OneQueueDriver(DeviceMemory& memory, Gpa rings)
      : memory_(memory),
        driver_(memory, {.size = 64,
                         .descriptors = rings,
                         .available = rings + ByteCount::KiB(1),
                         .used = rings + ByteCount::KiB(2)}),
        queue_(memory, driver_.layout()) {}

  // Makes a chain of these parts available and returns its head. At most 64 parts are under way at a time.
  uint16_t Offer(const std::vector<Part>& parts) {
    std::vector<TestQueue::Buffer> buffers;
    for (const Part& part : parts) {
      buffers.push_back({.address = Gpa(part.address), .size = part.size, .writable = part.writable});
    }
    return driver_.Add(buffers);
  }

  // What the device has given back since this was last asked.
  std::vector<TestQueue::Used> TakeUsed() {
    std::vector<TestQueue::Used> all;
    while (const std::optional<TestQueue::Used> used = driver_.TakeUsed()) all.push_back(*used);
    return all;
  }

  Virtqueue& queue() { return queue_; }

  template <class T>
  T Load(uint64_t address) {
    return quire::Load<T>(memory_, Gpa(address));
  }
  template <class T>
  void Store(uint64_t address, const T& value) {
    quire::Store(memory_, Gpa(address), value);
  }

 private:
  DeviceMemory& memory_;
  TestQueue driver_;
  Virtqueue queue_;
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_ONE_QUEUE_DRIVER_H_
