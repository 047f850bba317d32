#include "guest/swap/slot_table.h"

#include "base/check.h"

namespace quire {

SwapSlot SlotTable::Allocate(Cursor& cursor) {
  absl::MutexLock lock(&lock_);
  uint32_t number = cursor.next / kCluster;
  uint32_t index = kNone;
  if (cursor.next != kNone && cursor.next < capacity()) index = FreeFrom(clusters_[number], cursor.next % kCluster);
  if (index == kNone) {
    number = partial_ != kNone ? partial_ : FreeCluster();
    index = FreeFrom(clusters_[number], 0);
  }
  cursor.next = index + 1 < kCluster ? number * kCluster + index + 1 : kNone;
  return Take(number, index);
}

void SlotTable::BeginCluster(Cursor& cursor) {
  absl::MutexLock lock(&lock_);
  cursor.next = FreeCluster() * kCluster;
}

void SlotTable::Free(SwapSlot slot) {
  absl::MutexLock lock(&lock_);
  const uint32_t number = Index(slot) / kCluster;
  Cluster& cluster = clusters_[number];
  QUIRE_CHECK(cluster.taken[Index(slot) % kCluster]);
  Unlink(number);
  cluster.taken.reset(Index(slot) % kCluster);
  Link(number);
}

uint32_t SlotTable::FreeFrom(const Cluster& cluster, uint32_t index) const {
  for (; index < kCluster; ++index) {
    if (!cluster.taken[index]) return index;
  }
  return kNone;
}

SwapSlot SlotTable::Take(uint32_t number, uint32_t index) {
  Unlink(number);
  clusters_[number].taken.set(index);
  Link(number);
  return SwapSlot(number * kCluster + index);
}

uint32_t* SlotTable::ListOf(const Cluster& cluster) {
  if (cluster.taken.none()) return &free_;
  return cluster.taken.all() ? nullptr : &partial_;
}

void SlotTable::Link(uint32_t number) {
  Cluster& cluster = clusters_[number];
  uint32_t* const list = ListOf(cluster);
  if (list == nullptr) return;
  cluster.next = *list;
  cluster.previous = kNone;
  if (cluster.next != kNone) clusters_[cluster.next].previous = number;
  *list = number;
}

void SlotTable::Unlink(uint32_t number) {
  Cluster& cluster = clusters_[number];
  uint32_t* const list = ListOf(cluster);
  if (list == nullptr) return;
  (cluster.previous == kNone ? *list : clusters_[cluster.previous].next) = cluster.next;
  if (cluster.next != kNone) clusters_[cluster.next].previous = cluster.previous;
}

// The table grows when there is none.
uint32_t SlotTable::FreeCluster() {
  if (free_ == kNone) {
    const uint32_t first = clusters_.Grow();
    QUIRE_CHECK(records_.Grow() == first * kCluster);
    for (uint32_t i = clusters_.chunk_records(); i-- > 0;) Link(first + i);
  }
  return free_;
}

}  // namespace quire
