#include "guest/swap/slot_table.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace quire {

SlotTable::SlotTable(Pool& pool)
    : records_(pool, MostSlots(pool.budget().limit())), clusters_(pool, MostSlots(pool.budget().limit()) / kCluster) {}

// More records than fill the whole limit could not be charged. Half of what 32 bits can name, so that no sum overflows.
uint64_t SlotTable::MostSlots(PageCount limit) {
  return std::min(limit.in_bytes() / sizeof(SlotRecord), uint64_t{1} << 31) / kCluster * kCluster;
}

std::optional<SwapSlot> SlotTable::Allocate(Cursor& cursor) {
  absl::MutexLock lock(&lock_);
  ++requests_;
  uint32_t number = cursor.next / kCluster;
  uint32_t index = kNone;
  if (cursor.next != kNone && cursor.next < capacity()) index = FreeFrom(clusters_[number], cursor.next % kCluster);
  if (index == kNone) {
    number = partial_ != kNone ? partial_ : FreeCluster();
    if (number == kNone) {
      ++failures_;
      return std::nullopt;
    }
    index = FreeFrom(clusters_[number], 0);
  }
  cursor.next = index + 1 < kCluster ? number * kCluster + index + 1 : kNone;
  return Take(number, index);
}

void SlotTable::BeginCluster(Cursor& cursor) {
  absl::MutexLock lock(&lock_);
  if (free_ == kNone && capacity() - taken_ >= capacity() / 8 && capacity() > 0) return;
  if (const uint32_t cluster = FreeCluster(); cluster != kNone) cursor.next = cluster * kCluster;
}

void SlotTable::Free(SwapSlot slot) {
  absl::MutexLock lock(&lock_);
  const uint32_t number = Index(slot) / kCluster;
  Cluster& cluster = clusters_[number];
  uint64_t& word = cluster.taken[Index(slot) % kCluster / 64];
  const uint64_t bit = uint64_t{1} << Index(slot) % 64;
  QUIRE_CHECK((word & bit) != 0);
  Unlink(number);
  word &= ~bit;
  --cluster.count;
  --taken_;
  Link(number);
}

uint32_t SlotTable::FreeFrom(const Cluster& cluster, uint32_t index) const {
  for (; index < kCluster; index = index / 64 * 64 + 64) {
    const uint64_t free = ~cluster.taken[index / 64] >> index % 64;
    if (free != 0) return index + static_cast<uint32_t>(std::countr_zero(free));
  }
  return kNone;
}

SwapSlot SlotTable::Take(uint32_t number, uint32_t index) {
  Unlink(number);
  clusters_[number].taken[index / 64] |= uint64_t{1} << index % 64;
  ++clusters_[number].count;
  ++taken_;
  Link(number);
  return SwapSlot(number * kCluster + index);
}

uint32_t* SlotTable::ListOf(const Cluster& cluster) {
  if (cluster.count == 0) return &free_;
  return cluster.count == kCluster ? nullptr : &partial_;
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
  if (free_ == kNone && !GrowLocked(kGrowBy)) GrowLocked(1);
  return free_;
}

bool SlotTable::GrowLocked(uint32_t clusters) {
  const uint32_t first = clusters_.capacity();
  const uint32_t records = (first + clusters) * kCluster;
  // There are so many already if only the clusters failed the last time.
  if (records_.capacity() < records && !records_.Grow(records - records_.capacity())) return false;
  if (!clusters_.Grow(clusters)) return false;
  for (uint32_t number = clusters_.capacity(); number-- > first;) Link(number);
  return true;
}

TableStatistics SlotTable::slots() const {
  absl::MutexLock lock(&lock_);
  return {.used = taken_,
          .free = capacity() - taken_,
          .requests = requests_,
          .failures = failures_,
          .frames = records_.frames()};
}

TableStatistics SlotTable::clusters() const {
  absl::MutexLock lock(&lock_);
  uint32_t free = 0;
  for (uint32_t number = free_; number != kNone; number = clusters_[number].next) ++free;
  const uint32_t all = clusters_.capacity();
  return {.used = all - free, .free = free, .requests = all, .failures = 0, .frames = clusters_.frames()};
}

}  // namespace quire
