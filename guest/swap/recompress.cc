// What stays cold in the pool is compressed once more, with zstd (Linux's zram has the like, zram recompression).
//
// It is done to a copy, outside of all locks, and to a page that anybody may load, free, write out or move meanwhile.
// So the record is looked at again when it is done, as after a transfer:
//
//   Recompress                                    Free, Load, WriteOut, CompactZone
//   -----------------------------------------     -----------------------------------------
//   LockOf(slot): old, in the pool, and not
//   tried: copy; unlock
//   decompress, verify, compress, write to a      anything
//   new object that no record names
//   LockOf(slot): in the pool, with the same
//   hash: the new object, its length and
//   codec; frees the old one; unlock
//   (or not: frees the new one)
//
// A record in the pool with the same hash of its content has that content, wherever its bytes have been moved to.
#include <algorithm>
#include <memory>
#include <optional>

#include "absl/container/inlined_vector.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "guest/swap/slab_place.h"
#include "guest/swap/swap_space.h"

namespace quire {
namespace {

// A load costs some 6 us more than with LZ4. An eighth of the bytes is worth that to a page that is hardly ever loaded;
// less than the next smaller size of objects would win nothing.
size_t MostWorthIt(size_t length) { return length - std::max<size_t>(length / 8, SlabZone::kStep); }

bool MayBeSmaller(const SlotRecord& record) {
  return record.kind() == SlotKind::kCompressed && record.refs() > 0 && record.codec() == SlotCodec::kLz4 &&
         !record.tried() && record.length() > SlabZone::kStep;
}

}  // namespace

// Ages count modulo 256. A page of more generations passes for a young one for a while, and is found again later.
void SwapSpace::EndGeneration() {
  const uint8_t ended = generation_.fetch_add(1, std::memory_order_relaxed);
  generation_ended_at_[ended].store(RealClock().Now().in_nanoseconds(), std::memory_order_relaxed);
  if (generation_ended_) generation_ended_();
}

std::optional<uint8_t> SwapSpace::ColdAge() const {
  const int64_t now = RealClock().Now().in_nanoseconds();
  const uint8_t generation = generation_.load(std::memory_order_relaxed);
  for (int age = kOldest; age <= UINT8_MAX; ++age) {
    const int64_t ended = generation_ended_at_[static_cast<uint8_t>(generation - age)].load(std::memory_order_relaxed);
    if (ended == 0) return std::nullopt;
    if (absl::Nanoseconds(now - ended) >= cold_after_) return static_cast<uint8_t>(age);
  }
  return std::nullopt;
}

SwapSpace::Recompressed SwapSpace::Recompress(PageCount most, Age age) {
  absl::MutexLock recompressing(&recompress_lock_);
  const std::optional<uint8_t> least_age = age == Age::kCold ? ColdAge() : uint8_t{0};
  if (!least_age.has_value()) return {};
  if (zstd_ == nullptr) zstd_ = std::make_unique<ZstdCompressor>();
  Recompressed sum;
  const uint32_t clusters = slots_.capacity() / SlotTable::kCluster;
  for (uint32_t looked = 0; looked < clusters; ++looked) {
    const SwapSlot first(uint64_t{recompress_hand_ % clusters} * SlotTable::kCluster);
    if (!RecompressCluster(first, *least_age, most, sum)) break;
    ++recompress_hand_;
  }
  NoticeFreed(static_cast<uint32_t>(sum.smaller.in_pages()));
  return sum;
}

// False: so many have been tried, or there is no room.
bool SwapSpace::RecompressCluster(SwapSlot first, uint8_t least_age, PageCount most, Recompressed& sum) {
  absl::InlinedVector<SwapSlot, SlotTable::kCluster> old;
  {
    absl::MutexLock lock(&slots_.LockOf(first));
    const uint8_t generation = generation_.load(std::memory_order_relaxed);
    for (uint64_t i = 0; i < SlotTable::kCluster; ++i) {
      const SwapSlot slot(first.value() + i);
      const uint8_t age = static_cast<uint8_t>(generation - slots_[slot].age());
      if (age >= least_age && MayBeSmaller(slots_[slot])) old.push_back(slot);
    }
  }
  for (const SwapSlot slot : old) {
    if (sum.tried >= most || !RecompressPage(slot, sum)) return false;
  }
  return true;
}

// False: there is no room for what it would be.
bool SwapSpace::RecompressPage(SwapSlot slot, Recompressed& sum) {
  std::byte bytes[SlabZone::kMaxObject];
  SlotRecord record;
  {
    absl::MutexLock lock(&slots_.LockOf(slot));
    record = slots_[slot];
    if (!MayBeSmaller(record)) return true;
    CopyBytes(record, bytes);
  }
  sum.tried += kOnePage;
  std::byte page[kPageSize];
  absl::Span<const std::byte> smaller;
  // What is damaged is left to its owner to find.
  if (WhatIsWrong(record, bytes, page).empty()) smaller = zstd_->Compress(page, MostWorthIt(record.length()));
  if (smaller.empty()) {
    absl::MutexLock lock(&slots_.LockOf(slot));
    if (IsStill(slot, record)) slots_[slot].set_tried(true);
    return true;
  }
  const absl::StatusOr<SlabObject> object = zone_.Allocate(static_cast<uint32_t>(smaller.size()));
  if (!object.ok()) return false;
  zone_.Write(*object, static_cast<uint32_t>(slot.value()), smaller);
  if (!Replace(slot, record, *object, smaller.size())) return true;
  sum.smaller += kOnePage;
  sum.saved += ByteCount::Bytes(record.length() - smaller.size());
  return true;
}

// Has the slot have these bytes in place of those that it has, or frees them.
bool SwapSpace::Replace(SwapSlot slot, const SlotRecord& before, SlabObject object, size_t length) {
  absl::MutexLock lock(&slots_.LockOf(slot));
  SlotRecord& record = slots_[slot];
  if (!IsStill(slot, before)) {
    zone_.Free(object);
    return false;
  }
  zone_.Free(ObjectOf(record));
  record.set_place(PlaceOf(object));
  record.set_length(static_cast<uint32_t>(length));
  record.set_codec(SlotCodec::kZstd);
  stored_bytes_.Subtract(before.length() - length);
  recompressed_.Add();
  recompression_saved_.Add(before.length() - length);
  return true;
}

bool SwapSpace::IsStill(SwapSlot slot, const SlotRecord& before) const {
  const SlotRecord& record = slots_[slot];
  return MayBeSmaller(record) && record.hash() == before.hash() && record.length() == before.length();
}

}  // namespace quire
