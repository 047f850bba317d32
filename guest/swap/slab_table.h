// What is known of each slab. Records are numbered, shared by all kegs, and never move.
#ifndef QUIRE_GUEST_SWAP_SLAB_TABLE_H_
#define QUIRE_GUEST_SWAP_SLAB_TABLE_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/units.h"
#include "guest/frames/pool.h"
#include "guest/frames/pool_table.h"

namespace quire {

// Where an object lies: its slab, and its place there.
struct SlabObject {
  uint32_t slab;
  uint16_t index;
};

// All but `pins` and `keg` is guarded by the lock of its keg, and constant for an object's reader: see keg.h.
struct Slab {
  static constexpr uint32_t kMaxFrames = 16;
  static constexpr uint32_t kMaxObjects = 128;
  static constexpr uint8_t kNone = 0xff;

  std::array<uint32_t, kMaxFrames> frames = {};  // the first `held` of them
  std::array<uint64_t, kMaxObjects / 64> taken = {};
  mutable std::atomic<uint32_t> pins = 0;
  uint32_t next = 0;
  uint32_t previous = 0;
  std::atomic<uint8_t> keg = kNone;  // written under that keg's lock
  uint8_t held = 0;                  // frames
  uint8_t used = 0;                  // objects
  uint8_t list = kNone;              // of the keg
  bool draining = false;             // its objects are being moved: it takes no new ones
};

static_assert(sizeof(Slab) == 104);

// Thread safe. Under its lock the pool's are taken, and no others.
class SlabTable {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};

  explicit SlabTable(Pool& pool) : slabs_(pool, pool.budget().limit().in_pages() + kWithoutFrames) {}

  Slab& operator[](uint32_t id) { return slabs_[id]; }
  const Slab& operator[](uint32_t id) const { return slabs_[id]; }
  uint32_t capacity() const { return slabs_.capacity(); }

  // kNone: there is no memory for another one.
  uint32_t Take() ABSL_LOCKS_EXCLUDED(lock_) {
    absl::MutexLock lock(&lock_);
    ++requests_;
    if (free_ == kNone && !GrowLocked()) {
      ++failures_;
      return kNone;
    }
    const uint32_t id = free_;
    free_ = slabs_[id].next;
    ++used_;
    return id;
  }
  void Return(uint32_t id) ABSL_LOCKS_EXCLUDED(lock_) {
    absl::MutexLock lock(&lock_);
    slabs_[id].next = free_;
    free_ = id;
    --used_;
  }

  TableStatistics statistics() const ABSL_LOCKS_EXCLUDED(lock_) {
    absl::MutexLock lock(&lock_);
    return {.used = used_,
            .free = capacity() - used_,
            .requests = requests_,
            .failures = failures_,
            .frames = slabs_.frames()};
  }

 private:
  // A slab has a frame, but for those that are just being made: one a keg.
  static constexpr uint64_t kWithoutFrames = Slab::kNone;

  bool GrowLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    const uint32_t first = capacity();
    if (!slabs_.Grow(PoolTable<Slab>::kPerPage) && !slabs_.Grow(1)) return false;
    for (uint32_t id = capacity(); id-- > first;) {
      slabs_[id].next = free_;
      free_ = id;
    }
    return true;
  }

  PoolTable<Slab> slabs_;
  mutable absl::Mutex lock_;
  uint32_t used_ ABSL_GUARDED_BY(lock_) = 0;
  uint64_t requests_ ABSL_GUARDED_BY(lock_) = 0;
  uint64_t failures_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t free_ ABSL_GUARDED_BY(lock_) = kNone;  // linked through Slab::next
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SLAB_TABLE_H_
