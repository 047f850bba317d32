// Where a stored page's bytes lie in the pool, as its record names it: slab, and object << 32.
#ifndef QUIRE_GUEST_SWAP_SLAB_PLACE_H_
#define QUIRE_GUEST_SWAP_SLAB_PLACE_H_

#include <cstdint>

#include "guest/swap/slab_table.h"
#include "guest/swap/slot_record.h"

namespace quire {

inline SlabObject ObjectOf(const SlotRecord& record) {
  return {.slab = static_cast<uint32_t>(record.place()), .index = static_cast<uint16_t>(record.place() >> 32)};
}

inline uint64_t PlaceOf(SlabObject object) { return object.slab | uint64_t{object.index} << 32; }

static_assert(uint64_t{Slab::kMaxObjects} << 32 <= uint64_t{1} << SlotRecord::kPlaceBits);

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SLAB_PLACE_H_
