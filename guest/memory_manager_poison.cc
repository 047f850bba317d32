// Frames whose memory has failed, whoever has them.
#include <algorithm>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "guest/memory_manager.h"

namespace quire {
namespace {

// Who has a frame in hand is done with it soon: it compresses a batch of pages, or loads one.
constexpr int kTries = 2000;
constexpr absl::Duration kBetweenTries = absl::Milliseconds(1);

absl::Status HoldsNothing(FrameNumber frame) {
  return absl::InvalidArgumentError(absl::StrCat("frame ", frame.value(), " of the pool holds nothing"));
}

absl::Status CannotDoWithout(FrameNumber frame, absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("frame ", frame.value(), " of the pool holds ", what, ", which nobody can do without"));
}

}  // namespace

absl::StatusOr<MemoryManager::Poisoned> MemoryManager::PoisonFrame(FrameNumber frame) {
  for (int tries = 0; tries < kTries; ++tries) {
    if (tries > 0) absl::SleepFor(kBetweenTries);
    absl::ReaderMutexLock lock(&guests_lock_);
    const absl::StatusOr<std::optional<Poisoned>> done = TryPoison(frame);
    if (!done.ok()) return done.status();
    if (done->has_value()) return **done;
  }
  return absl::UnavailableError(absl::StrCat("frame ", frame.value(), " of the pool stayed in other hands"));
}

absl::StatusOr<MemoryManager::Poisoned> MemoryManager::PoisonPage(GuestMemory& guest, Gfn gfn) {
  if (gfn >= Gfn(0) + guest.size()) {
    return absl::InvalidArgumentError(absl::StrCat("guest-", guest.id(), " has no page ", gfn.value(),
                                                   ": its memory ends at page ", guest.size().in_pages()));
  }
  // What is inherited lies in a frame of the template's.
  PageEntry entry = guest.EntryOf(gfn);
  if (entry.state() == PageState::kInherited) entry = guest.OwnerOf(gfn).EntryOf(gfn);
  if (entry.has_frame() || entry.state() == PageState::kShared) return PoisonFrame(entry.frame());
  return absl::InvalidArgumentError(
      absl::StrCat("page ", gfn.value(), " of guest-", guest.id(), " has no frame that could fail"));
}

// A descriptor may be out of date as soon as it is read: each of these confirms it under its owner's lock.
absl::StatusOr<std::optional<MemoryManager::Poisoned>> MemoryManager::TryPoison(FrameNumber frame) {
  FrameTable& frames = pool_->arena().frames();
  if (frame >= frames.range().end()) return TryPoisonReserved(frame);
  const FrameDescriptor owner = frames.Get(frame);
  switch (owner.kind()) {
    case FrameKind::kAbsent:
      return HoldsNothing(frame);
    case FrameKind::kFree:
    case FrameKind::kCached:
    case FrameKind::kIsolated:
    case FrameKind::kBusy:
      if (!pool_->RetireFree(frame)) return std::nullopt;
      return Poisoned{.was = Poisoned::Was::kFree, .frame = frame};
    case FrameKind::kOwned:
      return TryPoisonOwned(FindGuest(owner.guest()), owner.gfn(), frame);
    case FrameKind::kZone:
      return TryPoisonStored(frame, owner);
    case FrameKind::kShared:
      return TryPoisonShared(frame);
    case FrameKind::kWired:
      return CannotDoWithout(frame, "wired memory");
    case FrameKind::kPoisoned:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat("frame ", frame.value(), " of the pool has failed before"));
}

absl::StatusOr<std::optional<MemoryManager::Poisoned>> MemoryManager::TryPoisonReserved(FrameNumber frame) {
  const auto owner = std::find_if(guests_.begin(), guests_.end(),
                                  [&](const auto& guest) { return guest->reservation().contains(frame); });
  if (owner == guests_.end()) return CannotDoWithout(frame, "tables, or is not of this pool");
  const Gfn gfn = Gfn(0) + (frame - (*owner)->reservation().begin());
  if (gfn >= Gfn(0) + (*owner)->size()) return HoldsNothing(frame);
  if (!(*owner)->EntryOf(gfn).has_frame()) return HoldsNothing(frame);
  return TryPoisonOwned(owner->get(), gfn, frame);
}

std::optional<MemoryManager::Poisoned> MemoryManager::TryPoisonOwned(GuestMemory* guest, Gfn gfn, FrameNumber frame) {
  if (guest == nullptr || guest->PoisonPage(gfn, frame) != GuestMemory::Loss::kLost) return std::nullopt;
  return Poisoned{.was = Poisoned::Was::kPage, .frame = frame, .lost = kOnePage, .guests = {guest->id()}};
}

std::optional<MemoryManager::Poisoned> MemoryManager::TryPoisonShared(FrameNumber frame) {
  const std::optional<SharedFrames::Hold> shared = shared_.HoldFrame(frame);
  if (!shared.has_value()) return std::nullopt;
  const ReverseMap::PoisonedPages pages = reverse_map_.Poison(*shared);
  return Poisoned{.was = Poisoned::Was::kShared,
                  .frame = frame,
                  .recovered = pages.recovered,
                  .lost = pages.lost,
                  .guests = pages.guests};
}

std::optional<MemoryManager::Poisoned> MemoryManager::TryPoisonStored(FrameNumber frame, FrameDescriptor owner) {
  const absl::StatusOr<FrameNumber> other = pool_->arena().Allocate(0, Reserve::kReclaim);
  if (!other.ok()) return std::nullopt;
  if (store_.ReplacePoisoned(frame, owner, *other) != FrameMigrator::Answer::kMoved) {
    pool_->FreeFrame(*other);
    return std::nullopt;
  }
  return Poisoned{.was = Poisoned::Was::kStored, .frame = frame};
}

}  // namespace quire
