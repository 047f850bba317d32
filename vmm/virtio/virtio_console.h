// A console with one port, the guest's hvc0.
#ifndef QUIRE_VMM_VIRTIO_VIRTIO_CONSOLE_H_
#define QUIRE_VMM_VIRTIO_VIRTIO_CONSOLE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/units.h"
#include "vmm/virtio/virtio_device.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {

// Receive and waiting are thread safe. Its lock is a leaf.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.3.
class VirtioConsole : public VirtioDevice {
 public:
  static constexpr int kReceiveQueue = 0;
  static constexpr int kTransmitQueue = 1;
  // The most of one buffer that is written out, so that none keeps the device for long. Linux sends a page at a time.
  static constexpr ByteCount kMostOutput = ByteCount::MiB(1);

  // `output` gets what the guest writes, in order, on the device's thread.
  explicit VirtioConsole(std::function<void(absl::string_view)> output) : output_(std::move(output)) {}

  const char* name() const override { return "virtio-console"; }
  uint32_t id() const override;
  std::vector<uint16_t> queue_sizes() const override { return {64, 64}; }
  absl::Status Process(int queue, Virtqueue& virtqueue) override;

  // Sends bytes to the guest. They wait as long as it has no room for them, through resets too.
  void Receive(absl::string_view input) ABSL_LOCKS_EXCLUDED(lock_);
  // How many bytes wait: whoever has plenty of input looks here.
  size_t waiting() const ABSL_LOCKS_EXCLUDED(lock_);

 private:
  absl::Status FillBuffers(Virtqueue& virtqueue);
  absl::Status WriteOut(Virtqueue& virtqueue);
  absl::Status WriteOut(const Chain& chain);
  // The first bytes that wait, at most so many; they go on waiting.
  std::string Peek(size_t most) const ABSL_LOCKS_EXCLUDED(lock_);
  void Drop(size_t count) ABSL_LOCKS_EXCLUDED(lock_);

  const std::function<void(absl::string_view)> output_;
  mutable absl::Mutex lock_;
  std::deque<char> waiting_ ABSL_GUARDED_BY(lock_);
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_VIRTIO_CONSOLE_H_
