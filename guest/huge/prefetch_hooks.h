// What a guest's memory asks of the side that brings blocks in ahead of a stream.
#ifndef QUIRE_GUEST_HUGE_PREFETCH_HOOKS_H_
#define QUIRE_GUEST_HUGE_PREFETCH_HOOKS_H_

#include "base/units.h"

namespace quire {

class GuestMemory;

class PrefetchHooks {
 public:
  virtual ~PrefetchHooks() = default;

  // A stream of faults has reached the block before `next`. Never waits; may be forgotten.
  virtual void Request(GuestMemory& guest, BlockNumber next) = 0;

  // `guest` goes away: forgets its blocks, and returns when none is in hand. None is requested any more.
  virtual void Forget(GuestMemory& guest) = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_HUGE_PREFETCH_HOOKS_H_
