// Pages that are lost because the memory that held them has failed.
//
// As mm/memory-failure.c does for memory that nobody is using just now: the page loses its translations, and whoever
// touches it next is told. Nobody is, if nobody does.
#include <optional>

#include "guest/guest_memory.h"

namespace quire {

// A copy that was kept when the page came in is of no use: nobody knows whether the page was written to since.
GuestMemory::Loss GuestMemory::PoisonPage(Gfn gfn, FrameNumber frame) {
  if (gfn >= Gfn(0) + size()) return Loss::kNotItsFrame;
  Block& block = map_->block(BlockOf(gfn));
  absl::MutexLock lock(&block.lock);
  const PageEntry entry = map_->Get(block, gfn);
  if (!entry.has_frame() || entry.frame() != frame) return Loss::kNotItsFrame;
  if (entry.state() == PageState::kInTransit) return Loss::kBusy;
  {
    const std::optional<ScopedInvalidation> invalidation = Unmap(MappedPart(block, gfn));
    ForgetWired(block, gfn);
    ReplacePage(block, gfn, PageEntry::Poisoned());
  }
  block.whole = false;
  frames_->Retire(gfn, frame);
  return Loss::kLost;
}

bool GuestMemory::PoisonShared(Gfn gfn, const SharedFrames::Hold& frame) {
  Block& block = map_->block(BlockOf(gfn));
  absl::MutexLock lock(&block.lock);
  if (!Shares(block, gfn, frame.frame())) return false;
  const PageEntry entry = map_->Get(block, gfn);
  {
    const std::optional<ScopedInvalidation> invalidation = Unmap(GfnRange(gfn, kOnePage));
    map_->Set(block, gfn, PageEntry::Poisoned());
  }
  LeaveShared(entry);
  return true;
}

}  // namespace quire
