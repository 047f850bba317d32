#include "guest/merge/reverse_map.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/status/statusor.h"

namespace quire {

bool ReverseMap::TestAndClearReferenced(const SharedFrames::Hold& frame) {
  bool referenced = shared_.WasUsed(frame);
  for (const Sharer& sharer : shared_.SharersOf(frame)) {
    GuestMemory* const guest = find_(sharer.guest);
    if (guest != nullptr) referenced |= guest->notifiers().ClearFlushYoung(GfnRange(sharer.gfn, kOnePage));
  }
  return referenced;
}

void ReverseMap::UnmapAll(const SharedFrames::Hold& frame) {
  for (const Sharer& sharer : shared_.SharersOf(frame)) {
    if (GuestMemory* const guest = find_(sharer.guest)) guest->UnmapShared(sharer.gfn, frame);
  }
}

ReverseMap::Outcome ReverseMap::Evict(const SharedFrames::Hold& frame, CompressionScratch& scratch) {
  // What does not compress is written to an area soon, if there is one: the writer looks for as long as the store holds
  // more than its share, and whoever runs out of memory before that.
  const Incompressible incompressible = store_.HasRoomInArea() ? Incompressible::kStoreAsIs : Incompressible::kRefuse;
  const StoreResult stored = store_.Store(shared_.AddressOf(frame), scratch, incompressible);
  const bool as_is = stored.outcome == StoreOutcome::kStoredAsIs;
  if (!as_is && stored.outcome != StoreOutcome::kStored) {
    counters_.refused_store.Add();
    return Outcome::kRefused;
  }
  shared_.Retire(frame);
  for (const Sharer& sharer : shared_.SharersOf(frame)) {
    if (GuestMemory* const guest = find_(sharer.guest)) guest->EvictShared(sharer.gfn, frame, stored.slot);
  }
  store_.Free(stored.slot);  // the pages have a reference each
  if (!shared_.SharersOf(frame).empty()) return Outcome::kTryAgain;
  counters_.evicted.Add();
  return as_is ? Outcome::kDoneAsIs : Outcome::kDone;
}

ReverseMap::Outcome ReverseMap::Migrate(const SharedFrames::Hold& frame, FrameNumber to) {
  shared_.Retire(frame);
  const SharedFrames::Sharers sharers = shared_.SharersOf(frame);
  if (sharers.empty()) return Outcome::kRefused;  // the last one has just left
  std::memcpy(shared_.AddressOf(to), shared_.AddressOf(frame), kPageSize);
  const SharedFrames::Hold moved = shared_.PublishEmpty(to, shared_.HashOf(frame));
  bool all = true;
  for (const Sharer& sharer : sharers) {
    GuestMemory* const guest = find_(sharer.guest);
    all &= guest != nullptr && guest->MoveShared(sharer.gfn, frame, moved);
  }
  return all ? Outcome::kDone : Outcome::kTryAgain;
}

std::optional<SharedFrames::Hold> ReverseMap::CopyLike(const SharedFrames::Hold& poisoned) {
  std::optional<SharedFrames::Hold> like = shared_.FindLike(poisoned);
  if (!like.has_value() || !shared_.IsFull(*like)) return like;
  const absl::StatusOr<FrameNumber> copy = shared_.Allocate();
  if (!copy.ok()) return std::nullopt;
  std::memcpy(shared_.AddressOf(*copy), shared_.AddressOf(*like), kPageSize);
  return shared_.PublishEmpty(*copy, shared_.HashOf(*like));
}

ReverseMap::PoisonedPages ReverseMap::Poison(const SharedFrames::Hold& frame) {
  shared_.Poison(frame);
  PoisonedPages pages;
  for (const Sharer& sharer : shared_.SharersOf(frame)) {
    GuestMemory* const guest = find_(sharer.guest);
    if (guest == nullptr) continue;
    const std::optional<SharedFrames::Hold> copy = CopyLike(frame);
    if (copy.has_value() && guest->MoveShared(sharer.gfn, frame, *copy)) {
      pages.recovered += kOnePage;
    } else if (guest->PoisonShared(sharer.gfn, frame)) {
      pages.lost += kOnePage;
      const auto known = std::find(pages.guests.begin(), pages.guests.end(), guest->id());
      if (known == pages.guests.end()) pages.guests.push_back(guest->id());
    }
  }
  std::sort(pages.guests.begin(), pages.guests.end());
  return pages;
}

PageCount ReverseMap::Reclaim(PageCount look, PageCount enough, CompressionScratch& scratch) {
  PageCount freed;
  for (PageCount looked; looked < look && freed < enough; looked += kOnePage) {
    const std::optional<SharedFrames::Hold> frame = shared_.Next();
    if (!frame.has_value()) break;
    counters_.looked.Add();
    if (TestAndClearReferenced(*frame)) {
      UnmapAll(*frame);
      counters_.unmapped.Add();
    } else if (Evict(*frame, scratch) == Outcome::kDone) {
      freed += kOnePage;
    }
  }
  return freed;
}

}  // namespace quire
