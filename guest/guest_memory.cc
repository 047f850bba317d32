#include "guest/guest_memory.h"

#include <algorithm>
#include <bitset>
#include <cstring>
#include <optional>

#include "absl/base/attributes.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"

namespace quire {
namespace {

bool IsStored(StoreOutcome outcome) { return outcome == StoreOutcome::kStored || outcome == StoreOutcome::kStoredAsIs; }

absl::Status Scattered() { return absl::AbortedError("free memory is scattered"); }

absl::Status InSwapArea() { return absl::UnavailableError("it lies in a swap area"); }

// What frames_ says; outside of this class it is Unavailable, as for a pool that is full.
bool IsAtLimit(const absl::Status& status) { return absl::IsOutOfRange(status); }

absl::Status NotWhole() { return absl::FailedPreconditionError("the block cannot be had whole now"); }

}  // namespace

absl::StatusOr<std::unique_ptr<GuestMemory>> GuestMemory::Create(GuestId id, PageCount size,
                                                                 std::unique_ptr<FrameSource> frames,
                                                                 const GuestServices& services,
                                                                 const GuestLimits& limits) {
  if (limits.frames != PageCount() && limits.frames < GuestLimits::kLeast) {
    return absl::InvalidArgumentError(absl::StrFormat("a guest may hold %d pages, and cannot run in less than %d",
                                                      limits.frames.in_pages(), GuestLimits::kLeast.in_pages()));
  }
  auto guest = absl::WrapUnique(new GuestMemory(id, std::move(frames), services, limits));
  absl::StatusOr<MemoryMap> map = MemoryMap::Create(*guest, size);
  if (!map.ok()) return map.status();
  guest->map_ = std::make_unique<MemoryMap>(*std::move(map));
  return guest;
}

GuestMemory::GuestMemory(GuestId id, std::unique_ptr<FrameSource> frames, const GuestServices& services,
                         const GuestLimits& limits)
    : id_(id),
      services_(services),
      limits_(limits),
      held_limit_(limits.frames),
      swapped_limit_(limits.swapped),
      frames_(held_limit_.limited() ? std::make_unique<LimitedFrames>(std::move(frames), held_limit_)
                                    : std::move(frames)) {}

GuestMemory::~GuestMemory() {
  if (map_ == nullptr) return;
  MarkStopped(absl::CancelledError("the guest is gone"));
  services_.prefetch.Forget(*this);
  services_.reclaim.Forget(*this);
  Discard(GfnRange(Gfn(0), size()));
  QUIRE_CHECK(frames_held() == PageCount() && counts()[PageState::kSwapped] == PageCount());
}

// --- Faults.

absl::StatusOr<Resolution> GuestMemory::Resolve(Gfn gfn, Access access, Wait wait) {
  (void)access;  // every private page is writable: there is nothing yet that a read would get and a write would not
  if (gfn >= Gfn(0) + size()) {
    return absl::OutOfRangeError(
        absl::StrCat("guest ", id(), " has no page ", gfn.value(), ": its memory ends at page ", size().in_pages()));
  }
  FaultPlan plan{.granularity = {}, .may_compact = wait == Wait::kMay && services_.compactor.in_fault()};
  for (int made_room = 0;;) {
    absl::StatusOr<Resolution> resolution = TryResolve(gfn, plan);
    if (resolution.ok()) {
      services_.faults.total.Add();
      faults_.Add();
      return resolution;
    }
    if (absl::IsAborted(resolution.status())) {
      services_.compactor.MakeBlock();
      plan.may_compact = false;
      continue;
    }
    if (IsAtLimit(resolution.status())) {
      if (wait == Wait::kMustNot) return absl::UnavailableError(resolution.status().message());
      if (absl::Status status = MakeRoomWithinLimit(plan); !status.ok()) return status;
      continue;
    }
    if (!absl::IsUnavailable(resolution.status()) || wait == Wait::kMustNot) return resolution;
    if (!plan.to_fetch.empty()) {
      if (absl::Status status = FetchFor(gfn, plan); !status.ok()) return status;
      continue;
    }
    const PageCount wanted = plan.granularity == Granularity::kBlock ? kOneBlock : kOnePage;
    if (absl::Status status = services_.reclaim.MakeRoom(*this, wanted); !status.ok()) return status;
    // Room for a whole block is worth some waiting, but a page will do.
    if (++made_room == kTriesForBlock) plan.granularity = Granularity::kPage;
  }
}

absl::StatusOr<Resolution> GuestMemory::TryResolve(Gfn gfn, FaultPlan& plan) {
  Block& block = map_->block(BlockOf(gfn));
  absl::StatusOr<Resolution> resolution;
  bool streaming = false;
  {
    absl::MutexLock lock(&block.lock);
    // Under the lock: Stop() comes before the Discard() that empties the block, so nothing is brought in after that.
    if (stopped()) return status();
    if (!plan.granularity.has_value()) plan.granularity = Choose(block, gfn);
    resolution = ResolveLocked(block, gfn, plan);
    if (resolution.ok() && IsComplete(block)) resolution = Promote(block);
    if (resolution.ok()) block.faults.next_expected = static_cast<uint16_t>(IndexInBlock(resolution->range.end()));
    streaming = InStream(services_.granularity, block.faults);
  }
  if (streaming && resolution.ok() && resolution->range.size() == kOneBlock) {
    services_.prefetch.Request(*this, BlockNumber(block.number.value() + 1));
  }
  // A page that cannot be read back, or a host without memory: this guest cannot go on, the others can.
  const bool try_again = absl::IsUnavailable(resolution.status()) || absl::IsAborted(resolution.status()) ||
                         IsAtLimit(resolution.status());
  if (!resolution.ok() && !try_again) Stop(resolution.status());
  return resolution;
}

// Nothing is taken from other guests, however little they need it. Only if the pool is so full that nothing can be
// stored in it does it have to make room, as for any fault; a few times, for others may be faster to use it.
absl::Status GuestMemory::MakeRoomWithinLimit(FaultPlan& plan) {
  const bool block = plan.granularity == Granularity::kBlock;
  const bool made = services_.reclaim.ReclaimFrom(*this, block ? kOneBlock : kOnePage);
  if (stopped()) return status();
  if (block && (!made || ++plan.rooms_within_limit == kTriesForBlock)) {
    plan.granularity = Granularity::kPage;
    return absl::OkStatus();
  }
  if (made) return absl::OkStatus();
  if (services_.pool.FreePages() <= services_.pool.watermarks().min && ++plan.pool_rooms < kTriesForPool) {
    return services_.reclaim.MakeRoom(*this, kOnePage);
  }
  if (services_.store.IsAwaitingArea()) {
    absl::SleepFor(SwapSpace::kAwaitArea);
    return absl::OkStatus();
  }
  StopAtLimit();
  return status();
}

void GuestMemory::StopAtLimit() {
  const PageCount swapped = counts()[PageState::kSwapped];
  const std::string most =
      swapped_limit_.limited() ? absl::StrFormat(" of at most %.0f MiB", swapped_limit_.limit().bytes().in_mib()) : "";
  Stop(absl::ResourceExhaustedError(absl::StrFormat(
      "guest-%u is at its limit of %.0f MiB of memory and nothing more of it can be stored (%.0f MiB%s are)%s; it has "
      "been stopped; %s",
      id(), held_limit_.limit().bytes().in_mib(), swapped.bytes().in_mib(), most, services_.store.DescribeAreas(),
      limits_.advice)));
  Discard(GfnRange(Gfn(0), size()));
}

Granularity GuestMemory::Choose(Block& block, Gfn gfn) {
  // A second chance costs next to nothing and says little: a few pages of a block may be in use all the time, and its
  // others never.
  const PageState state = map_->Get(block, gfn).state();
  if (!block.whole && (state == PageState::kOut || state == PageState::kInTransit)) return Granularity::kRun;
  return ChooseGranularity(services_.granularity, block.faults,
                           {.index = IndexInBlock(gfn),
                            .number = static_cast<uint32_t>(faults_.value()),
                            .after_stream = IsAfterStream(block),
                            .may_be_whole = MayBeWhole(block)});
}

bool GuestMemory::IsAfterStream(const Block& block) const {
  if (block.number == BlockNumber(0)) return false;
  const Block& before = map_->block(BlockNumber(block.number.value() - 1));
  return MayBeWhole(block) &&
         CameJustBefore(before.whole_fault.load(std::memory_order_relaxed), static_cast<uint32_t>(faults_.value()));
}

// A neighbour that cannot be read is left to whoever asks for it. A store that is away has been waited for.
absl::Status GuestMemory::FetchFor(Gfn gfn, FaultPlan& plan) {
  absl::StatusOr<FetchedPages> fetched = services_.store.Fetch(plan.to_fetch);
  const bool needed = plan.fetches_page && (plan.to_fetch.size() == 1 || absl::IsUnavailable(fetched.status()));
  plan.to_fetch.clear();
  plan.fetches_page = false;
  if (!fetched.ok() && needed) {
    Stop(CannotReadBack(gfn, fetched.status()));
    return status();
  }
  if (!fetched.ok() || ++plan.fetches == kMostFetches) plan.granularity = Granularity::kPage;
  if (fetched.ok()) plan.fetched.Merge(*std::move(fetched));
  return absl::OkStatus();
}

bool GuestMemory::PlanToFetch(Block& block, GfnRange range, Gfn gfn, FaultPlan& plan) {
  if (!services_.store.has_areas()) return false;
  for (Gfn page = range.begin(); page < range.end(); ++page) {
    const PageEntry entry = map_->Get(block, page);
    if (entry.state() != PageState::kSwapped || !services_.store.NeedsFetch(entry.slot(), plan.fetched)) continue;
    plan.to_fetch.push_back(entry.slot());
    plan.fetches_page |= page == gfn;
  }
  return !plan.to_fetch.empty();
}

absl::StatusOr<Resolution> GuestMemory::ResolveLocked(Block& block, Gfn gfn, FaultPlan& plan) {
  const Granularity granularity = *plan.granularity;
  const bool resident = map_->Get(block, gfn).state() == PageState::kResident;
  if (!resident && (granularity == Granularity::kBlock || FirstTouchMayBeWhole(block))) {
    absl::StatusOr<Resolution> whole = ResolveBlock(block, gfn, plan);
    const bool in_pieces =
        absl::IsFailedPrecondition(whole.status()) || (absl::IsAborted(whole.status()) && !plan.may_compact);
    if (!in_pieces) return whole;
  }
  const PageEntry entry = map_->Get(block, gfn);
  switch (entry.state()) {
    case PageState::kResident:
      return AlreadyResident(block, gfn);
    case PageState::kOut:
    case PageState::kInTransit:
      return TakeBack(block, gfn);
    case PageState::kAbsent:
      return FillZero(block, gfn);
    case PageState::kSwapped:
      return SwapIn(block, gfn, plan);
    case PageState::kPoisoned:
      break;
  }
  return absl::DataLossError(absl::StrCat("the content of page ", gfn.value(), " of guest ", id(), " is lost"));
}

// --- Whole blocks.

bool GuestMemory::FirstTouchMayBeWhole(const Block& block) const {
  return MayBeWhole(block) && block.Count(PageState::kAbsent) == kPagesPerBlock && HasPlenty(kOneBlock);
}

bool GuestMemory::HasPlenty(PageCount pages) const {
  return services_.pool.FreePages() > services_.pool.watermarks().high + pages && HasRoomFor(pages);
}

absl::StatusOr<Resolution> GuestMemory::ResolveBlock(Block& block, Gfn gfn, FaultPlan& plan) {
  const GfnRange pages = map_->Pages(block);
  // What is being stored is not snatched away whole, or reclaim would never get a block that is in use; single pages
  // are.
  if (pages.size() != kOneBlock || block.Count(PageState::kPoisoned) > 0 || block.Count(PageState::kInTransit) > 0) {
    return NotWhole();
  }
  absl::Status made;
  if (block.whole) {
    TakeBackBlock(block);
  } else if (CameWholeTooLately(block)) {
    return NotWhole();
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

bool GuestMemory::CameWholeTooLately(const Block& block) const {
  const PageCount pool = services_.pool.budget().limit();
  const PageCount room = is_limited() ? std::min(pool, held_limit_.limit()) : pool;
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
  if (!frames_->reservation().empty()) return services_.pool.reservations_have_blocks() ? absl::OkStatus() : NotWhole();
  return services_.pool.HasRoomForBlock() ? absl::OkStatus() : absl::UnavailableError("no room for a block");
}

absl::StatusOr<FrameNumber> GuestMemory::AcquireBlock(const Block& block) {
  absl::StatusOr<FrameNumber> first = frames_->AcquireBlock(FirstGfn(block.number));
  if (first.ok()) NoteHeld(kOneBlock);
  if (first.ok() || absl::IsUnavailable(first.status()) || IsAtLimit(first.status())) return first;
  if (absl::IsFailedPrecondition(first.status())) return Scattered();
  return NotWhole();  // the host has small pages left, perhaps, or no whole blocks at all
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
      return absl::IsUnavailable(status) ? status : NotWhole();
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
  if (!services_.pool.reservations_have_blocks()) return NotWhole();
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
      return absl::IsUnavailable(status) ? status : NotWhole();
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

std::byte* GuestMemory::FrameAddress(const Block& block, FrameNumber frame) {
  return block.whole ? services_.pool.BlockOfFrames(frame) : HostAddress(frame);
}

void GuestMemory::ZeroFill(FrameNumber first, PageCount count) {
  if (!frames_->zeroed()) std::memset(HostAddress(first), 0, count.in_bytes());
}

GfnRange GuestMemory::RunAround(const Block& block, Gfn gfn) const {
  const PageState state = map_->Get(block, gfn).state();
  const Gfn aligned(gfn.value() / kRun.in_pages() * kRun.in_pages());
  const GfnRange limits = GfnRange(aligned, kRun).Intersect(map_->Pages(block));
  Gfn begin = gfn;
  while (begin > limits.begin() && map_->Get(block, begin - kOnePage).state() == state) begin = begin - kOnePage;
  Gfn end = gfn + kOnePage;
  while (end < limits.end() && map_->Get(block, end).state() == state) ++end;
  return GfnRange(begin, end);
}

Resolution GuestMemory::ConsecutiveAround(const Block& block, Gfn gfn) const {
  const GfnRange run = RunAround(block, gfn);
  const FrameNumber frame = map_->Get(block, gfn).frame();
  Gfn begin = gfn;
  while (begin > run.begin() && map_->Get(block, begin - kOnePage).frame() + (gfn - begin + kOnePage) == frame) {
    begin = begin - kOnePage;
  }
  Gfn end = gfn + kOnePage;
  while (end < run.end() && map_->Get(block, end).frame() == frame + (end - gfn)) ++end;
  return Resolution{.range = GfnRange(begin, end), .frame = frame - (gfn - begin)};
}

// Another vCPU was faster, or this fault itself made the page resident and was then told to retry by an invalidation
// nearby. Then nobody has mapped what came along, and all of it is to be had again.
Resolution GuestMemory::AlreadyResident(const Block& block, Gfn gfn) {
  services_.faults.already_resident.Add();
  return IsWholeAndIn(block) ? AllOf(block) : ConsecutiveAround(block, gfn);
}

absl::StatusOr<Resolution> GuestMemory::TakeBack(Block& block, Gfn gfn) {
  // Second chance: the frame is still there, and mapping its neighbours along costs next to nothing.
  const Resolution resolution = ConsecutiveAround(block, gfn);
  const GfnRange run = resolution.range;
  if (map_->Get(block, gfn).state() == PageState::kInTransit) services_.swap.taken_back.Add(run.size().in_pages());
  MakeResident(block, run, resolution.frame);
  services_.faults.second_chance.Add(run.size().in_pages());
  return resolution;
}

absl::StatusOr<FrameNumber> GuestMemory::AcquireFrames(GfnRange run) {
  absl::StatusOr<FrameNumber> first = frames_->Acquire(run.begin(), run.size());
  if (first.ok()) NoteHeld(run.size());
  return first;
}

// By what is not held: pages move between the states of those that are all the time.
void GuestMemory::NoteHeld(PageCount acquired) {
  if (is_limited()) return;
  const PageCount others =
      counts()[PageState::kAbsent] + counts()[PageState::kSwapped] + counts()[PageState::kPoisoned];
  held_peak_.Note((size() - std::min(others, size()) + acquired).in_pages());
}

absl::StatusOr<Resolution> GuestMemory::FillZero(Block& block, Gfn gfn) {
  // While memory is plentiful a first touch brings its neighbours; below the high watermark only what was asked for.
  GfnRange run(gfn, kOnePage);
  if (HasPlenty(kRun) && frames_->max_run() >= kRun) run = RunAround(block, gfn);
  absl::StatusOr<FrameNumber> first = AcquireFrames(run);
  if (!first.ok()) return first.status();
  ZeroFill(*first, run.size());
  MakeResident(block, run, *first);
  services_.faults.zero_fill.Add(run.size().in_pages());
  return Resolution{.range = run, .frame = *first};
}

absl::StatusOr<Resolution> GuestMemory::SwapIn(Block& block, Gfn gfn, FaultPlan& plan) {
  GfnRange run(gfn, kOnePage);
  if (plan.granularity != Granularity::kPage && frames_->max_run() >= kRun) {
    run = GfnRange(gfn, RunAround(block, gfn).end());
  }
  if (PlanToFetch(block, run, gfn, plan)) return InSwapArea();
  absl::StatusOr<FrameNumber> first = AcquireFrames(run);
  if (!first.ok() && run.size() > kOnePage) {
    run = GfnRange(gfn, kOnePage);
    first = AcquireFrames(run);
  }
  if (!first.ok()) return first.status();
  for (Gfn page = gfn; page < run.end(); ++page) {
    const FrameNumber frame = *first + (page - gfn);
    if (absl::Status status = LoadPage(block, page, frame, HostAddress(frame), plan.fetched); !status.ok()) {
      frames_->Release(page, frame, run.end() - page);
      if (page == gfn) return LookAgain(block, gfn, status, plan);
      run = GfnRange(gfn, page);  // the guest has not asked for this one, and perhaps never will
      break;
    }
  }
  return Resolution{.range = run, .frame = *first};
}

// The writer was faster, or what was fetched was being overwritten: a page is lost only if it is damaged where it lies.
absl::Status GuestMemory::LookAgain(Block& block, Gfn gfn, const absl::Status& why, FaultPlan& plan) {
  const bool fetched = plan.fetches > 0 && plan.fetches <= kMostFetches;
  if (!absl::IsUnavailable(why) && !(fetched && services_.store.IsInArea(map_->Get(block, gfn).slot()))) {
    return Poison(block, gfn, why);
  }
  if (!absl::IsUnavailable(why)) plan.fetches = kMostFetches;  // the last time
  plan.fetched = FetchedPages();
  plan.granularity = Granularity::kPage;
  PlanToFetch(block, GfnRange(gfn, kOnePage), gfn, plan);
  return InSwapArea();
}

absl::Status GuestMemory::LoadPage(Block& block, Gfn gfn, FrameNumber frame, std::byte* address,
                                   const FetchedPages& fetched) {
  const SwapSlot slot = map_->Get(block, gfn).slot();
  const absl::Status status = services_.store.Load(slot, address, fetched);
  if (!status.ok()) return status;
  swapped_limit_.Uncharge(kOnePage);
  MakeResident(block, GfnRange(gfn, kOnePage), frame);
  if (services_.store.Keep(slot)) {
    map_->Set(block, gfn, map_->Get(block, gfn).WithKept(slot));
  } else {
    services_.store.Free(slot);
  }
  services_.faults.swap_in.Add();
  services_.swap.pages_in.Add();
  return absl::OkStatus();
}

absl::Status GuestMemory::Poison(Block& block, Gfn gfn, const absl::Status& why) {
  services_.store.Free(map_->Get(block, gfn).slot());
  swapped_limit_.Uncharge(kOnePage);
  map_->Set(block, gfn, PageEntry::Poisoned());
  return CannotReadBack(gfn, why);
}

absl::Status GuestMemory::CannotReadBack(Gfn gfn, const absl::Status& why) const {
  return absl::DataLossError(
      absl::StrCat("page ", gfn.value(), " of guest-", id(), " cannot be read back: ", why.message()));
}

void GuestMemory::MakeResident(Block& block, GfnRange run, FrameNumber first) {
  map_->SetRun(block, run, PageState::kResident, first);
  if (block.queued) return;
  block.queued = true;
  services_.reclaim.Enqueue(block);
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
  return !stopped() && MayBeWhole(block) && map_->Pages(block).size() == kOneBlock && !block.HasFrames() &&
         block.Count(PageState::kPoisoned) == 0 && !CameWholeTooLately(block) &&
         services_.pool.FreePages() > services_.pool.watermarks().min + kOneBlock && HasRoomFor(kOneBlock);
}

// --- Reclaim.

PageCount GuestMemory::Age(Block& block) { return AgeBlocks(block.number, 1); }

// The analysis cannot follow locks that are kept from one block to the next.
PageCount GuestMemory::AgeBlocks(BlockNumber first, uint64_t count) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  PageCount out;
  uint64_t cold = 0;  // whole blocks that are locked, the last of them just before block i
  for (uint64_t i = 0; i < count; ++i) {
    Block& block = map_->block(BlockNumber(first.value() + i));
    const Found found = TryLockToAge(block);
    if (found == Found::kColdWhole) {
      ++cold;
      continue;
    }
    out += TakeOutWhole(BlockNumber(first.value() + i - cold), cold);
    cold = 0;
    if (found == Found::kBusy) services_.swap.refused_busy.Add();
    if (found == Found::kPieces) {
      out += AgePages(block);
      block.lock.Unlock();
    }
  }
  return out + TakeOutWhole(BlockNumber(first.value() + count - cold), cold);
}

GuestMemory::Found GuestMemory::TryLockToAge(Block& block) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (!block.lock.TryLock()) return Found::kBusy;
  if (!IsWholeAndIn(block)) return Found::kPieces;
  if (!notifiers_.ClearFlushYoung(PagesOf(block.number))) return Found::kColdWhole;
  block.lock.Unlock();
  return Found::kYoungWhole;
}

PageCount GuestMemory::TakeOutWhole(BlockNumber first, uint64_t count) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (count == 0) return PageCount();
  const GfnRange range(FirstGfn(first), PageCount::OfBlocks(count));
  {
    const ScopedInvalidation invalidation(notifiers_, {.range = range, .event = InvalidateEvent::kClear});
    for (uint64_t i = 0; i < count; ++i) {
      Block& block = map_->block(BlockNumber(first.value() + i));
      const Resolution all = AllOf(block);
      map_->SetRun(block, all.range, PageState::kOut, all.frame);
    }
  }
  for (uint64_t i = 0; i < count; ++i) map_->block(BlockNumber(first.value() + i)).lock.Unlock();
  return range.size();
}

PageCount GuestMemory::AgePages(Block& block) {
  // The resident pages that were not used lately.
  std::bitset<kPagesPerBlock> cold;
  const GfnRange pages = map_->Pages(block);
  for (Gfn gfn = pages.begin(); gfn < pages.end(); ++gfn) {
    if (map_->Get(block, gfn).state() != PageState::kResident) continue;
    cold[IndexInBlock(gfn)] = !notifiers_.ClearFlushYoung(GfnRange(gfn, kOnePage));
  }
  if (cold.any()) TakeOut(block, cold);
  return PageCount(cold.count());
}

void GuestMemory::TakeOut(Block& block, const std::bitset<kPagesPerBlock>& cold) {
  const Gfn first = FirstGfn(block.number);
  GfnRange hull;
  for (uint64_t i = 0; i < kPagesPerBlock; ++i) {
    if (cold[i]) hull = hull.Hull(GfnRange(first + PageCount(i), kOnePage));
  }
  // One invalidation for all of them: it costs much more than its length. Warm pages within lose their translations
  // too; they stay resident, and the next access to each is a fault that finds everything in place.
  const ScopedInvalidation invalidation(notifiers_, {.range = hull, .event = InvalidateEvent::kClear});
  for (uint64_t i = 0; i < kPagesPerBlock; ++i) {
    const Gfn gfn = first + PageCount(i);
    if (cold[i]) map_->Set(block, gfn, map_->Get(block, gfn).In(PageState::kOut));
  }
}

// The bytes are copied under the block's lock, so that a fault can take its page back and write it while the copy is
// compressed; the copy is then thrown away. Frames are freed together in the end: a block that was populated as one
// 2 MiB page goes as one, which costs the host kernel a tenth of taking it apart.
PageCount GuestMemory::Evict(Block& block, EvictionScratch& scratch) {
  scratch.pages_.clear();
  scratch.refused_.clear();
  scratch.as_is_ = scratch.saved_ = 0;
  Gfn cursor = FirstGfn(block.number);
  bool room = true;
  while (room) {
    const size_t first = scratch.pages_.size();
    if (!BeginEviction(block, cursor, scratch)) break;
    if (first == 0 && scratch.whole_) services_.store.BeginBlock(scratch.compression_);
    for (size_t i = first; i < scratch.pages_.size(); ++i) {
      const StoreResult result = StoreWithinLimit(scratch.pages_[i], scratch.copy(i - first), scratch);
      if (result.outcome == StoreOutcome::kIncompressible) KeepRefused(i, scratch.copy(i - first), scratch);
      room = room && result.outcome != StoreOutcome::kNoRoom;
      if (result.outcome == StoreOutcome::kStoredAsIs) ++scratch.as_is_;
      if (result.outcome == StoreOutcome::kStored || result.outcome == StoreOutcome::kZero) ++scratch.saved_;
    }
    room = room && WriteRefused(scratch, /*at_least=*/EvictionScratch::kBatch);
  }
  WriteRefused(scratch, /*at_least=*/1);
  return scratch.pages_.empty() ? PageCount() : FinishEviction(block, scratch);
}

StoreResult GuestMemory::StoreWithinLimit(EvictionScratch::Page& page, const std::byte* copy,
                                          EvictionScratch& scratch) {
  page.charged = swapped_limit_.TryCharge(kOnePage);
  if (page.charged) {
    page.result = StorePage(page.kept, copy, scratch.compression_, IfIncompressible(scratch));
  } else {
    page.result = {.outcome = SwapSpace::IsZero(copy) ? StoreOutcome::kZero : StoreOutcome::kOverLimit, .slot = {}};
  }
  return page.result;
}

StoreResult GuestMemory::StorePage(std::optional<SwapSlot> kept, const std::byte* page, CompressionScratch& scratch,
                                   Incompressible incompressible) {
  if (kept.has_value() && services_.store.Holds(*kept, page)) {
    return {.outcome = StoreOutcome::kUnchanged, .slot = *kept};
  }
  return services_.store.Store(page, scratch, incompressible);
}

void GuestMemory::KeepRefused(size_t page, const std::byte* copy, EvictionScratch& scratch) {
  if (!services_.store.has_areas()) return;
  if (scratch.refused_.size() == EvictionScratch::kBatch) WriteRefused(scratch, /*at_least=*/1);
  std::memcpy(scratch.refused_copy(scratch.refused_.size()), copy, kPageSize);
  scratch.refused_.push_back(page);
}

bool GuestMemory::WriteRefused(EvictionScratch& scratch, size_t at_least) {
  if (scratch.refused_.size() < at_least) return true;
  absl::InlinedVector<SwapSpace::Refused, EvictionScratch::kBatch> refused;
  for (size_t i = 0; i < scratch.refused_.size(); ++i) {
    refused.push_back({scratch.refused_copy(i), &scratch.pages_[scratch.refused_[i]].result});
  }
  scratch.refused_.clear();
  services_.store.WriteThrough(refused, scratch.compression_);
  return refused.empty() || refused[0].result->outcome != StoreOutcome::kNoRoom;
}

// A few pages of a 2 MiB page that do not compress go along with the others: to take it apart, and put it together
// again when they return, costs a hundred times as much as to move them. Most of a block that does not compress stays.
Incompressible GuestMemory::IfIncompressible(const EvictionScratch& scratch) const {
  constexpr size_t kInAdvance = 16;  // before anything has been saved
  return !services_.store.has_live_areas() && scratch.whole_ && scratch.as_is_ < scratch.saved_ + kInAdvance
             ? Incompressible::kStoreAsIs
             : Incompressible::kRefuse;
}

bool GuestMemory::BeginEviction(Block& block, Gfn& cursor, EvictionScratch& scratch) {
  if (!block.lock.TryLock()) {
    services_.swap.refused_busy.Add();
    return false;
  }
  const GfnRange pages = map_->Pages(block);
  scratch.whole_ = block.whole;
  size_t begun = 0;
  for (; cursor < pages.end() && begun < EvictionScratch::kBatch; ++cursor) {
    const PageEntry entry = map_->Get(block, cursor);
    if (entry.state() != PageState::kOut || entry.incompressible()) continue;
    std::memcpy(scratch.copy(begun++), FrameAddress(block, entry.frame()), kPageSize);
    map_->Set(block, cursor, entry.In(PageState::kInTransit));
    scratch.pages_.push_back({.gfn = cursor, .kept = entry.kept(), .result = {}});
  }
  block.lock.Unlock();
  return begun > 0;
}

PageCount GuestMemory::FinishEviction(Block& block, const EvictionScratch& scratch) {
  FrameRuns runs;
  PageCount moved;  // to other frames of the pool: no memory is won by them
  absl::MutexLock lock(&block.lock);
  for (const EvictionScratch::Page& page : scratch.pages_) {
    const PageEntry entry = map_->Get(block, page.gfn);
    const bool taken_back = entry.state() != PageState::kInTransit;
    if (taken_back && IsStored(page.result.outcome)) services_.store.Free(page.result.slot);
    const bool gone = !taken_back && FinishPage(block, page.gfn, page.result);
    if (page.charged && map_->Get(block, page.gfn).state() != PageState::kSwapped) swapped_limit_.Uncharge(kOnePage);
    if (!gone) continue;
    if (page.result.outcome == StoreOutcome::kStoredAsIs) moved += kOnePage;
    AddToRuns(runs, page.gfn, entry.frame());
  }
  return ReleaseFrames(block, runs) - moved;
}

bool GuestMemory::FinishPage(Block& block, Gfn gfn, const StoreResult& result) {
  const PageEntry entry = map_->Get(block, gfn);
  switch (result.outcome) {
    case StoreOutcome::kUnchanged:
      // The copy may have been dropped since it was compared.
      if (!services_.store.Revive(result.slot)) {
        map_->Set(block, gfn, entry.In(PageState::kOut));
        return false;
      }
      map_->Set(block, gfn, PageEntry::Swapped(result.slot));
      services_.swap.unchanged.Add();
      NoteSwapped();
      return true;
    case StoreOutcome::kStoredAsIs:
      services_.swap.stored_as_is.Add();
      ABSL_FALLTHROUGH_INTENDED;
    case StoreOutcome::kStored:
      FreeKept(entry);
      map_->Set(block, gfn, PageEntry::Swapped(result.slot));
      NoteSwapped();
      return true;
    case StoreOutcome::kZero:
      FreeKept(entry);
      map_->Set(block, gfn, PageEntry::Absent());
      services_.swap.zero_pages.Add();
      return true;
    case StoreOutcome::kIncompressible:
      FreeKept(entry);
      map_->Set(block, gfn, PageEntry::WithFrame(PageState::kOut, entry.frame()).AsIncompressible());
      services_.swap.refused_incompressible.Add();
      return false;
    case StoreOutcome::kNoRoom:
      map_->Set(block, gfn, entry.In(PageState::kOut));
      services_.swap.refused_no_room.Add();
      return false;
    case StoreOutcome::kOverLimit:
      map_->Set(block, gfn, entry.In(PageState::kOut));
      services_.swap.refused_limit.Add();
      return false;
  }
  return false;
}

void GuestMemory::NoteSwapped() {
  services_.swap.pages_out.Add();
  swapped_peak_.Note(counts()[PageState::kSwapped].in_pages());
}

void GuestMemory::FreeKept(PageEntry entry) {
  if (const std::optional<SwapSlot> kept = entry.kept()) services_.store.Free(*kept);
}

GuestMemory::Standing GuestMemory::Settle(Block& block) {
  absl::MutexLock lock(&block.lock);
  if (block.Count(PageState::kOut) > 0) return Standing::kSomeOut;
  if (block.Count(PageState::kResident) > 0) return Standing::kAllIn;
  block.queued = false;
  return Standing::kNoFrames;
}

// --- Compaction.

void GuestMemory::Migrate(absl::Span<FrameMigrator::Move> moves, FrameMigrator::WholeBlocks whole) {
  if (moves.back().owner.gfn() >= Gfn(0) + size()) return;  // the frames' descriptors were out of date
  Block& block = map_->block(BlockOf(moves.front().owner.gfn()));
  if (!block.lock.TryLock()) return;
  MigrateLocked(block, moves, whole);
  block.lock.Unlock();
}

void GuestMemory::MigrateLocked(Block& block, absl::Span<FrameMigrator::Move> moves, FrameMigrator::WholeBlocks whole) {
  // Its pages keep each other company in a block of the arena that is full.
  const bool may_move = !block.whole || whole == FrameMigrator::WholeBlocks::kTakeApart;
  GfnRange mapped;
  for (FrameMigrator::Move& move : moves) {
    if (!Holds(block, move.owner.gfn(), move.from)) continue;
    move.answer = may_move ? FrameMigrator::Answer::kMoved : FrameMigrator::Answer::kCannot;
    if (may_move) mapped = mapped.Hull(MappedPart(block, move.owner.gfn()));
  }
  FrameRuns old;
  {
    const std::optional<ScopedInvalidation> invalidation = Unmap(mapped);
    for (const FrameMigrator::Move& move : moves) {
      if (move.answer != FrameMigrator::Answer::kMoved) continue;
      MovePage(block, move);
      AddToRuns(old, move.owner.gfn(), move.from);
    }
  }
  ReleaseFrames(block, old);
}

bool GuestMemory::Holds(const Block& block, Gfn gfn, FrameNumber frame) const {
  const PageEntry entry = map_->Get(block, gfn);
  // What is being stored is about to go.
  return entry.has_frame() && entry.frame() == frame && entry.state() != PageState::kInTransit;
}

GfnRange GuestMemory::MappedPart(const Block& block, Gfn gfn) const {
  return map_->Get(block, gfn).state() == PageState::kResident ? GfnRange(gfn, kOnePage) : GfnRange();
}

std::optional<ScopedInvalidation> GuestMemory::Unmap(GfnRange range) {
  if (range.empty()) return std::nullopt;
  return std::optional<ScopedInvalidation>(std::in_place, notifiers_,
                                           Invalidation{.range = range, .event = InvalidateEvent::kClear});
}

void GuestMemory::MovePage(Block& block, const FrameMigrator::Move& move) {
  const Gfn gfn = move.owner.gfn();
  std::memcpy(HostAddress(move.to), HostAddress(move.from), kPageSize);
  frames_->Adopt(gfn, move.to);
  map_->Set(block, gfn, map_->Get(block, gfn).MovedTo(move.to));
}

FrameMigrator::Answer GuestMemory::EvictPage(Gfn gfn, FrameNumber frame) {
  if (gfn >= Gfn(0) + size()) return FrameMigrator::Answer::kBusy;
  Block& block = map_->block(BlockOf(gfn));
  if (!block.lock.TryLock()) return FrameMigrator::Answer::kBusy;
  const FrameMigrator::Answer answer = EvictPageLocked(block, gfn, frame);
  block.lock.Unlock();
  return answer;
}

// All under the block's lock, for the reclaimer may have the block in hand: a page that is stored here never looks in
// transit to it.
FrameMigrator::Answer GuestMemory::EvictPageLocked(Block& block, Gfn gfn, FrameNumber frame) {
  if (!Holds(block, gfn, frame)) return FrameMigrator::Answer::kBusy;
  if (!swapped_limit_.TryCharge(kOnePage)) {
    services_.swap.refused_limit.Add();
    return FrameMigrator::Answer::kCannot;
  }
  {
    const std::optional<ScopedInvalidation> invalidation = Unmap(MappedPart(block, gfn));
    map_->Set(block, gfn, map_->Get(block, gfn).In(PageState::kInTransit));
  }
  CompressionScratch scratch;
  const std::optional<SwapSlot> kept = map_->Get(block, gfn).kept();
  const bool gone = FinishPage(block, gfn, StorePage(kept, HostAddress(frame), scratch, Incompressible::kRefuse));
  if (map_->Get(block, gfn).state() != PageState::kSwapped) swapped_limit_.Uncharge(kOnePage);
  if (!gone) return FrameMigrator::Answer::kCannot;
  FrameRuns runs;
  AddToRuns(runs, gfn, frame);
  ReleaseFrames(block, runs);
  return FrameMigrator::Answer::kMoved;
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
  FrameRuns runs;
  {
    const ScopedInvalidation invalidation(notifiers_, {.range = range, .event = InvalidateEvent::kUnmap});
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
      const PageEntry entry = map_->Get(block, gfn);
      if (entry.has_frame()) AddToRuns(runs, gfn, entry.frame());
      FreeKept(entry);
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

// --- Checking.

PageEntry GuestMemory::EntryOf(Gfn gfn) {
  Block& block = map_->block(BlockOf(gfn));
  absl::MutexLock lock(&block.lock);
  return map_->Get(block, gfn);
}

absl::Status GuestMemory::Check() {
  std::array<uint64_t, kPageStates> sums = {};
  for (uint64_t b = 0; b < map_->blocks(); ++b) {
    Block& block = map_->block(BlockNumber(b));
    if (absl::Status status = CheckBlock(block); !status.ok()) return status;
    absl::MutexLock lock(&block.lock);
    for (size_t state = 0; state < kPageStates; ++state) sums[state] += block.count[state];
  }
  for (size_t state = 0; state < kPageStates; ++state) {
    const PageCount counted = counts()[static_cast<PageState>(state)];
    if (counted == PageCount(sums[state])) continue;
    return absl::InternalError(absl::StrCat("invariant 1: guest ", id(), " counts ", counted.in_pages(),
                                            " pages in state ", state, ", its blocks ", sums[state]));
  }
  return CheckLimits();
}

absl::Status GuestMemory::CheckLimits() const {
  const auto check = [&](const PageLimit& limit, PageCount pages, absl::string_view what) {
    if (!limit.limited() || (limit.charged() == pages && pages <= limit.limit())) return absl::OkStatus();
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
  for (Gfn gfn = map_->Pages(block).begin(); gfn < map_->Pages(block).end(); ++gfn) {
    const PageEntry entry = map_->Get(block, gfn);
    ++count[static_cast<size_t>(entry.state())];
    if (entry.has_frame() && !frames_->Owns(gfn, entry.frame())) {
      return broken(2, gfn, "has a frame that is not its own");
    }
    if (entry.state() == PageState::kSwapped && !services_.store.IsLive(entry.slot())) {
      return broken(5, gfn, "has a slot that is free");
    }
    if (entry.kept().has_value() && !services_.store.IsKept(*entry.kept())) {
      return broken(5, gfn, "has a copy in a slot that is not kept for it");
    }
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
  if (block.HasFrames() && !block.queued) return broken(7, first, "begins a block that no queue has");
  return absl::OkStatus();
}

}  // namespace quire
