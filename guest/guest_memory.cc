#include "guest/guest_memory.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"

namespace quire {

namespace {

absl::Status CheckFrames(PageCount limit) {
  if (limit == PageCount() || limit >= GuestLimits::kLeast) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("a guest may hold %d pages, and cannot run in less than %d",
                                                    limit.in_pages(), GuestLimits::kLeast.in_pages()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GuestMemory>> GuestMemory::Create(GuestId id, PageCount size,
                                                                 std::unique_ptr<FrameSource> frames,
                                                                 const GuestServices& services,
                                                                 const GuestLimits& limits, GuestMemory* parent) {
  if (absl::Status status = CheckFrames(limits.frames); !status.ok()) return status;
  auto guest = absl::WrapUnique(new GuestMemory(id, std::move(frames), services, limits, parent));
  const PageEntry fresh = parent == nullptr ? PageEntry::Absent() : PageEntry::Inherited();
  absl::StatusOr<MemoryMap> map = MemoryMap::Create(*guest, size, fresh);
  if (!map.ok()) return map.status();
  guest->map_ = std::make_unique<MemoryMap>(*std::move(map));
  if (guest->is_limited()) services.reclaim.Track(*guest);
  if (parent != nullptr) guest->BeginAsClone();
  return guest;
}

GuestMemory::GuestMemory(GuestId id, std::unique_ptr<FrameSource> frames, const GuestServices& services,
                         const GuestLimits& limits, GuestMemory* parent)
    : id_(id),
      services_(services),
      limit_advice_(limits.advice),
      held_limit_(limits.frames),
      swapped_limit_(limits.swapped),
      wired_limit_(WiringWithin(limits.frames)),
      frames_(std::make_unique<LimitedFrames>(std::move(frames), held_limit_)),
      parent_(parent) {}

GuestMemory::~GuestMemory() {
  if (map_ == nullptr) return;
  QUIRE_CHECK(!has_clones());
  MarkStopped(absl::CancelledError("the guest is gone"));
  services_.prefetch.Forget(*this);
  services_.reclaim.Forget(*this);
  Discard(GfnRange(Gfn(0), size()));
  QUIRE_CHECK(counts()[PageState::kAbsent] == size());
  if (inheritors_ != nullptr) notifiers_.Unregister(inheritors_.get());
  if (parent_ != nullptr) EndAsClone();
}

// --- Advice.

void GuestMemory::AdviseHuge(GfnRange range, bool huge) {
  const GfnRange blocks = WholeBlocksOf(range.Intersect(GfnRange(Gfn(0), size())));
  for (BlockNumber number = BlockOf(blocks.begin()); number < BlockOf(blocks.end()); ++number) {
    Block& block = map_->block(number);
    absl::MutexLock lock(&block.lock);
    block.advised = huge;
  }
}

// --- Limits.

absl::Status GuestMemory::CheckNewLimits(PageCount frames) const {
  if (absl::Status status = CheckFrames(frames); !status.ok()) return status;
  if (wired() <= WiringWithin(frames)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("guest-%u has %.1f MiB wired, and may have half of its limit: make that at least %.1f MiB", id(),
                      wired().bytes().in_mib(), (wired() * 2).bytes().in_mib()));
}

absl::Status GuestMemory::SetLimits(PageCount frames, PageCount swapped) {
  if (absl::Status status = CheckNewLimits(frames); !status.ok()) return status;
  // Before a fault can be at the limit.
  if (frames != PageCount()) services_.reclaim.Track(*this);
  wired_limit_.SetLimit(WiringWithin(frames));
  held_limit_.SetLimit(frames);
  swapped_limit_.SetLimit(swapped);
  return absl::OkStatus();
}

// --- Giving pages up.

void GuestMemory::Discard(GfnRange range) {
  for (uint64_t b = BlockOf(range.begin()).value(); b < map_->blocks(); ++b) {
    Block& block = map_->block(BlockNumber(b));
    const GfnRange part = map_->Pages(block).Intersect(range);
    if (part.empty()) break;
    DiscardInBlock(block, part);
  }
}

void GuestMemory::DiscardInBlock(Block& block, GfnRange range) {
  absl::MutexLock lock(&block.lock);
  if (block.Count(PageState::kAbsent) == map_->Pages(block).size().in_pages()) return;
  LeaveView(block);
  FrameRuns runs;
  {
    const ScopedInvalidation invalidation(notifiers_, {.range = range, .event = InvalidateEvent::kUnmap});
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
      const PageEntry entry = map_->Get(block, gfn);
      if (ZeroIfWired(block, gfn)) continue;
      if (entry.has_frame()) AddToRuns(runs, gfn, entry.frame());
      FreeKept(entry);
      LeaveShared(entry);
      LeaveTemplate(gfn, entry);
      if (entry.state() == PageState::kSwapped) {
        services_.store.Free(entry.slot());
        swapped_limit_.Uncharge(kOnePage);
      }
      map_->Set(block, gfn, PageEntry::Absent());
    }
  }
  ReleaseFrames(block, runs);
}

void GuestMemory::AddToRuns(FrameRuns& runs, Gfn gfn, FrameNumber frame) {
  if (!runs.empty()) {
    FrameRun& last = runs.back();
    if (last.gfn + last.count == gfn && last.frame + last.count == frame) {
      last.count += kOnePage;
      return;
    }
  }
  runs.push_back({.gfn = gfn, .frame = frame, .count = kOnePage});
}

PageCount GuestMemory::ReleaseFrames(Block& block, const FrameRuns& runs) {
  if (!runs.empty()) block.whole = false;
  PageCount freed;
  for (const FrameRun& run : runs) {
    frames_->Release(run.gfn, run.frame, run.count);
    freed += run.count;
  }
  return freed;
}

// --- The end.

void GuestMemory::Stop(const absl::Status& reason) {
  if (!MarkStopped(reason)) return;
  notifiers_.Release();
  if (services_.on_stopped) services_.on_stopped(*this, reason);
}

bool GuestMemory::MarkStopped(const absl::Status& reason) {
  absl::MutexLock lock(&stop_lock_);
  if (stopped_.load(std::memory_order_relaxed)) return false;
  stop_reason_ = reason;
  stopped_.store(true, std::memory_order_release);
  return true;
}

absl::Status GuestMemory::status() const {
  absl::MutexLock lock(&stop_lock_);
  return stop_reason_;
}

PageCount GuestMemory::frames_held() const {
  const PageStateCounts& c = counts();
  return c[PageState::kResident] + c[PageState::kOut] + c[PageState::kInTransit];
}

GuestMemory* FindGuest(absl::Span<const std::unique_ptr<GuestMemory>> guests, GuestId id) {
  const auto place = std::lower_bound(guests.begin(), guests.end(), static_cast<unsigned>(id),
                                      [](const auto& guest, unsigned wanted) { return guest->id() < wanted; });
  return place != guests.end() && (*place)->id() == static_cast<unsigned>(id) ? place->get() : nullptr;
}

ByteCount GuestMemory::metadata() const {
  const ByteCount inheritors = inheritors_ == nullptr ? ByteCount() : inheritors_->metadata();
  const ByteCount wired = ByteCount::Bytes(wired_blocks_.value() * sizeof(WiredPages));
  return map_->metadata() + inheritors + wired + ByteCount::Bytes(sizeof *this);
}

// --- Checking.

PageEntry GuestMemory::EntryOf(Gfn gfn) {
  Block& block = map_->block(BlockOf(gfn));
  absl::MutexLock lock(&block.lock);
  return map_->Get(block, gfn);
}

absl::Status GuestMemory::Check() {
  std::array<uint64_t, kPageStates> sums = {};
  uint64_t wired = 0;
  for (uint64_t b = 0; b < map_->blocks(); ++b) {
    Block& block = map_->block(BlockNumber(b));
    if (absl::Status status = CheckBlock(block); !status.ok()) return status;
    absl::MutexLock lock(&block.lock);
    for (size_t state = 0; state < kPageStates; ++state) sums[state] += block.count[state];
    wired += block.CountWired();
  }
  for (size_t state = 0; state < kPageStates; ++state) {
    const PageCount counted = counts()[static_cast<PageState>(state)];
    if (counted == PageCount(sums[state])) continue;
    return absl::InternalError(absl::StrCat("invariant 1: guest ", id(), " counts ", counted.in_pages(),
                                            " pages in state ", state, ", its blocks ", sums[state]));
  }
  if (this->wired() != PageCount(wired)) {
    return absl::InternalError(absl::StrCat("invariant 15: guest ", id(), " has ", wired,
                                            " wired pages, and is charged for ", this->wired().in_pages()));
  }
  return CheckLimits();
}

absl::Status GuestMemory::CheckLimits() const {
  const auto check = [&](const PageLimit& limit, PageCount pages, absl::string_view what) {
    if (limit.charged() == pages && limit.Allows(pages)) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("invariant 13: guest ", id(), " has ", pages.in_pages(), " ", what,
                                            ", of at most ", limit.limit().in_pages(), ", and is charged for ",
                                            limit.charged().in_pages()));
  };
  if (absl::Status status = check(held_limit_, frames_held(), "frames"); !status.ok()) return status;
  return check(swapped_limit_, counts()[PageState::kSwapped], "pages in the store");
}

absl::Status GuestMemory::CheckBlock(Block& block) {
  absl::MutexLock lock(&block.lock);
  const auto broken = [&](int invariant, Gfn gfn, absl::string_view what) {
    return absl::InternalError(
        absl::StrCat("invariant ", invariant, ": page ", gfn.value(), " of guest ", id(), " ", what));
  };
  std::array<uint16_t, kPageStates> count = {};
  uint16_t wired = 0;
  for (Gfn gfn = map_->Pages(block).begin(); gfn < map_->Pages(block).end(); ++gfn) {
    const PageEntry entry = map_->Get(block, gfn);
    ++count[static_cast<size_t>(entry.state())];
    if (entry.has_frame() && !frames_->Owns(gfn, entry.frame(), block.IsWired(gfn))) {
      return broken(2, gfn, "has a frame that is not its own");
    }
    if (block.IsWired(gfn)) {
      ++wired;
      if (entry.state() != PageState::kResident) return broken(15, gfn, "is wired and not resident");
    }
    if (entry.state() == PageState::kSwapped && !services_.store.IsLive(entry.slot())) {
      return broken(5, gfn, "has a slot that is free");
    }
    if (entry.kept().has_value() && !services_.store.IsKept(*entry.kept())) {
      return broken(5, gfn, "has a copy in a slot that is not kept for it");
    }
    if (entry.state() == PageState::kShared &&
        !services_.shared.Has(entry.frame(), entry.link(), {.guest = id_, .gfn = gfn})) {
      return broken(14, gfn, "shares a frame that does not know of it");
    }
    if (entry.state() == PageState::kInherited && parent_ == nullptr) return broken(16, gfn, "has no template");
    if (block.viewed && entry.state() != PageState::kInherited) return broken(16, gfn, "is behind a view");
    if (entry.state() == PageState::kInTransit) return broken(6, gfn, "is in transit, and nobody is at work");
    if (entry.incompressible() && entry.state() != PageState::kOut) return broken(8, gfn, "is marked but not out");
  }
  const Gfn first = FirstGfn(block.number);
  if (count != block.count) return broken(1, first, "begins a block whose counts are wrong");
  if (block.whole) {
    const Gfn begin = map_->Pages(block).begin();
    for (Gfn gfn = begin; gfn < map_->Pages(block).end(); ++gfn) {
      const PageEntry entry = map_->Get(block, gfn);
      if (!entry.has_frame() || entry.frame() != map_->Get(block, begin).frame() + (gfn - begin)) {
        return broken(11, gfn, "is not in its place in a block that is whole");
      }
    }
  }
  if (wired != block.CountWired() || (block.wired != nullptr && wired == 0)) {
    return broken(15, first, "begins a block whose count of wired pages is wrong");
  }
  if (!block.queued && block.Count(PageState::kResident) + block.Count(PageState::kOut) > wired) {
    return broken(7, first, "begins a block that no queue has");
  }
  return absl::OkStatus();
}

}  // namespace quire
