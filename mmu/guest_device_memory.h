// The memory of a guest that Quire manages, as its devices see it.
#ifndef QUIRE_MMU_GUEST_DEVICE_MEMORY_H_
#define QUIRE_MMU_GUEST_DEVICE_MEMORY_H_

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "guest/guest_memory.h"
#include "mmu/device_memory.h"
#include "mmu/guest_regions.h"
#include "mmu/iotlb.h"

namespace quire {

// Small accesses go through an IOTLB; what is transferred is wired. Thread safe.
class GuestDeviceMemory final : public DeviceMemory {
 public:
  // `memory` outlives it, and it each Buffer; `regions` are all of it, or a part.
  GuestDeviceMemory(GuestMemory& memory, GuestRegions regions);
  ~GuestDeviceMemory() override;  // no Buffer is left

  // A range is looked at as a whole before anything of it is copied, wired or discarded.
  absl::Status Read(Gpa from, absl::Span<std::byte> to) override;
  absl::Status Write(Gpa to, absl::Span<const std::byte> from) override;
  // Of a guest that is stopped while a Buffer lives the pages go when the Buffer does.
  absl::StatusOr<std::unique_ptr<Buffer>> Wire(Gpa begin, ByteCount size) override;
  // Of `begin`, which is the beginning of a page, and what follows. InvalidArgument: it is not one.
  absl::Status Discard(Gpa begin, PageCount size) override;

  Iotlb& iotlb() { return iotlb_; }
  const IotlbCounters& counters() const { return iotlb_.counters(); }

 private:
  class WiredBuffer;

  GuestMemory& memory_;
  const GuestRegions regions_;
  Iotlb iotlb_;
  Gauge buffers_;
};

}  // namespace quire

#endif  // QUIRE_MMU_GUEST_DEVICE_MEMORY_H_
