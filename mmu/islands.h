// Islands: pages of a window that show a frame which is not the guest's own, read-only, so that equal pages of several
// guests can be one frame of the pool.
//
// Everywhere else a window is one shared mapping of the guest's reservation, its home. An island is a private mapping
// of the other frame over it:
//
//   window    |      home       |island|      home       |   island    |  home   |
//                 registered:      registered: touches and writes
//                 touches          private, all its pages mapped and protected against writes
//   file      |   reservation   |      |   reservation   |             |         |
//                                  |                            |
//                               frame f                   frames g, g + 1
//
// A write to it is a fault that userfaultfd reports. It must never get further: the kernel would copy the page for
// itself, outside the pool, where nobody finds it. So an island is made in an order in which no write gets through
// (docs/locking.md), and it is never unprotected; to let the guest write, its home is put back.
//
// An island is registered for touches too. If the host kernel unmaps a page of it (to swap it, or to split a 2 MiB page
// of the file), a touch is reported before the kernel would copy or map anything, and the island is made again. For the
// same reason MADV_DONTNEED alone makes sure that nobody sees the old frame any more, when there is no memory to put
// the home back.
//
// A clone's window shows a template's frames in whole blocks before the clone has any there: a *view*, mapped and
// registered as an island is, but for all of the block at once and with no page of it mapped. To show a page then is to
// map it, protected; to take it away, MADV_DONTNEED. The first page of the clone's own in a block puts the block's home
// back for good.
//
// Each island may cost two mappings of the process, of which the kernel allows 65530 as it comes: who decides to share
// a page charges it to an IslandBudget first (guest/island_budget.h). Should they run out all the same, no island is
// made, and those that are there can be unmade: whole mappings of neighbours are replaced together then, and a spare
// one is given up.
#ifndef QUIRE_MMU_ISLANDS_H_
#define QUIRE_MMU_ISLANDS_H_

#include <bitset>
#include <map>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/fault_handler.h"
#include "mmu/userfaultfd.h"

namespace quire {

// The islands of one window. Not thread safe: the window's lock guards it.
class Islands {
 public:
  // None yet. `window` is a shared mapping of the frames from `home` on of the file `pool_fd`, registered for touches.
  // What is given outlives the islands.
  Islands(HvaRange window, int pool_fd, FrameNumber home, Userfaultfd& uffd)
      : window_(window), pool_fd_(pool_fd), home_(home), uffd_(uffd) {}
  Islands(const Islands&) = delete;
  Islands& operator=(const Islands&) = delete;

  // Has the window show other frames than its home in these blocks, from now until LeaveView. Nobody has touched the
  // window yet. On a host that cannot (before Linux 6.4), the frames are known, and making an island of them is
  // refused. Errors: ResourceExhausted.
  absl::Status Show(const WindowView& view);
  // Puts the home back in the blocks of the range that have a view, empty of mapped pages. While it works, an access
  // there is an error. Returns whether there was one. ResourceExhausted: it is still there.
  absl::StatusOr<bool> LeaveView(GfnRange range);

  // Makes `range` an island that shows the frames from `frame` on, which are there and stay so until it is unmade.
  // Whatever the window shows there now nobody may use any more; frames that a view shows there are just mapped. Wakes
  // nobody. While it works, a write to the range is an error (EFAULT, or a signal).
  // ResourceExhausted: the process has no mapping left, or the host refuses for another reason. The range is home then,
  // or counted as an island still and out of everybody's reach.
  absl::Status Make(GfnRange range, FrameNumber frame);

  // Puts the home back between the first and the last island of `range`, empty of mapped pages, and perhaps on both
  // sides of it. While it works, an access there is an error. It unmaps, and so flushes, what was there: on return
  // nobody uses the old frames.
  // ResourceExhausted: the islands of the range are still there. MADV_DONTNEED takes their pages away.
  absl::Status Unmake(GfnRange range);

  // From the first to the last page of `range` that is an island; empty when there is none.
  GfnRange HullIn(GfnRange range) const;
  // Pages.
  PageCount size() const { return size_; }

  // The window has been put out of reach for good: what is made or unmade from now on is out of reach too.
  void Close() { closed_ = true; }

 private:
  absl::Status Finish(HvaRange place);
  bool Views(GfnRange range, FrameNumber frame) const;
  GfnRange PagesOfBlock(BlockNumber block) const;
  absl::Status KeepSpare();
  absl::Status PutHome(GfnRange range);
  GfnRange Around(GfnRange range) const;
  bool Contains(Gfn gfn) const;
  void Mark(GfnRange range, bool island);
  HvaRange Place(GfnRange range) const;

  const HvaRange window_;
  const int pool_fd_;
  const FrameNumber home_;
  Userfaultfd& uffd_;
  bool closed_ = false;
  Mapping spare_;  // to be given up for an island that cannot be unmade otherwise; there when one is made
  PageCount size_;
  // The frame that a view shows for the first page of a block; empty when there never was a view.
  std::vector<std::optional<FrameNumber>> views_;
  // Blocks that have any.
  std::map<BlockNumber, std::bitset<kPagesPerBlock>> blocks_;
};

}  // namespace quire

#endif  // QUIRE_MMU_ISLANDS_H_
