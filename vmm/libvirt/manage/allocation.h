// Memory divided by shares, with a tax on what is idle.
//
// Source: C. Waldspurger, Memory Resource Management in VMware ESX Server, OSDI 2002, section 5. There the client with
// the least shares for a page, rho = S / (P * (f + k * (1 - f))) with k = 1 / (1 - tax), gives a page up, again and
// again. Where that ends all have the same rho, but for those that are at a bound of theirs: this is what is computed
// here, at once. So the result depends on what is claimed alone, and not on how things were before.
#ifndef QUIRE_VMM_LIBVIRT_MANAGE_ALLOCATION_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_ALLOCATION_H_

#include <vector>

#include "absl/types/span.h"
#include "base/units.h"

namespace quire {

struct Claim {
  double shares = 1;      // S, more than 0
  ByteCount active = {};  // f * P: what is used
  // Its bounds, the first not more than the second.
  ByteCount least = {};
  ByteCount most = {};
};

// What each claim gets, in their order: within its bounds, and `memory` in all, as far as the bounds permit that (and
// but for some bytes). `tax` is from 0 to less than 1.
std::vector<ByteCount> Allocate(ByteCount memory, double tax, absl::Span<const Claim> claims);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_ALLOCATION_H_
