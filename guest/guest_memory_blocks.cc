// Blocks of a guest that come in whole: for a fault, by promotion, or ahead of a stream.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "guest/guest_memory.h"

namespace quire {
namespace {

absl::Status Scattered() { return absl::AbortedError("free memory is scattered"); }

absl::Status NotWhole() { return absl::FailedPreconditionError("the block cannot be had whole now"); }

}  // namespace

// --- Whole blocks.

bool GuestMemory::FirstTouchMayBeWhole(const Block& block) const {
  if (block.Count(PageState::kAbsent) != kPagesPerBlock) return false;
  if (!MayBeWhole(block)) {
    services_.faults.whole_refused.Add(BlockRefusal::kNotAsked);
  } else if (!HasPlenty(kOneBlock)) {
    services_.faults.whole_refused.Add(HasRoomFor(kOneBlock) ? BlockRefusal::kMemory : BlockRefusal::kLimit);
  } else {
    return true;
  }
  return false;
}

absl::Status GuestMemory::RefuseBlock(BlockRefusal why) const {
  services_.faults.whole_refused.Add(why);
  return NotWhole();
}

// What is being stored is not snatched away whole, or reclaim would never get a block that is in use; single pages are.
std::optional<BlockRefusal> GuestMemory::WhyNotWhole(const Block& block) const {
  if (map_->Pages(block).size() != kOneBlock) return BlockRefusal::kPartial;
  if (block.Count(PageState::kPoisoned) > 0) return BlockRefusal::kPoisoned;
  if (block.Count(PageState::kShared) > 0) return BlockRefusal::kShared;
  if (block.Count(PageState::kInherited) > 0) return BlockRefusal::kInherited;
  if (block.Count(PageState::kInTransit) > 0) return BlockRefusal::kInTransit;
  if (!block.whole && block.wired != nullptr && frames_->reservation().empty()) return BlockRefusal::kWired;
  if (!block.whole && CameWholeTooLately(block)) return BlockRefusal::kLately;
  return std::nullopt;
}

bool GuestMemory::HasPlenty(PageCount pages) const {
  return services_.pool.FreePages() > services_.pool.watermarks().high + pages && HasRoomFor(pages);
}

absl::StatusOr<Resolution> GuestMemory::ResolveBlock(Block& block, Gfn gfn, FaultPlan& plan) {
  const GfnRange pages = map_->Pages(block);
  if (const std::optional<BlockRefusal> why = WhyNotWhole(block)) return RefuseBlock(*why);
  absl::Status made;
  if (block.whole) {
    TakeBackBlock(block);
  } else if (made = MayHaveBlock(); !made.ok()) {
    return made;
  } else if (PlanToFetch(block, pages, gfn, plan)) {
    return InSwapArea();
  } else if (!block.HasFrames()) {
    made = LoadBlock(block, plan.fetched);
  } else {
    made = GatherBlock(block, plan.fetched);
    if (made.ok()) services_.faults.promotions.Add();
  }
  if (!made.ok()) {
    // For want of memory, or because the writer was faster with one of them.
    if (absl::IsUnavailable(made)) PlanToFetch(block, pages, gfn, plan);
    return made;
  }
  if (!block.whole) BecomeWhole(block);
  block.whole_fault.store(static_cast<uint32_t>(faults_.value()) | 1, std::memory_order_relaxed);
  services_.faults.whole.Add();
  return AllOf(block);
}

void GuestMemory::BecomeWhole(Block& block) {
  NoteWhole(block.faults, evicted_pages());
  block.whole = true;
}

// In a reservation each page has its place, and others are brought in around it.
bool GuestMemory::CameWholeTooLately(const Block& block) const {
  const PageCount pool = services_.pool.budget().limit();
  const PageCount limit = held_limit_.limit();
  const PageCount room = limit == PageCount() ? pool : std::min(pool, limit);
  return !HasPlenty(kOneBlock) && CameWholeLately(block.faults, evicted_pages(), room);
}

Resolution GuestMemory::AllOf(const Block& block) const {
  const GfnRange pages = map_->Pages(block);
  return Resolution{.range = pages, .frame = map_->Get(block, pages.begin()).frame()};
}

bool GuestMemory::IsComplete(const Block& block) const {
  return MayBeWhole(block) && !block.whole && block.Count(PageState::kResident) == kPagesPerBlock &&
         !frames_->reservation().empty() && services_.pool.reservations_have_blocks();
}

Resolution GuestMemory::Promote(Block& block) {
  block.whole = true;
  services_.faults.promotions.Add();
  return AllOf(block);
}

void GuestMemory::TakeBackBlock(Block& block) {
  services_.faults.second_chance.Add(kPagesPerBlock - block.Count(PageState::kResident));
  const Resolution all = AllOf(block);
  MakeResident(block, all.range, all.frame);
}

absl::Status GuestMemory::MayHaveBlock() const {
  if (!services_.store.has_areas()) return absl::OkStatus();  // nothing is lost by trying
  if (!HasRoomFor(kOneBlock)) return absl::OutOfRangeError("no room for a block within the guest's limit");
  if (!frames_->reservation().empty())
    return services_.pool.reservations_have_blocks() ? absl::OkStatus() : RefuseBlock(BlockRefusal::kHost);
  return services_.pool.HasRoomForBlock() ? absl::OkStatus() : absl::UnavailableError("no room for a block");
}

absl::StatusOr<FrameNumber> GuestMemory::AcquireBlock(const Block& block) {
  absl::StatusOr<FrameNumber> first = frames_->AcquireBlock(FirstGfn(block.number));
  if (first.ok() || absl::IsUnavailable(first.status()) || IsAtLimit(first.status())) return first;
  if (absl::IsFailedPrecondition(first.status())) return Scattered();
  return RefuseBlock(BlockRefusal::kHost);  // it has small pages left, perhaps, or no whole blocks at all
}

absl::Status GuestMemory::LoadBlock(Block& block, const FetchedPages& fetched) {
  const absl::StatusOr<FrameNumber> first = AcquireBlock(block);
  if (!first.ok()) return first.status();
  const GfnRange pages = map_->Pages(block);
  if (block.Count(PageState::kAbsent) == kPagesPerBlock) {
    ZeroFill(*first, kOneBlock);
    services_.faults.zero_fill.Add(kPagesPerBlock);
    MakeResident(block, pages, *first);
    return absl::OkStatus();
  }
  return BringInRun(block, pages, *first, services_.pool.BlockOfFrames(*first), fetched);
}

absl::Status GuestMemory::BringInRun(Block& block, GfnRange run, FrameNumber first, std::byte* address,
                                     const FetchedPages& fetched) {
  for (Gfn page = run.begin(); page < run.end(); ++page) {
    const PageCount offset = page - run.begin();
    const absl::Status status = BringIn(block, page, first + offset, address + offset.in_bytes(), fetched);
    if (!status.ok()) {
      frames_->Release(page, first + offset, run.end() - page);
      return absl::IsUnavailable(status) ? status : RefuseBlock(BlockRefusal::kUnread);
    }
  }
  return absl::OkStatus();
}

absl::Status GuestMemory::BringIn(Block& block, Gfn gfn, FrameNumber frame, std::byte* address,
                                  const FetchedPages& fetched) {
  if (map_->Get(block, gfn).state() == PageState::kSwapped) return LoadPage(block, gfn, frame, address, fetched);
  ZeroFill(frame, kOnePage);
  services_.faults.zero_fill.Add();
  MakeResident(block, GfnRange(gfn, kOnePage), frame);
  return absl::OkStatus();
}

// Promotion. A page of a window guest cannot move: its missing neighbours are brought in around it, and the window
// makes one 2 MiB page of them when it maps the block. A page of any other guest is copied into a block of frames.
absl::Status GuestMemory::GatherBlock(Block& block, const FetchedPages& fetched) {
  return frames_->reservation().empty() ? MoveToBlock(block, fetched) : CompleteBlock(block, fetched);
}

absl::Status GuestMemory::CompleteBlock(Block& block, const FetchedPages& fetched) {
  if (!services_.pool.reservations_have_blocks()) return RefuseBlock(BlockRefusal::kHost);
  const GfnRange pages = map_->Pages(block);
  for (Gfn page = pages.begin(); page < pages.end(); ++page) {
    if (map_->Get(block, page).has_frame()) continue;
    Gfn end = page + kOnePage;
    while (end < pages.end() && !map_->Get(block, end).has_frame()) ++end;
    const GfnRange hole(page, end);
    const absl::StatusOr<FrameNumber> first = AcquireFrames(hole);
    if (!first.ok()) return first.status();
    if (absl::Status status = BringInRun(block, hole, *first, HostAddress(*first), fetched); !status.ok()) {
      return status;
    }
    page = end - kOnePage;
  }
  TakeBackBlock(block);
  return absl::OkStatus();
}

absl::Status GuestMemory::MoveToBlock(Block& block, const FetchedPages& fetched) {
  const absl::StatusOr<FrameNumber> first = AcquireBlock(block);
  if (!first.ok()) return first.status();
  const GfnRange pages = map_->Pages(block);
  FrameRuns old;
  {
    const ScopedInvalidation invalidation(notifiers_, {.range = pages, .event = InvalidateEvent::kClear});
    for (Gfn page = pages.begin(); page < pages.end(); ++page) {
      const PageEntry entry = map_->Get(block, page);
      if (!entry.has_frame()) continue;
      const FrameNumber frame = *first + (page - pages.begin());
      std::memcpy(services_.pool.BlockOfFrames(frame), HostAddress(entry.frame()), kPageSize);
      AddToRuns(old, page, entry.frame());
      if (entry.state() == PageState::kOut) services_.faults.second_chance.Add();
      MakeResident(block, GfnRange(page, kOnePage), frame);
    }
  }
  ReleaseFrames(block, old);
  for (Gfn page = pages.begin(); page < pages.end(); ++page) {
    if (map_->Get(block, page).has_frame()) continue;
    const FrameNumber frame = *first + (page - pages.begin());
    const absl::Status status = BringIn(block, page, frame, services_.pool.BlockOfFrames(frame), fetched);
    if (!status.ok()) {
      ReleaseUnused(block, page, *first);
      return absl::IsUnavailable(status) ? status : RefuseBlock(BlockRefusal::kUnread);
    }
  }
  return absl::OkStatus();
}

// Gives back the frames of a block, from `page` on, that no page has taken.
void GuestMemory::ReleaseUnused(Block& block, Gfn page, FrameNumber first) {
  for (; page < map_->Pages(block).end(); ++page) {
    if (!map_->Get(block, page).has_frame()) {
      frames_->Release(page, first + PageCount(IndexInBlock(page)), kOnePage);
    }
  }
}

// --- Ahead of a stream.

void GuestMemory::Prefetch(BlockNumber number) {
  Block& block = map_->block(number);
  FaultPlan plan;
  for (int fetches = 0; fetches < kMostFetches; ++fetches) {
    if (!block.lock.TryLock()) return;  // to a fault, which will have it sooner
    PrefetchLocked(block, plan);
    block.lock.Unlock();
    if (plan.to_fetch.empty()) return;
    absl::StatusOr<FetchedPages> fetched = services_.store.Fetch(plan.to_fetch);
    if (!fetched.ok()) return;  // a fault will say so
    plan.fetched.Merge(*std::move(fetched));
    plan.to_fetch.clear();
  }
}

void GuestMemory::PrefetchLocked(Block& block, FaultPlan& plan) {
  const GfnRange pages = map_->Pages(block);
  if (!MayPrefetch(block) || PlanToFetch(block, pages, pages.begin(), plan) || !LoadBlock(block, plan.fetched).ok()) {
    return;
  }
  BecomeWhole(block);
  const Resolution all = AllOf(block);
  map_->SetRun(block, all.range, PageState::kOut, all.frame);  // nobody has mapped it yet
  services_.faults.prefetched.Add();
}

bool GuestMemory::MayPrefetch(const Block& block) const {
  // The stream is going to want it, and may have what lies above the min watermark; but it need not wait for it yet.
  return !stopped() && MayBeWhole(block) && !block.HasFrames() && !WhyNotWhole(block).has_value() &&
         services_.pool.FreePages() > services_.pool.watermarks().min + kOneBlock && HasRoomFor(kOneBlock);
}

}  // namespace quire
