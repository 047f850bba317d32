// What a kind of virtio device is, apart from how a guest reaches it.
#ifndef QUIRE_VMM_VIRTIO_VIRTIO_DEVICE_H_
#define QUIRE_VMM_VIRTIO_VIRTIO_DEVICE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {

// A feature, VIRTIO_*_F_*, in a mask of them.
constexpr uint64_t FeatureBit(int bit) { return uint64_t{1} << bit; }

// What a device may want of the transport that it is behind. Thread safe.
class VirtioTransport {
 public:
  virtual ~VirtioTransport() = default;
  virtual void AskToProcess(int queue) = 0;
  virtual void ChangeConfig(absl::FunctionRef<void()> change) = 0;
};

// A transport owns the device, has a thread for it, and calls:
//
//   on the thread     Process, only while the driver is there (DRIVER_OK)
//   on vCPUs' threads ReadConfig, WriteConfig, SetFeatures and Reset, one at a time and under the transport's lock;
//                     SetFeatures and Reset not while Process runs, the other two perhaps
//
// The other four may be called from anywhere and always give the same.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  // What threads and sentences call it, at most 15 characters.
  virtual const char* name() const { return "virtio"; }
  // The device's type, VIRTIO_ID_*.
  virtual uint32_t id() const = 0;
  // What the device type offers, as a mask. The transport adds VERSION_1, INDIRECT_DESC and EVENT_IDX.
  virtual uint64_t features() const { return 0; }
  // The largest size of each queue, a power of two; the driver may choose smaller powers. At most 64 queues.
  virtual std::vector<uint16_t> queue_sizes() const = 0;

  // The configuration space. `offset` and length are any. What is not there reads as zero, and is written to no effect.
  virtual void ReadConfig(uint64_t /*offset*/, absl::Span<std::byte> data) {
    std::fill(data.begin(), data.end(), std::byte{0});
  }
  virtual void WriteConfig(uint64_t /*offset*/, absl::Span<const std::byte> /*data*/) {}

  // What the driver has accepted: at least VERSION_1, and nothing that was not offered.
  virtual void SetFeatures(uint64_t /*features*/) {}

  // Does what there is to do with a queue: the driver has notified it, the device has asked for it, or the driver has
  // just come. There may be nothing in it. An error stops the device, the sentence being the reason that the user is
  // told and the driver learns that the device needs a reset; for what is wrong with one request the device answers
  // that request instead, where its protocol can.
  virtual absl::Status Process(int queue, Virtqueue& virtqueue) = 0;

  // The driver has gone, and every chain with it.
  virtual void Reset() {}

  // For the transport, before it calls anything that is not const.
  void Connect(VirtioTransport* transport) { transport_ = transport; }

 protected:
  // Has a queue processed soon, once for any number of calls before that. Any thread, with any lock.
  // To no effect while there is no driver: when there is one, each queue is processed anyway.
  void AskToProcess(int queue) {
    if (transport_ != nullptr) transport_->AskToProcess(queue);
  }
  // Runs `change`, which changes what ReadConfig gives, so that the driver never reads half of it, and has the driver
  // told. Any thread, but with no lock that ReadConfig, WriteConfig, SetFeatures or Reset take, and from none of them.
  void ChangeConfig(absl::FunctionRef<void()> change) {
    if (transport_ != nullptr) return transport_->ChangeConfig(change);
    change();
  }
  // For ReadConfig: `config` is all of the configuration space.
  static void CopyConfig(absl::Span<const std::byte> config, uint64_t offset, absl::Span<std::byte> data) {
    std::fill(data.begin(), data.end(), std::byte{0});
    if (offset >= config.size()) return;
    const absl::Span<const std::byte> there = config.subspan(offset, data.size());
    std::copy(there.begin(), there.end(), data.begin());
  }

 private:
  VirtioTransport* transport_ = nullptr;
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_VIRTIO_DEVICE_H_
