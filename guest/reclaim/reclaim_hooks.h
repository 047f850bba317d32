// What a guest's memory asks of the side that makes room. GuestMemory knows no more of reclaim than this.
#ifndef QUIRE_GUEST_RECLAIM_RECLAIM_HOOKS_H_
#define QUIRE_GUEST_RECLAIM_RECLAIM_HOOKS_H_

#include "absl/status/status.h"
#include "base/units.h"

namespace quire {

struct Block;
class GuestMemory;

class ReclaimHooks {
 public:
  virtual ~ReclaimHooks() = default;

  // `block` has got its first frame. Called under the block's lock.
  virtual void Enqueue(Block& block) = 0;

  // Reclaims on behalf of a fault of `guest`, which wants so many pages, until it is worth trying again to allocate.
  // May wait; the caller holds no lock. Error: `guest` has been stopped, with the reason.
  virtual absl::Status MakeRoom(GuestMemory& guest, PageCount wanted) = 0;

  // From now on ReclaimFrom can be called for `guest`. May be called for it again.
  virtual void Track(GuestMemory& guest) = 0;

  // Takes out memory of `guest` alone, which is tracked, on behalf of a fault that wants so many pages and would go
  // beyond it. May wait; the caller holds no lock. False: nothing of it can be stored, or it has been stopped.
  virtual bool ReclaimFrom(GuestMemory& guest, PageCount wanted) = 0;

  // `guest` goes away: forgets its blocks, and returns when none is in hand. They are not enqueued any more.
  virtual void Forget(GuestMemory& guest) = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_RECLAIM_RECLAIM_HOOKS_H_
