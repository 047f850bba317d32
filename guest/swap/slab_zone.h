// Small objects in the pool: compressed pages. A zone (zone.h) over a keg (keg.h) for each size, in steps of 32 bytes.
//
// All memory comes from the arena with Reserve::kReclaim and counts against the pool's limit, each object's four bytes
// for its owner included; so does the table of slabs.
//
// The sizes were chosen by measurement: docs/swap.md, "In the pool". A zone is made when its size is first asked for.
#ifndef QUIRE_GUEST_SWAP_SLAB_ZONE_H_
#define QUIRE_GUEST_SWAP_SLAB_ZONE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/frames/pool_table.h"
#include "guest/swap/keg.h"
#include "guest/swap/slab_table.h"
#include "guest/swap/zone.h"

namespace quire {

// Thread safe. Stores and loads of different sizes do not meet.
class SlabZone {
 public:
  static constexpr uint32_t kMaxObject = kPageSize;     // bytes
  static constexpr uint32_t kStep = 32;                 // bytes
  static constexpr uint32_t kMostShared = 116 * kStep;  // bytes, the header included: larger objects have a page each
  static constexpr uint32_t kZones = kMostShared / kStep + 1;

  explicit SlabZone(Pool& pool);
  ~SlabZone();
  SlabZone(const SlabZone&) = delete;
  SlabZone& operator=(const SlabZone&) = delete;

  // An object of at least `bytes` (1 to kMaxObject) bytes of unknown content. Never waits, never reclaims.
  // Errors: those of Arena::Allocate.
  absl::StatusOr<SlabObject> Allocate(uint32_t bytes);
  void Free(SlabObject object) { ZoneOf(object).Free(object); }
  // Copies `bytes` to the object's first bytes, and says whose it is.
  void Write(SlabObject object, uint32_t owner, absl::Span<const std::byte> bytes);

  // As Keg::Pin.
  class Pin : public Keg::Pin {
   public:
    Pin(const SlabZone& zone, SlabObject object)
        : Keg::Pin(zone.ZoneOf(object).keg(), zone.slabs_[object.slab], object.index) {}
  };
  const std::byte* Read(const Pin& object, uint32_t bytes, std::byte* buffer) const {
    return object.Read(bytes, buffer);
  }

  // As FrameMigrator::Migrate, for a frame of the zone.
  FrameMigrator::Answer Migrate(FrameNumber from, FrameDescriptor owner, FrameNumber to) {
    return Replace(from, owner, to, Keg::FrameBytes::kSound);
  }
  // As Keg's.
  FrameMigrator::Answer Replace(FrameNumber from, FrameDescriptor owner, FrameNumber to, Keg::FrameBytes bytes);

  // By the size of their objects, the smallest first. Null: nobody has asked for that size.
  Zone* zone(uint32_t number) const { return zones_[number].load(std::memory_order_acquire); }
  // Gives objects that lie ready for the next who asks back, so that held() says what those in use take.
  void Drain() const;

  // Memory taken from the arena; what of it is objects (rounded up to their zone's size); and what moving objects
  // together would free.
  PageCount held() const { return PageCount(held_.value()); }
  ByteCount in_objects() const;
  PageCount reclaimable() const;
  ByteCount metadata() const;
  TableStatistics slabs() const { return slabs_.statistics(); }
  // Of the sizes that were asked for, the smallest first.
  std::vector<ZoneStatistics> statistics() const;
  // Only while nothing else runs.
  absl::Status Check() const;

 private:
  static uint32_t NumberFor(uint32_t bytes) {
    const uint32_t with_header = bytes + Keg::kHeader;
    return with_header > kMostShared ? kZones - 1 : (with_header + kStep - 1) / kStep - 1;
  }
  Zone& MakeZone(uint32_t number) ABSL_LOCKS_EXCLUDED(make_lock_);
  Zone& ZoneOf(SlabObject object) const;

  Pool& pool_;
  SlabTable slabs_;
  Gauge held_;
  absl::Mutex make_lock_;
  std::array<std::atomic<Zone*>, kZones> zones_ = {};  // owned
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SLAB_ZONE_H_
