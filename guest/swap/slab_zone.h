// Small objects in the pool: compressed pages. Size classes over slabs of 1 to 8 frames taken from the arena.
//
// The frames of a slab need not be adjacent: reclaim frees single frames here and there, and storing what it takes out
// must not wait for a run of them. So an object may lie across two frames (as in Linux's zsmalloc), and is read and
// written by copying.
//
// All memory comes from the arena with Reserve::kReclaim and counts against the pool's limit; bookkeeping lies in
// ordinary memory. An empty slab goes back to the arena at once. An object never moves.
#ifndef QUIRE_GUEST_SWAP_SLAB_ZONE_H_
#define QUIRE_GUEST_SWAP_SLAB_ZONE_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
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
  // The object's first `bytes` bytes: in place, valid until it is freed or written, or copied to `buffer`, which has
  // room for them.
  const std::byte* Read(SlabObject object, uint32_t bytes, std::byte* buffer) const;

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

  // `frames` and `size_class` are written before an object of the slab is handed out, and constant until all are free.
  // The rest is guarded by the class's lock. A free object's first two bytes hold the next free one's index.
  struct Slab {
    std::array<uint32_t, kMaxSlabFrames> frames = {};
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
    absl::Mutex lock;
    uint32_t partial ABSL_GUARDED_BY(lock) = kNone;  // slabs with room, doubly linked
  };

  static uint32_t ClassOf(uint32_t bytes) { return (bytes + kGranule - 1) / kGranule - 1; }
  static constexpr uint16_t kEndOfList = 0xffff;
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
  ChunkedTable<Slab, 1024> slabs_;
  absl::Mutex ids_lock_;
  uint32_t free_ids_ ABSL_GUARDED_BY(ids_lock_) = kNone;  // linked through Slab::next
  Gauge held_;
  Gauge in_objects_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SLAB_ZONE_H_
