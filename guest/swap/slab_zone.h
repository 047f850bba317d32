// Small objects in the pool: compressed pages. Size classes over slabs of 1 to 8 frames taken from the arena.
//
// The frames of a slab need not be adjacent: reclaim frees single frames here and there, and storing what it takes out
// must not wait for a run of them. So an object may lie across two frames (as in Linux's zsmalloc), and is read and
// written by copying.
//
// All memory comes from the arena with Reserve::kReclaim and counts against the pool's limit; bookkeeping lies in
// ordinary memory. An empty slab goes back to the arena at once.
//
// An object keeps its place in its slab, but a frame of the slab may be replaced by another (compaction). Objects are
// read and written without the class's lock, in a slab that is pinned; frames are replaced under that lock, and only if
// the slab is not pinned. One word a slab settles it:
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
#ifndef QUIRE_GUEST_SWAP_SLAB_ZONE_H_
#define QUIRE_GUEST_SWAP_SLAB_ZONE_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

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
#include "guest/swap/chunked_table.h"

namespace quire {

// Where an object lies: its slab, and its place there.
struct SlabObject {
  uint32_t slab;
  uint16_t index;
};

// Thread safe; one lock a size class.
class SlabZone {
  struct Slab;

 public:
  static constexpr uint32_t kMaxObject = kPageSize;  // bytes

  explicit SlabZone(Pool& pool);
  ~SlabZone();
  SlabZone(const SlabZone&) = delete;
  SlabZone& operator=(const SlabZone&) = delete;

  // An object of at least `bytes` (1 to kMaxObject) bytes of unknown content. Never waits, never reclaims.
  // Errors: those of Arena::Allocate.
  absl::StatusOr<SlabObject> Allocate(uint32_t bytes);
  void Free(SlabObject object);
  // Copies `bytes` to the object's first bytes.
  void Write(SlabObject object, absl::Span<const std::byte> bytes);

  // Keeps an object's bytes where they are as long as it lives, which is to be short. The object is not freed
  // meanwhile.
  class Pin {
   public:
    Pin(const SlabZone& zone, SlabObject object) : slab_(zone.slabs_[object.slab]), index_(object.index) {
      while ((slab_.pins.fetch_add(1, std::memory_order_acquire) & kMoving) != 0) zone.WaitForMove(slab_);
    }
    ~Pin() { slab_.pins.fetch_sub(1, std::memory_order_release); }
    Pin(const Pin&) = delete;
    Pin& operator=(const Pin&) = delete;

   private:
    friend class SlabZone;
    const Slab& slab_;
    const uint16_t index_;
  };
  // The object's first `bytes` bytes: in place, valid until it is freed, written or not pinned any more, or copied to
  // `buffer`, which has room for them.
  const std::byte* Read(const Pin& object, uint32_t bytes, std::byte* buffer) const;

  // As FrameMigrator::Migrate, for a frame of the zone.
  FrameMigrator::Answer Migrate(FrameNumber from, FrameDescriptor owner, FrameNumber to);

  // Memory taken from the arena, and what of it is objects (rounded up to their class).
  PageCount held() const { return PageCount(held_.value()); }
  ByteCount in_objects() const { return ByteCount::Bytes(in_objects_.value()); }
  ByteCount metadata() const;
  // Only while nothing else runs.
  absl::Status Check();

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  static constexpr uint32_t kGranule = 64;
  static constexpr uint32_t kClasses = kMaxObject / kGranule;

  static constexpr uint64_t kMaxSlabFrames = 8;
  static constexpr uint32_t kMoving = uint32_t{1} << 31;

  // `size_class` is written before an object of the slab is handed out, and constant until all are free; `frames` too,
  // but for moves (see the top). The rest is guarded by the class's lock. A free object's first two bytes hold the next
  // free one's index.
  struct Slab {
    std::array<uint32_t, kMaxSlabFrames> frames = {};
    mutable std::atomic<uint32_t> pins = 0;
    uint32_t next = kNone;
    uint32_t previous = kNone;
    uint16_t used = 0;
    uint16_t carved = 0;  // objects that have ever been handed out: those above need no link yet
    uint16_t first_free = 0;
    uint8_t size_class = 0;
    bool live = false;
  };

  struct SizeClass {
    uint32_t object_bytes = 0;
    uint16_t objects = 0;  // in a slab
    uint64_t frames = 0;   // of a slab
    mutable absl::Mutex lock;
    uint32_t partial ABSL_GUARDED_BY(lock) = kNone;  // slabs with room, doubly linked
  };

  static uint32_t ClassOf(uint32_t bytes) { return (bytes + kGranule - 1) / kGranule - 1; }
  static constexpr uint16_t kEndOfList = 0xffff;
  // What a frame's descriptor says: class and slab. The class in it says which lock to take before the slab is looked
  // at; slabs of a class come and go under its lock, so that under the lock the descriptor is right or has changed.
  static constexpr int kSlabBits = 26;
  static constexpr uint32_t ZoneValue(uint8_t size_class, uint32_t slab) {
    return uint32_t{size_class} << kSlabBits | slab;
  }
  void WaitForMove(const Slab& slab) const;
  static uint64_t BestSlabFrames(uint32_t object_bytes);

  absl::StatusOr<uint32_t> NewSlab(SizeClass& c, uint8_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(c.lock);
  void ReleaseSlab(SizeClass& c, uint32_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(c.lock);
  void Link(SizeClass& c, uint32_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(c.lock);
  void Unlink(SizeClass& c, uint32_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(c.lock);
  // Where a byte of the slab is.
  std::byte* ByteAt(const Slab& slab, size_t offset) const {
    return pool_.Frame(FrameNumber(slab.frames[offset / kPageSize])) + offset % kPageSize;
  }
  // The first bytes of an object, up to the end of its first frame.
  absl::Span<std::byte> FirstPiece(const Slab& slab, size_t offset, size_t bytes) const {
    return {ByteAt(slab, offset), std::min(bytes, kPageSize - offset % kPageSize)};
  }
  std::byte* LinkOf(const SizeClass& c, const Slab& slab, uint16_t index) const {
    return ByteAt(slab, size_t{index} * c.object_bytes);
  }
  // The lists of slabs with room are sound.
  absl::Status CheckLists();
  uint32_t TakeSlabId();
  void ReturnSlabId(uint32_t id);

  Pool& pool_;
  std::array<SizeClass, kClasses> classes_;
  using Slabs = ChunkedTable<Slab, 1024>;
  Slabs slabs_;
  absl::Mutex ids_lock_;
  uint32_t free_ids_ ABSL_GUARDED_BY(ids_lock_) = kNone;  // linked through Slab::next
  Gauge held_;
  Gauge in_objects_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SLAB_ZONE_H_
