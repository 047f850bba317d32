#ifndef QUIRE_GUEST_SWAP_SWAP_SLOT_H_
#define QUIRE_GUEST_SWAP_SWAP_SLOT_H_

#include "base/units.h"

namespace quire {

// Names one stored page. 32 bits are enough for 16 TiB of swapped memory.
struct SwapSlotTag {
  static constexpr const char* kName = "swap slot";
};
using SwapSlot = Index<SwapSlotTag>;

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SWAP_SLOT_H_
