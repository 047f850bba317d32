// Equal pages are stored once, whoever they belong to: before a page is compressed, its hash is looked up among those
// of what is stored, and if a slot in the pool has the same bytes, the page takes one more reference to it.
// Decompressing those takes a fraction of the time of compressing the page.
//
// The slot's lock is held from the look at its record to the new reference, so nobody frees, moves, writes or replaces
// its bytes in between, and its content is compared, not its hash. What is being written to an area is left alone, and
// so is what lies in one, and a copy that was kept: it is another page's, which may drop it.
#include <cstring>
#include <optional>

#include "base/check.h"
#include "guest/swap/duplicate_hints.h"
#include "guest/swap/swap_space.h"

namespace quire {

std::optional<SwapSlot> SwapSpace::ShareEqual(const std::byte* page, uint64_t hash) {
  for (const SwapSlot slot : hints_->Find(hash)) {
    // A slot that was freed is a slot still: tables do not shrink.
    absl::MutexLock lock(&slots_.LockOf(slot));
    SlotRecord& record = slots_[slot];
    if (record.kind() != SlotKind::kCompressed || record.refs() == 0 || record.hash() != hash) continue;
    if (!HasContent(record, page) || !AddReference(record)) continue;
    record.set_age(generation_.load(std::memory_order_relaxed));
    deduplicated_.Add();
    return slot;
  }
  return std::nullopt;
}

// What is damaged is left to its owner to find.
bool SwapSpace::HasContent(const SlotRecord& record, const std::byte* page) const {
  std::byte bytes[SlabZone::kMaxObject];
  std::byte stored[kPageSize];
  return Decompress(record, CopyBytes(record, bytes), stored) && std::memcmp(stored, page, kPageSize) == 0;
}

bool SwapSpace::AddReference(SlotRecord& record) {
  if (record.refs() == UINT16_MAX) return false;
  record.set_refs(static_cast<uint16_t>(record.refs() + 1));
  stored_.Add();
  shared_.Add();
  return true;
}

bool SwapSpace::Share(SwapSlot slot) {
  absl::MutexLock lock(&slots_.LockOf(slot));
  QUIRE_CHECK(slots_[slot].refs() > 0);
  return AddReference(slots_[slot]);
}

}  // namespace quire
