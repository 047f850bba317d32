// What is known of each slab. Records are numbered, shared by all kegs, and never move.
#ifndef QUIRE_GUEST_SWAP_SLAB_TABLE_H_
#define QUIRE_GUEST_SWAP_SLAB_TABLE_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/units.h"
#include "guest/swap/chunked_table.h"

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

// Thread safe. Its lock is a leaf.
class SlabTable {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};

  Slab& operator[](uint32_t id) { return slabs_[id]; }
  const Slab& operator[](uint32_t id) const { return slabs_[id]; }
  uint32_t capacity() const { return slabs_.capacity(); }
  ByteCount metadata() const { return slabs_.metadata(); }

  uint32_t Take() ABSL_LOCKS_EXCLUDED(lock_) {
    absl::MutexLock lock(&lock_);
    if (free_ == kNone) {
      const uint32_t first = slabs_.Grow();
      for (uint32_t i = slabs_.chunk_records(); i-- > 0;) {
        slabs_[first + i].next = free_;
        free_ = first + i;
      }
    }
    const uint32_t id = free_;
    free_ = slabs_[id].next;
    return id;
  }
  void Return(uint32_t id) ABSL_LOCKS_EXCLUDED(lock_) {
    absl::MutexLock lock(&lock_);
    slabs_[id].next = free_;
    free_ = id;
  }

 private:
  // Enough for 256 GiB of pages that do not compress; others share slabs.
  ChunkedTable<Slab, 512, 1 << 17> slabs_;
  absl::Mutex lock_;
  uint32_t free_ ABSL_GUARDED_BY(lock_) = kNone;  // linked through Slab::next
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SLAB_TABLE_H_
