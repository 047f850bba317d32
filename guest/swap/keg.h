// Objects of one size, in slabs of up to 16 frames of the arena (a keg, as FreeBSD's UMA calls it).
//
// The frames of a slab need not be adjacent: reclaim frees single frames here and there, and storing what it takes out
// must not wait for a run of them. So an object may lie across two frames (as in Linux's zsmalloc), and is read and
// written by copying. A slab has only the frames that its objects reach: it takes the next one when an object is to lie
// there, and gives the last ones back when nothing does any more.
//
//      frame 0        frame 1        frame 2            not taken yet
//     +----+----+----+----+----+----+----+----+ - - - - - - - - -
//     | 0  | 1  |////| 3  | 4  |////| 6  |    |                       objects 2 and 5 are free
//     +----+----+----+----+----+----+----+----+ - - - - - - - - -
//
// What is free between objects is filled first, in the fullest slabs first. What remains of it is won by moving the
// objects of the emptiest slab into the holes of others, until all slabs but one are full and that one has no holes. An
// object begins with the number of its owner, who alone can say that it is still wanted, and is told of its new place:
// see SwapSpace::CompactZone. (Objects of a whole page have none: their slabs are full or gone.)
//
// An object keeps its place in its slab otherwise, but a frame of the slab may be replaced by another (compaction of
// the arena). Objects are read and written without the keg's lock, in a slab that is pinned; frames are replaced under
// that lock, and only if the slab is not pinned. One word a slab settles it:
//
//   bit 31          30                                        0
//      +-----------+-------------------------------------------+
//      |  moving   |                   pins                    |
//      +-----------+-------------------------------------------+
//
// Who reads adds one (acquire), and waits for the lock if it finds the slab moving; who moves turns 0 into "moving" or
// gives up. So reading costs two atomic additions on a line that it uses anyway, mover and reader never wait for each
// other's work, but for the copy of one frame. Checking a sequence after the fact would save the second addition, but
// let a reader look into a frame that has gone back to the host, which would populate it again.
#ifndef QUIRE_GUEST_SWAP_KEG_H_
#define QUIRE_GUEST_SWAP_KEG_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/swap/slab_table.h"

namespace quire {

// Thread safe.
class Keg {
 public:
  static constexpr uint32_t kHeader = 4;  // bytes of an object that name its owner
  // Stands for no owner.
  static constexpr uint32_t kNoOwner = ~uint32_t{0};

  // Objects of `object_bytes` (a multiple of 4, at most a page), their headers included. Frames come from the arena
  // with Reserve::kReclaim, and are counted in `held` too. `number` is the keg's own in `slabs`.
  Keg(Pool& pool, SlabTable& slabs, Gauge& held, uint8_t number, uint32_t object_bytes);
  Keg(const Keg&) = delete;
  Keg& operator=(const Keg&) = delete;

  uint32_t object_bytes() const { return object_bytes_; }
  // What of an object is its user's.
  uint32_t payload_bytes() const { return object_bytes_ - header_; }

  // An object of unknown content, which names whatever owner until it is written. Never waits, never reclaims. Errors:
  // those of Arena::Allocate.
  absl::StatusOr<SlabObject> Allocate() ABSL_LOCKS_EXCLUDED(lock_);
  void Free(SlabObject object) ABSL_LOCKS_EXCLUDED(lock_);

  // Keeps an object's bytes where they are as long as it lives, which is to be short. The object is not freed or
  // relocated meanwhile.
  class Pin {
   public:
    Pin(const Keg& keg, const Slab& slab, uint16_t index) : keg_(keg), slab_(slab), index_(index) {
      while ((slab_.pins.fetch_add(1, std::memory_order_acquire) & kMoving) != 0) keg_.WaitForMove(slab_);
    }
    ~Pin() { slab_.pins.fetch_sub(1, std::memory_order_release); }
    Pin(const Pin&) = delete;
    Pin& operator=(const Pin&) = delete;

    // Copies the bytes to the object's first ones, and says whose it is.
    void Write(uint32_t owner, absl::Span<const std::byte> bytes) const;
    // The object's first `bytes` bytes: in place, valid until it is freed, written or not pinned any more, or copied to
    // `buffer`, which has room for them.
    const std::byte* Read(uint32_t bytes, std::byte* buffer) const;

   private:
    const Keg& keg_;
    const Slab& slab_;
    const uint16_t index_;
  };

  // As FrameMigrator::Migrate, for a frame of a slab that was this keg's when the caller looked.
  FrameMigrator::Answer Migrate(FrameNumber from, FrameDescriptor owner, FrameNumber to) ABSL_LOCKS_EXCLUDED(lock_) {
    return Replace(from, owner, to, FrameBytes::kSound);
  }
  // The same where the frame's memory has failed: zeros take the place of its bytes, and it is taken out of use.
  enum class FrameBytes : uint8_t { kSound, kLost };
  FrameMigrator::Answer Replace(FrameNumber from, FrameDescriptor owner, FrameNumber to, FrameBytes bytes)
      ABSL_LOCKS_EXCLUDED(lock_);

  // --- Moving objects together. One thread at a time.

  struct Owned {
    SlabObject object;
    uint32_t owner;
  };
  // A slab whose objects are to go elsewhere, and they, the last first. An owner may be any number: only what it
  // stands for can say whether the object is its.
  struct Drain {
    uint32_t slab = SlabTable::kNone;
    absl::InlinedVector<Owned, Slab::kMaxObjects> objects = {};
  };
  // Frames that moving objects together would free.
  PageCount reclaimable() const ABSL_LOCKS_EXCLUDED(lock_);
  // Takes the emptiest slab out of use; false: nothing is to be won.
  bool BeginDrain(Drain& drain) ABSL_LOCKS_EXCLUDED(lock_);
  // Copies an object to a better place, and frees it: its new place, or none if there is no better one. Nobody reads or
  // writes the object, as its owner sees to.
  std::optional<SlabObject> Relocate(SlabObject object, uint32_t owner) ABSL_LOCKS_EXCLUDED(lock_);
  // The slab goes, or what is still in it is in use again.
  void EndDrain(const Drain& drain) ABSL_LOCKS_EXCLUDED(lock_);

  struct Statistics {
    uint64_t used = 0;      // objects
    uint64_t free = 0;      // that there are frames for
    uint64_t requests = 0;  // to allocate one
    uint64_t failures = 0;  // of them: for want of memory
    uint64_t relocated = 0;
    uint64_t slabs = 0;
    PageCount frames = {};
  };
  Statistics statistics() const ABSL_LOCKS_EXCLUDED(lock_);

  // The lists and counts agree with the slabs. Only while nothing else runs.
  absl::Status Check() const ABSL_LOCKS_EXCLUDED(lock_);

 private:
  static constexpr uint32_t kMoving = uint32_t{1} << 31;
  // Slabs with room are listed by how full they are, in eighths; those where an object fits into the frames that they
  // have come after all others.
  static constexpr uint32_t kGroups = 8;
  static constexpr uint32_t kLists = 2 * kGroups;
  static constexpr uint32_t kNone = SlabTable::kNone;

  static uint32_t BestSlabFrames(uint32_t object_bytes);
  // How many frames the first `objects` objects of a slab reach.
  uint32_t FramesFor(uint32_t objects) const {
    return static_cast<uint32_t>((objects * object_bytes_ + kPageSize - 1) / kPageSize);
  }
  PageCount ReclaimableLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  absl::StatusOr<SlabObject> AllocateLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  absl::StatusOr<SlabObject> TakeFrom(uint32_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  absl::StatusOr<SlabObject> TakeFromNewSlab() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void FreeLocked(SlabObject object) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  absl::Status Grow(Slab& slab, uint32_t id, uint32_t frames) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Shrink(Slab& slab, uint32_t frames) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void GiveUp(uint32_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  static uint32_t LowestFree(const Slab& slab);
  static uint32_t EndOfTaken(const Slab& slab);  // one more than the highest
  static bool IsTaken(const Slab& slab, uint32_t index) { return (slab.taken[index / 64] >> index % 64 & 1) != 0; }
  // The slab that is to be filled next, or emptied next.
  uint32_t Fullest() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  uint32_t Emptiest() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  uint8_t ListFor(const Slab& slab) const;
  // Puts the slab on the list that it belongs on.
  void Relist(uint32_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Unlist(uint32_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  void WaitForMove(const Slab& slab) const ABSL_LOCKS_EXCLUDED(lock_);
  size_t OffsetOf(uint16_t index) const { return size_t{index} * object_bytes_; }
  // Where a byte of the slab is.
  std::byte* ByteAt(const Slab& slab, size_t offset) const {
    return pool_.Frame(FrameNumber(slab.frames[offset / kPageSize])) + offset % kPageSize;
  }
  // The bytes of a slab from `offset` on, up to the end of the first one's frame.
  absl::Span<std::byte> FirstPiece(const Slab& slab, size_t offset, size_t bytes) const;
  void CopyIn(const Slab& slab, size_t offset, absl::Span<const std::byte> bytes) const;
  // In place, or copied to the buffer.
  const std::byte* Find(const Slab& slab, size_t offset, size_t bytes, std::byte* buffer) const;
  // Atomic: it is read under the lock, and written in a slab that is pinned.
  std::atomic_ref<uint32_t> OwnerOf(const Slab& slab, uint16_t index) const {
    return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(ByteAt(slab, OffsetOf(index))));
  }
  absl::Status CheckSlab(const Slab& slab) const;

  Pool& pool_;
  SlabTable& slabs_;
  Gauge& all_held_;
  const uint8_t number_;
  const uint32_t object_bytes_;
  const uint32_t header_;
  const uint32_t slab_frames_;
  const uint32_t slab_objects_;
  const uint32_t group_scale_;  // used objects times this are groups of 1 << 16: no division for each allocation

  mutable absl::Mutex lock_;
  uint32_t listed_ ABSL_GUARDED_BY(lock_) = 0;  // which lists are not empty, a bit each
  std::array<uint32_t, kLists> lists_ ABSL_GUARDED_BY(lock_);
  Statistics counts_ ABSL_GUARDED_BY(lock_);
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_KEG_H_
