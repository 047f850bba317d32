// What explanations are made of (guest/explain.h).
#include "base/racy_reads.h"
#include "guest/guest_memory.h"

namespace quire {

// Whether the page is zero is read as SamplePages reads: a hint.
GuestMemory::PageFacts GuestMemory::Look(Gfn gfn) {
  Block& block = map_->block(BlockOf(gfn));
  absl::MutexLock lock(&block.lock);
  PageFacts facts{.entry = map_->Get(block, gfn),
                  .count = block.count,
                  .whole = block.whole,
                  .may_be_whole = MayBeWhole(block),
                  .advised = block.advised,
                  .why_not_whole = WhyNotWhole(block)};
  if (facts.entry.has_frame()) {
    const RacyReads hint;
    facts.zero = SwapSpace::IsZero(FrameAddress(block, facts.entry.frame()));
  }
  if (facts.why_not_whole.has_value()) return facts;
  if (!frames_->reservation().empty() && !services_.pool.reservations_have_blocks()) {
    facts.why_not_whole = BlockRefusal::kHost;
  } else if (!HasRoomFor(kOneBlock)) {
    facts.why_not_whole = BlockRefusal::kLimit;
  } else if (!services_.pool.HasRoomForBlock()) {
    facts.why_not_whole = BlockRefusal::kMemory;
  } else if (frames_->reservation().empty() && services_.pool.arena().counts().free_in_whole_blocks == PageCount() &&
             services_.pool.budget().limit() - services_.pool.budget().charged() < kOneBlock) {
    facts.why_not_whole = BlockRefusal::kScattered;
  }
  return facts;
}

}  // namespace quire
