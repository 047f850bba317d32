// Who may map the pages of a template: the reverse map of a family.
//
// A template is the memory of a guest that was frozen; nobody writes it any more, and clones read its pages until they
// write their own. So a clone's MMU is one more user of the template's translations, and is told of their end through
// the template's notifier chain, like any secondary MMU. This subscriber finds whom to tell: each page of the template
// has the chain of the clones that were given its frame since it was invalidated last.
//
//   template's page changes -> its notifier chain -> Inheritors -> the notifier chains of those clones -> their MMUs
//
// It costs time in proportion to the clones that map the page, however large the family is; a page that a clone has for
// itself is none of the template's, and costs nothing here (Linux came to the same by giving each child an anon_vma of
// its own: mm/rmap.c, anon_vma_fork). A clone of a clone is registered with the template that has the page.
#ifndef QUIRE_GUEST_CLONE_INHERITORS_H_
#define QUIRE_GUEST_CLONE_INHERITORS_H_

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/units.h"
#include "guest/frames/frame_table.h"
#include "guest/merge/share_link.h"
#include "guest/merge/sharer_chains.h"
#include "notifiers/mmu_notifier.h"
#include "notifiers/notifier_chain.h"

namespace quire {

// Thread safe. Add and Remove are called, and the template's pages invalidated, under the lock of the template's block:
// so a clone that has removed the last of its pages is not told of anything any more, and may go.
class Inheritors final : public MmuNotifier {
 public:
  // The clone's MMU is going to map the template's page `gfn`. `link` is what Add returned for the page before, if it
  // was: it may still be good.
  ShareLink Add(GuestId clone, NotifierChain& chain, Gfn gfn, std::optional<ShareLink> link) ABSL_LOCKS_EXCLUDED(lock_);
  // It does not any more. `link` may be out of date: the page was invalidated since.
  void Remove(GuestId clone, Gfn gfn, ShareLink link) ABSL_LOCKS_EXCLUDED(lock_);

  // Clones that may map a page.
  size_t CountOf(Gfn gfn) const ABSL_LOCKS_EXCLUDED(lock_);
  ByteCount metadata() const ABSL_LOCKS_EXCLUDED(lock_);

  // MmuNotifier, of the template. Each clone is invalidated in full before the start returns: it cannot come back
  // before the template's block is unlocked.
  absl::Status InvalidateRangeStart(const Invalidation& invalidation) override ABSL_LOCKS_EXCLUDED(lock_);
  void InvalidateRangeEnd(const Invalidation&) override {}
  bool ClearFlushYoung(GfnRange range) override ABSL_LOCKS_EXCLUDED(lock_);
  bool ClearYoung(GfnRange range) override ABSL_LOCKS_EXCLUDED(lock_);
  bool TestYoung(Gfn gfn) override ABSL_LOCKS_EXCLUDED(lock_);

 private:
  using Chains = std::array<SharerChains::Chain, kPagesPerBlock>;
  struct Clone {
    NotifierChain* chain = nullptr;
    PageCount pages;
  };
  // A page that a clone may map.
  struct Mapped {
    GuestId clone;
    NotifierChain* chain;
    Gfn gfn;
  };

  SharerChains::Chain& ChainOf(Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Calls visit(SharerChains::Chain&) for each page of the range, but for blocks of which nobody ever mapped one.
  template <class Visit>
  void ForEachChain(GfnRange range, Visit visit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Nobody is registered for the pages any more; who was, by clone and page.
  std::vector<Mapped> Detach(GfnRange range) ABSL_LOCKS_EXCLUDED(lock_);
  void Forget(GuestId clone) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  template <class Ask>
  bool AnySays(GfnRange range, Ask ask) ABSL_LOCKS_EXCLUDED(lock_);

  mutable absl::Mutex lock_;  // also held while clones are asked what is young
  SharerChains links_ ABSL_GUARDED_BY(lock_);
  absl::flat_hash_map<BlockNumber, std::unique_ptr<Chains>> blocks_ ABSL_GUARDED_BY(lock_);
  absl::flat_hash_map<GuestId, Clone> clones_ ABSL_GUARDED_BY(lock_);  // that may map something
};

}  // namespace quire

#endif  // QUIRE_GUEST_CLONE_INHERITORS_H_
