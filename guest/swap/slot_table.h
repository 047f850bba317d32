// Which swap slots are taken, in clusters of 512, and the record of each.
//
// What goes out together lies together: who stores pages keeps a cursor, and takes slot after slot of one cluster, as
// Linux's swap does for each CPU (SWAPFILE_CLUSTER). A block of 512 pages that goes out whole begins a cluster of its
// own. Slots that are next to each other are written to a swap area next to each other, and read back in one piece.
//
// The table lies in the pool, and has to grow exactly when memory is short: it may use what is kept for reclaim.
#ifndef QUIRE_GUEST_SWAP_SLOT_TABLE_H_
#define QUIRE_GUEST_SWAP_SLOT_TABLE_H_

#include <array>
#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/units.h"
#include "guest/frames/pool.h"
#include "guest/frames/pool_table.h"
#include "guest/swap/slot_record.h"
#include "guest/swap/swap_slot.h"

namespace quire {

// Thread safe. A record is guarded by LockOf its slot, unless one thread alone knows of the slot.
class SlotTable {
 public:
  static constexpr uint32_t kCluster = 512;

  // Where a thread took its last slot. A hint: it holds nothing.
  struct Cursor {
    uint32_t next = kNone;
  };

  explicit SlotTable(Pool& pool);

  // A free slot: the cursor's next one, if it is free. With a fresh cursor, from wherever there is room. None: the
  // table would have to grow, and there is no memory for that.
  std::optional<SwapSlot> Allocate(Cursor& cursor) ABSL_LOCKS_EXCLUDED(lock_);
  // Has the cursor go on in a cluster of which nothing is taken, unless the table would have to grow for that although
  // an eighth of it is free, or has no memory to grow.
  void BeginCluster(Cursor& cursor) ABSL_LOCKS_EXCLUDED(lock_);
  // Its record says that it is free by now.
  void Free(SwapSlot slot) ABSL_LOCKS_EXCLUDED(lock_);

  SlotRecord& operator[](SwapSlot slot) { return records_[Index(slot)]; }
  const SlotRecord& operator[](SwapSlot slot) const { return records_[Index(slot)]; }
  // Held while bytes are copied, or compared with a page, at most. No lock is taken under it but those of the zone, the
  // swap areas, the decompressors and this table.
  absl::Mutex& LockOf(SwapSlot slot) const { return locks_[slot.value() / kCluster % locks_.size()].mutex; }

  // Slots are numbered from 0 to capacity() - 1.
  uint32_t capacity() const { return clusters_.capacity() * kCluster; }
  // Of the slots, and of what is known of each cluster.
  TableStatistics slots() const ABSL_LOCKS_EXCLUDED(lock_);
  TableStatistics clusters() const ABSL_LOCKS_EXCLUDED(lock_);
  // What so many slots take.
  static constexpr ByteCount SizeOf(uint64_t slots) {
    return ByteCount::Bytes(slots * sizeof(SlotRecord) + (slots / kCluster + 1) * kClusterSize.in_bytes());
  }
  static constexpr ByteCount kClusterSize = ByteCount::Bytes(80);

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  static uint64_t MostSlots(PageCount limit);
  static uint32_t Index(SwapSlot slot) { return static_cast<uint32_t>(slot.value()); }

  // On the list of those that are free, or of those that are partly so, or on none.
  struct Cluster {
    std::array<uint64_t, kCluster / 64> taken = {};  // a bit a slot
    uint32_t count = 0;                              // of them
    uint32_t next = kNone;
    uint32_t previous = kNone;
  };
  // The first free slot of the cluster from `index` on; kNone if there is none.
  uint32_t FreeFrom(const Cluster& cluster, uint32_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  SwapSlot Take(uint32_t number, uint32_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The list that the cluster belongs on; null: none.
  uint32_t* ListOf(const Cluster& cluster) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Link(uint32_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Unlink(uint32_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // kNone: there is none, and no memory for more.
  uint32_t FreeCluster() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  bool GrowLocked(uint32_t clusters) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  static constexpr uint32_t kGrowBy = 8;  // clusters, if there is memory for so many
  static_assert(sizeof(Cluster) == kClusterSize.in_bytes());

  PoolTable<SlotRecord> records_;
  PoolTable<Cluster> clusters_;  // never more of them than there are records for
  // Clusters side by side are in use together.
  struct alignas(64) Lock {
    absl::Mutex mutex;
  };
  mutable std::array<Lock, 64> locks_;

  mutable absl::Mutex lock_;
  uint64_t requests_ ABSL_GUARDED_BY(lock_) = 0;
  uint64_t failures_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t taken_ ABSL_GUARDED_BY(lock_) = 0;  // slots
  uint32_t free_ ABSL_GUARDED_BY(lock_) = kNone;
  uint32_t partial_ ABSL_GUARDED_BY(lock_) = kNone;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SLOT_TABLE_H_
