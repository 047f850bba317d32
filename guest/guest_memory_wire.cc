// Pages of a guest that stay where they are.
//
// A page is wired while it is resident and its block is locked, so it never looks wired and away. What brings it in is
// an ordinary fault, which may wait and so comes first; reclaim may be faster in between, and then there is another.
#include <cstring>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "guest/guest_memory.h"

namespace quire {

absl::Status GuestMemory::Wire(GfnRange range, WiredBy by) {
  if (range.empty()) return absl::OkStatus();
  if (!GfnRange(Gfn(0), size()).contains(range)) {
    return absl::OutOfRangeError(absl::StrCat("guest-", id(), " has no pages ", range.begin().value(), " to ",
                                              range.end().value() - 1, " to be wired: its memory ends at page ",
                                              size().in_pages()));
  }
  // All of it before anything is brought in for it, and taken from others.
  PageCount charged = CountUnwired(range);
  if (absl::Status status = ChargeWired(charged); !status.ok()) return status;
  Gfn end = range.begin();
  const absl::Status status = WireUpTo(range.end(), by, end, charged);
  UnchargeWired(charged);
  if (!status.ok()) Unwire(GfnRange(range.begin(), end), by);
  return status;
}

absl::Status GuestMemory::WireUpTo(Gfn last, WiredBy by, Gfn& end, PageCount& charged) {
  while (end < last) {
    const absl::StatusOr<PageCount> wired = WireResident(GfnRange(end, last), by, charged);
    if (!wired.ok()) return wired.status();
    end = end + *wired;
    if (*wired > PageCount()) continue;
    // As a write: a page that shares a frame gets its own.
    const absl::StatusOr<Resolution> resolution = Resolve(end, Access::kWrite, Wait::kMay);
    if (!resolution.ok()) return resolution.status();
  }
  return absl::OkStatus();
}

PageCount GuestMemory::CountUnwired(GfnRange range) {
  PageCount unwired;
  for (BlockNumber number = BlockOf(range.begin()); FirstGfn(number) < range.end(); ++number) {
    Block& block = map_->block(number);
    const GfnRange part = PagesOf(number).Intersect(range);
    absl::MutexLock lock(&block.lock);
    unwired += part.size();
    if (block.wired == nullptr) continue;
    for (Gfn gfn = part.begin(); gfn < part.end(); ++gfn) unwired -= PageCount(block.IsWired(gfn));
  }
  return unwired;
}

absl::StatusOr<PageCount> GuestMemory::WireResident(GfnRange range, WiredBy by, PageCount& charged) {
  Block& block = map_->block(BlockOf(range.begin()));
  const GfnRange part = map_->Pages(block).Intersect(range);
  absl::MutexLock lock(&block.lock);
  // Under the lock: Stop() comes before the Discard() that empties the block, so nothing is wired after that.
  if (stopped()) return status();
  Gfn gfn = part.begin();
  for (; gfn < part.end() && map_->Get(block, gfn).state() == PageState::kResident; ++gfn) {
    const absl::Status status = WirePage(block, gfn, by, charged);
    if (!status.ok() && gfn == part.begin()) return status;
    if (!status.ok()) break;  // the next call meets it again
  }
  return gfn - part.begin();
}

absl::Status GuestMemory::WirePage(Block& block, Gfn gfn, WiredBy by, PageCount& charged) {
  const uint64_t index = IndexInBlock(gfn);
  if (!block.IsWired(gfn)) {
    if (charged > PageCount()) {
      charged -= kOnePage;
    } else if (absl::Status status = ChargeWired(kOnePage); !status.ok()) {
      return status;  // others have unwired it since it was counted, and wired more
    }
    frames_->SetWired(gfn, map_->Get(block, gfn).frame(), true);
  } else if (block.wired->times(index, by) == WiredPages::kMostTimes) {
    return absl::FailedPreconditionError(absl::StrCat("page ", gfn.value(), " of guest-", id(), " is wired ",
                                                      WiredPages::kMostTimes,
                                                      " times already, which is the most: unwire it first"));
  }
  if (block.wired == nullptr) {
    block.wired = std::make_unique<WiredPages>();
    wired_blocks_.Add();
  }
  block.wired->Add(index, by);
  return absl::OkStatus();
}

absl::StatusOr<FrameRanges> GuestMemory::WiredFrames(GfnRange range) {
  FrameRanges frames;
  for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
    const PageEntry entry = EntryOf(gfn);
    if (entry.state() != PageState::kResident) {
      return absl::DataLossError(
          absl::StrCat("page ", gfn.value(), " of guest-", id(), " is lost: the memory that it was in has failed"));
    }
    const FrameRange frame(entry.frame(), kOnePage);
    if (frames.empty() || frames.back().end() != frame.begin()) {
      frames.push_back(frame);
    } else {
      frames.back() = frames.back().Hull(frame);
    }
  }
  return frames;
}

// --- The limits.

absl::Status GuestMemory::ChargeWired(PageCount pages) {
  Wiring& all = services_.wiring;
  if (!wired_limit_.TryCharge(pages)) {
    all.refused_limit.Add();
    return absl::ResourceExhaustedError(absl::StrFormat(
        "guest-%u cannot have %.1f MiB more wired: it may have %.1f MiB, half of its limit, and has %.1f MiB; unwire "
        "some first, or %s",
        id(), pages.bytes().in_mib(), wired_limit_.limit().bytes().in_mib(), wired().bytes().in_mib(), limit_advice_));
  }
  if (all.limit.TryCharge(pages)) return absl::OkStatus();
  wired_limit_.Uncharge(pages);
  all.refused_limit.Add();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "guest-%u cannot have %.1f MiB more wired: all guests together may have %.1f MiB, and have %.1f MiB; unwire some "
      "first, or %s",
      id(), pages.bytes().in_mib(), all.limit.limit().bytes().in_mib(), all.limit.charged().bytes().in_mib(),
      all.advice));
}

void GuestMemory::UnchargeWired(PageCount pages) {
  wired_limit_.Uncharge(pages);
  services_.wiring.limit.Uncharge(pages);
}

// --- Pages that are wired no longer.

void GuestMemory::Unwire(GfnRange range, WiredBy by) {
  for (BlockNumber number = BlockOf(range.begin()); FirstGfn(number) < range.end(); ++number) {
    UnwireInBlock(map_->block(number), PagesOf(number).Intersect(range), by);
  }
  // Who stopped the guest has left them for this. If it is stopped after this look, its Discard() finds them unwired.
  if (by == WiredBy::kDevice && stopped()) Discard(range);
}

void GuestMemory::UnwireInBlock(Block& block, GfnRange range, WiredBy by) {
  absl::MutexLock lock(&block.lock);
  for (Gfn gfn = range.begin(); gfn < range.end() && block.wired != nullptr; ++gfn) {
    const uint64_t index = IndexInBlock(gfn);
    // If it is not any more, the guest has been stopped, or the page's memory has failed.
    if (block.wired->times(index, by) > 0 && block.wired->Remove(index, by)) NoteUnwired(block, gfn);
  }
  EnqueueIfNeeded(block);
}

void GuestMemory::EnqueueIfNeeded(Block& block) {
  if (block.queued || !block.HasFrames()) return;
  block.queued = true;
  services_.reclaim.Enqueue(block);
}

void GuestMemory::NoteUnwired(Block& block, Gfn gfn) {
  UnchargeWired(kOnePage);
  frames_->SetWired(gfn, map_->Get(block, gfn).frame(), false);
  if (block.wired->count() > 0) return;
  block.wired = nullptr;
  wired_blocks_.Subtract();
}

void GuestMemory::ForgetWired(Block& block, Gfn gfn) {
  for (WiredBy by : {WiredBy::kGuest, WiredBy::kDevice}) ForgetWired(block, gfn, by);
}

void GuestMemory::ForgetWired(Block& block, Gfn gfn, WiredBy by) {
  if (block.wired != nullptr && block.wired->Forget(IndexInBlock(gfn), by)) NoteUnwired(block, gfn);
}

bool GuestMemory::ZeroIfWired(Block& block, Gfn gfn) {
  if (stopped()) ForgetWired(block, gfn, WiredBy::kGuest);
  if (!block.IsWired(gfn)) return false;
  const PageEntry entry = map_->Get(block, gfn);
  std::memset(FrameAddress(block, entry.frame()), 0, kPageSize);
  FreeKept(entry);
  map_->Set(block, gfn, PageEntry::WithFrame(PageState::kResident, entry.frame()));
  return true;
}

}  // namespace quire
