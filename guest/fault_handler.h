// What a secondary MMU sees of a guest's memory: somebody who resolves its faults.
//
// GuestMemory is the one that matters; tests of an MMU use a small map of their own.
#ifndef QUIRE_GUEST_FAULT_HANDLER_H_
#define QUIRE_GUEST_FAULT_HANDLER_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "notifiers/notifier_chain.h"

namespace quire {

// The answer to a fault: these pages may be mapped, to these frames, with this protection, as long as no invalidation
// of the range has begun since the fault took its snapshot (see InvalidationTracker).
struct Resolution {
  GfnRange range;     // contains the page that was asked for; lies within one block
  FrameNumber frame;  // behind range.begin(); the pages after it lie in the frames after it
  Protection protection = Protection::kReadWrite;

  FrameNumber FrameOf(Gfn gfn) const { return frame + (gfn - range.begin()); }
};

// What a window is to show in the place of the guest's own frames before the guest has any there: `frame` for the
// first page, and those after it for the others. Whole blocks, but for the end of the guest's memory. Such a page is
// resolved, read-only, to the frame that is shown, or else to the guest's own.
struct WindowView {
  GfnRange range;
  FrameNumber frame;
};

// Whether a caller may be made to wait for reclaim or I/O. A thread that serves other faults too must not.
enum class Wait : uint8_t { kMay, kMustNot };

class FaultHandler {
 public:
  virtual ~FaultHandler() = default;

  // Makes page `gfn` resident and returns what may be mapped for it. Thread safe. The caller holds no lock that a
  // subscriber of notifiers() takes, and counts as outside the guest.
  // Errors: Unavailable     it would take waiting, and `wait` is kMustNot: ask again with kMay
  //         OutOfRange      the guest has no such page
  //         ResourceExhausted  out of memory; the guest has been or is being stopped
  //         DataLoss        the page's content is lost; the guest has been stopped, unless it is told of such pages
  //         Cancelled       the guest has been stopped
  virtual absl::StatusOr<Resolution> Resolve(Gfn gfn, Access access, Wait wait) = 0;

  // Where the manager sees a frame. Valid for as long as the pool lives; whether its bytes belong to the guest is what
  // resolution and invalidation are about. The frames of one block (512, aligned) lie one after the other.
  virtual std::byte* HostAddress(FrameNumber frame) = 0;

  // Where to subscribe to changes of this guest's translations.
  virtual NotifierChain& notifiers() = 0;

  // The size of the guest's memory: its pages are gfn 0 to size - 1.
  virtual PageCount size() const = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FAULT_HANDLER_H_
