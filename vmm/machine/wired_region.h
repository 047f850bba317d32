// Memory beside a guest's own that is never taken out: page tables, program, boot info, a workload's tables.
#ifndef QUIRE_VMM_MACHINE_WIRED_REGION_H_
#define QUIRE_VMM_MACHINE_WIRED_REGION_H_

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/frames/pool.h"

namespace quire {

// Zeroed, 4 KiB aligned. Taken from the pool and charged to it, or plain anonymous memory where there is no pool.
// Move-only.
class WiredRegion {
 public:
  WiredRegion() = default;
  // `pool` may be null. Error: ResourceExhausted, with what to do.
  static absl::StatusOr<WiredRegion> Allocate(Pool* pool, ByteCount size);
  WiredRegion(WiredRegion&& other) noexcept { *this = std::move(other); }
  WiredRegion& operator=(WiredRegion&& other) noexcept;
  ~WiredRegion() { Release(); }

  absl::Span<std::byte> bytes() const { return bytes_; }

 private:
  void Release();

  Pool* pool_ = nullptr;
  FrameRange frames_;  // if from a pool
  Mapping anonymous_;  // if not
  absl::Span<std::byte> bytes_;
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_WIRED_REGION_H_
