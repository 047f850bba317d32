// Which slot may have a content already, by the hash of it: what lets equal pages be stored once (SwapSpace::Store).
//
// What is in it may be wrong: slots are freed and take other pages, and half of the hash is kept only. Who finds a slot
// looks into it.
#ifndef QUIRE_GUEST_SWAP_DUPLICATE_HINTS_H_
#define QUIRE_GUEST_SWAP_DUPLICATE_HINTS_H_

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "base/counters.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/swap/swap_slot.h"

namespace quire {

// 8 bytes an entry, four entries a set, half a cache line. A new hint takes the place of an old one where a set is
// full.
//
//    63                            32 31                             0
//   +--------------------------------+--------------------------------+
//   |               tag              |            slot + 1            |
//   +--------------------------------+--------------------------------+
//
// Thread safe, without a lock: an entry is read and written whole.
class DuplicateHints {
 public:
  static constexpr size_t kWays = 4;
  using Slots = absl::InlinedVector<SwapSlot, kWays>;

  // Two for each page of a pool of this size, which holds two or three times as many stored pages, of which duplicates
  // are a part. Memory is touched as they come.
  static absl::StatusOr<DuplicateHints> Create(PageCount pool) {
    const uint64_t sets = std::max<uint64_t>(pool.in_pages() * 2 / kWays, 1);
    const PageCount size = PageCount::Ceil(ByteCount::Bytes(sets * kWays * sizeof(uint64_t)));
    absl::StatusOr<Mapping> memory =
        Mapping::Map(size.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!memory.ok()) return memory.status();
    return DuplicateHints(*std::move(memory), sets);
  }
  // Nothing has been noted in `other` yet.
  DuplicateHints(DuplicateHints&& other) noexcept : memory_(std::move(other.memory_)), sets_(other.sets_) {}

  // The slots that were noted with this hash, as far as the bits that are kept tell.
  Slots Find(uint64_t hash) const {
    Slots slots;
    uint64_t* const set = SetOf(hash);
    for (size_t way = 0; way < kWays; ++way) {
      const uint64_t entry = Load(set[way]);
      if (entry != 0 && entry >> kTagShift == Tag(hash)) slots.push_back(SwapSlot((entry & kSlotMask) - 1));
    }
    return slots;
  }

  // The content with this hash is in `slot` now: in the place of what was noted with the same one, which has not
  // served.
  void Note(uint64_t hash, SwapSlot slot) {
    uint64_t* const set = SetOf(hash);
    size_t way = (hash >> kTagShift) % kWays;
    for (size_t i = 0; i < kWays; ++i) {
      const uint64_t entry = Load(set[i]);
      if (entry == 0 || entry >> kTagShift == Tag(hash)) {
        if (entry == 0) used_.Add();
        way = i;
        break;
      }
    }
    std::atomic_ref<uint64_t>(set[way]).store(Tag(hash) << kTagShift | (slot.value() + 1), std::memory_order_relaxed);
  }

  // At most: as if each entry had touched a page of memory of its own.
  ByteCount metadata() const {
    return ByteCount::Bytes(std::min(memory_.size().in_bytes(), used_.value() * kPageSize));
  }

 private:
  static constexpr int kTagShift = 32;
  static constexpr uint64_t kSlotMask = (uint64_t{1} << kTagShift) - 1;

  DuplicateHints(Mapping memory, uint64_t sets) : memory_(std::move(memory)), sets_(sets) {}

  // The tag and the set come from different ends of the hash.
  static uint64_t Tag(uint64_t hash) { return hash & kSlotMask; }
  uint64_t* SetOf(uint64_t hash) const {
    const auto set = static_cast<uint64_t>(static_cast<unsigned __int128>(hash) * sets_ >> 64);
    return reinterpret_cast<uint64_t*>(memory_.data()) + set * kWays;
  }
  static uint64_t Load(uint64_t& entry) { return std::atomic_ref<uint64_t>(entry).load(std::memory_order_relaxed); }

  Mapping memory_;
  const uint64_t sets_;
  Counter used_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_DUPLICATE_HINTS_H_
