// How much of the pool and of the swap store one guest may have.
#ifndef QUIRE_GUEST_GUEST_LIMITS_H_
#define QUIRE_GUEST_GUEST_LIMITS_H_

#include <string>

#include "base/units.h"

namespace quire {

// Zero: no limit of its own.
struct GuestLimits {
  PageCount frames = {};   // that it holds in the pool; at least kLeast
  PageCount swapped = {};  // pages of it in the swap store
  // What the user can do about limits that are too low, to end the sentence that says so.
  std::string advice = "raise the guest's limit";

  // A block that comes in whole, and another that goes out for it.
  static constexpr PageCount kLeast = PageCount::OfBlocks(2);
};

}  // namespace quire

#endif  // QUIRE_GUEST_GUEST_LIMITS_H_
