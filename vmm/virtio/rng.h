// Entropy for a guest, from the host's getrandom(2).
#ifndef QUIRE_VMM_VIRTIO_RNG_H_
#define QUIRE_VMM_VIRTIO_RNG_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "vmm/virtio/virtio_device.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {

// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.4.
class VirtioRng : public VirtioDevice {
 public:
  const char* name() const override { return "virtio-rng"; }
  uint32_t id() const override;
  std::vector<uint16_t> queue_sizes() const override { return {64}; }
  absl::Status Process(int queue, Virtqueue& virtqueue) override;
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_RNG_H_
