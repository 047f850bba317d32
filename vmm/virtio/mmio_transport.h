// A virtio device in a page of a guest's physical address space: virtio-mmio, version 2.
//
// Registers are the vCPUs' business, done at once on their threads; queues are the device's, on one thread of its own,
// so that no vCPU ever waits for a device's work but the one that resets it.
//
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 4.2 (the transport), 3.1 and 2.1 (initialization, status).
#ifndef QUIRE_VMM_VIRTIO_MMIO_TRANSPORT_H_
#define QUIRE_VMM_VIRTIO_MMIO_TRANSPORT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/daemon.h"
#include "mmu/device_memory.h"
#include "vmm/devices/bus.h"
#include "vmm/virtio/virtio_device.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {

// Thread safe; Stop belongs to the owner's thread.
class MmioTransport : public BusDevice, private VirtioTransport {
 public:
  // `memory` outlives this. `interrupt` makes one edge on the device's line; it is called from any thread, without
  // this one's lock.
  MmioTransport(std::unique_ptr<VirtioDevice> device, DeviceMemory& memory, std::function<void()> interrupt);
  ~MmioTransport() override;

  void Read(uint64_t offset, absl::Span<std::byte> data) override;
  // Waits for the device's thread if it resets the device or takes a queue away.
  void Write(uint64_t offset, absl::Span<const std::byte> data) override;

  // Ends the device's thread after what it has in hand. From then on the driver finds a device that does nothing. For
  // the end of the machine, while its memory still answers.
  void Stop() ABSL_LOCKS_EXCLUDED(lock_);

  // Why the device stopped when it last did, a sentence; empty if it never has. A driver that resets it has it working
  // again.
  std::string reason() const ABSL_LOCKS_EXCLUDED(lock_);

  // Waits until the device has nothing to do. For tests: while a driver notifies there may be no such moment.
  void Settle() ABSL_LOCKS_EXCLUDED(lock_);

  const VirtioDevice& device() const { return *device_; }

 private:
  struct Queue {
    uint16_t most = 0;                          // the device's limit of its size
    VirtqueueLayout layout = {};                // as far as the driver has said
    std::shared_ptr<Virtqueue> ring = nullptr;  // while the driver has it ready; shared with work in hand
  };
  struct Work {
    int queue;
    std::shared_ptr<Virtqueue> ring;
  };

  void AskToProcess(int queue) override;
  void ChangeConfig(absl::FunctionRef<void()> change) override ABSL_LOCKS_EXCLUDED(lock_);

  uint32_t ReadRegister(uint64_t offset) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void WriteRegister(uint64_t offset, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void WriteQueueRegister(Queue& queue, uint64_t offset, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void WriteStatus(uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  bool AcceptFeatures() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void SetReady(Queue& queue, bool ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Reset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  uint64_t OfferedFeatures() const;

  // The queue that QueueSel names, if there is one.
  const Queue* Selected() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Whether the driver is there and the device has not stopped.
  bool Live() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Adds a cause of interrupts, for Interrupt.
  void Raise(uint32_t cause) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Calls interrupt_ if there was a Raise since. Pairs with every release of lock_ after one.
  void Interrupt() ABSL_LOCKS_EXCLUDED(lock_);
  // Stops the device until it is reset.
  void Fail(absl::string_view reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // On the device's thread.
  void ProcessAll();
  std::optional<Work> Begin() ABSL_LOCKS_EXCLUDED(lock_);
  void Finish(const Work& work, const absl::StatusOr<bool>& interrupt) ABSL_LOCKS_EXCLUDED(lock_);
  absl::StatusOr<bool> Process(const Work& work);

  const std::unique_ptr<VirtioDevice> device_;
  DeviceMemory& memory_;
  const std::function<void()> interrupt_;
  std::atomic<uint64_t> requested_ = 0;  // queues to be processed; bits are set by anybody, taken by the thread

  mutable absl::Mutex lock_;
  std::vector<Queue> queues_ ABSL_GUARDED_BY(lock_);  // as many as the device has
  uint32_t status_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t queue_selected_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t device_features_selected_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t driver_features_selected_ ABSL_GUARDED_BY(lock_) = 0;
  uint64_t driver_features_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t interrupt_status_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t config_generation_ ABSL_GUARDED_BY(lock_) = 0;
  bool config_changed_ ABSL_GUARDED_BY(lock_) = false;  // while the driver was on its way: it is told when it is there
  bool edge_ ABSL_GUARDED_BY(lock_) = false;            // to be passed on by Interrupt
  bool resetting_ ABSL_GUARDED_BY(lock_) = false;       // a vCPU waits for the thread
  bool stopped_ ABSL_GUARDED_BY(lock_) = false;
  std::string reason_ ABSL_GUARDED_BY(lock_);
  int busy_ ABSL_GUARDED_BY(lock_) = -1;  // the queue in hand
  int last_ ABSL_GUARDED_BY(lock_) = 0;   // the queue that was in hand last

  Daemon daemon_;  // last: it uses the others
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_MMIO_TRANSPORT_H_
