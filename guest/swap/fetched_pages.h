// What was read from swap areas: the stored bytes of some slots, in ordinary memory.
#ifndef QUIRE_GUEST_SWAP_FETCHED_PAGES_H_
#define QUIRE_GUEST_SWAP_FETCHED_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/check.h"
#include "base/units.h"
#include "guest/swap/slot_record.h"
#include "guest/swap/swap_slot.h"

namespace quire {

// Memory that transfers may go to directly: whole pages, aligned to a page. Null for none.
struct FreeAligned {
  void operator()(std::byte* bytes) const { std::free(bytes); }
};
using AlignedBytes = std::unique_ptr<std::byte[], FreeAligned>;
inline AlignedBytes AllocateAligned(size_t bytes) {
  if (bytes == 0) return nullptr;
  std::byte* const memory = static_cast<std::byte*>(std::aligned_alloc(kPageSize, bytes));
  QUIRE_CHECK(memory != nullptr);
  return AlignedBytes(memory);
}

// Move-only. A result of SwapSpace::Fetch; empty by default.
class FetchedPages {
 public:
  // The bytes that were read for a slot whose record says this now; null: none, or it was another record's.
  const std::byte* Find(SwapSlot slot, const SlotRecord& record) const {
    const auto piece = pieces_.find(static_cast<uint32_t>(slot.value()));
    if (piece == pieces_.end()) return nullptr;
    const bool same = record.kind() == SlotKind::kBacked && piece->second.place == record.place() &&
                      piece->second.area == record.area() && piece->second.hash == record.hash() &&
                      piece->second.codec == record.codec();
    return same ? piece->second.bytes : nullptr;
  }
  size_t size() const { return pieces_.size(); }
  // Takes over what the other one has; it is newer.
  void Merge(FetchedPages other) {
    for (auto& [slot, piece] : other.pieces_) pieces_[slot] = piece;
    for (AlignedBytes& part : other.parts_) parts_.push_back(std::move(part));
  }

 private:
  friend class SwapSpace;
  struct Piece {
    uint64_t place;
    uint64_t hash;  // slot and place may be another page's by now
    uint8_t area;
    SlotCodec codec;         // or the same content's, stored anew
    const std::byte* bytes;  // in a part
  };
  std::vector<AlignedBytes> parts_;  // one for each area
  absl::flat_hash_map<uint32_t, Piece> pieces_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_FETCHED_PAGES_H_
