// Faults of a guest: what is brought in for them, from where, and what they wait for.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "guest/guest_memory.h"

namespace quire {
// --- Faults.

absl::StatusOr<Resolution> GuestMemory::Resolve(Gfn gfn, Access access, Wait wait) {
  if (gfn >= Gfn(0) + size()) {
    return absl::OutOfRangeError(
        absl::StrCat("guest ", id(), " has no page ", gfn.value(), ": its memory ends at page ", size().in_pages()));
  }
  if (frozen()) return absl::FailedPreconditionError(absl::StrCat("guest ", id(), " is a template, and does not run"));
  FaultPlan plan{
      .access = access, .granularity = {}, .may_compact = wait == Wait::kMay && services_.compactor.in_fault()};
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
      GuestMemory& at_limit = plan.at_limit != nullptr ? *plan.at_limit : *this;
      if (absl::Status status = at_limit.MakeRoomWithinLimit(plan); !status.ok()) return StoppedFor(status);
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
    if (++made_room == kTriesForBlock) GiveUpBlock(plan, BlockRefusal::kMemory);
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
    plan.at_limit = nullptr;
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
  const bool goes_on = try_again || (absl::IsDataLoss(resolution.status()) && lives_with_loss());
  if (!resolution.ok() && !goes_on) Stop(resolution.status());
  return resolution;
}

void GuestMemory::GiveUpBlock(FaultPlan& plan, BlockRefusal why) {
  if (plan.granularity == Granularity::kBlock) services_.faults.whole_refused.Add(why);
  plan.granularity = Granularity::kPage;
}

// Nothing is taken from other guests, however little they need it. Only if the pool is so full that nothing can be
// stored in it does it have to make room, as for any fault; a few times, for others may be faster to use it.
absl::Status GuestMemory::MakeRoomWithinLimit(FaultPlan& plan) {
  const bool block = plan.granularity == Granularity::kBlock;
  const bool made = services_.reclaim.ReclaimFrom(*this, block ? kOneBlock : kOnePage);
  if (stopped()) return status();
  if (block && (!made || ++plan.rooms_within_limit == kTriesForBlock)) {
    GiveUpBlock(plan, BlockRefusal::kLimit);
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
  if (HasRoomFor(kOnePage)) return absl::OkStatus();  // the limit has been raised meanwhile
  return StopAtLimit();
}

// A template has no life of its own to end: whoever needs its page cannot go on.
absl::Status GuestMemory::StoppedFor(const absl::Status& why) {
  if (!stopped()) {
    Stop(why);
    Discard(GfnRange(Gfn(0), size()));
  }
  return status();
}

absl::Status GuestMemory::StopAtLimit() {
  const PageCount swapped = counts()[PageState::kSwapped];
  const std::string most =
      swapped_limit_.limited() ? absl::StrFormat(" of at most %.0f MiB", swapped_limit_.limit().bytes().in_mib()) : "";
  const absl::Status why = absl::ResourceExhaustedError(absl::StrFormat(
      "guest-%u is at its limit of %.0f MiB of memory and nothing more of it can be stored (%.0f MiB%s are)%s; it has "
      "been stopped; %s",
      id(), held_limit_.limit().bytes().in_mib(), swapped.bytes().in_mib(), most, services_.store.DescribeAreas(),
      limit_advice_));
  if (frozen()) return why;
  Stop(why);
  Discard(GfnRange(Gfn(0), size()));
  return status();
}

Granularity GuestMemory::Choose(Block& block, Gfn gfn) {
  // A second chance costs next to nothing and says little: a few pages of a block may be in use all the time, and its
  // others never.
  const PageState state = map_->Get(block, gfn).state();
  if (!block.whole && (state == PageState::kOut || state == PageState::kInTransit)) return Granularity::kRun;
  const bool shares = block.Count(PageState::kShared) > 0;
  const bool inherits = block.Count(PageState::kInherited) > 0;
  const Granularity chosen = ChooseGranularity(services_.granularity, block.faults,
                                               {.index = IndexInBlock(gfn),
                                                .number = static_cast<uint32_t>(faults_.value()),
                                                .after_stream = IsAfterStream(block),
                                                .may_be_whole = MayBeWhole(block) && !shares && !inherits});
  const bool asks = InStream(services_.granularity, block.faults) ||
                    block.faults.window_faults >= services_.granularity.concentrated_faults;
  if ((shares || inherits) && asks && MayBeWhole(block)) {
    services_.faults.whole_refused.Add(shares ? BlockRefusal::kShared : BlockRefusal::kInherited);
  }
  return chosen;
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
  if (!fetched.ok() || ++plan.fetches == kMostFetches) GiveUpBlock(plan, BlockRefusal::kUnread);
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
    const bool scattered = absl::IsAborted(whole.status()) && !plan.may_compact;
    if (scattered) services_.faults.whole_refused.Add(BlockRefusal::kScattered);
    const bool in_pieces = absl::IsFailedPrecondition(whole.status()) || scattered;
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
    case PageState::kShared:
      return ResolveShared(block, gfn, plan);
    case PageState::kInherited:
      return ResolveInherited(block, gfn, plan);
    case PageState::kPoisoned:
      break;
  }
  return absl::DataLossError(
      absl::StrCat("page ", gfn.value(), " of guest-", id(), " is lost: the memory that held it has failed"));
}

// --- Single pages and short runs.

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

GfnRange GuestMemory::RunAhead(const Block& block, Gfn gfn, const FaultPlan& plan) const {
  const bool in_order = *plan.granularity != Granularity::kPage && frames_->max_run() >= kRun;
  return {gfn, in_order ? RunAround(block, gfn).end() : gfn + kOnePage};
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
  return frames_->Acquire(run.begin(), run.size());
}

absl::StatusOr<Resolution> GuestMemory::AcquireSome(GfnRange run) {
  absl::StatusOr<FrameNumber> first = AcquireFrames(run);
  if (!first.ok() && run.size() > kOnePage) {
    run = GfnRange(run.begin(), kOnePage);
    first = AcquireFrames(run);
  }
  if (!first.ok()) return first.status();
  return Resolution{.range = run, .frame = *first};
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
  GfnRange run = RunAhead(block, gfn, plan);
  if (PlanToFetch(block, run, gfn, plan)) return InSwapArea();
  const absl::StatusOr<Resolution> acquired = AcquireSome(run);
  if (!acquired.ok()) return acquired.status();
  run = acquired->range;
  const FrameNumber first = acquired->frame;
  for (Gfn page = gfn; page < run.end(); ++page) {
    const FrameNumber frame = first + (page - gfn);
    if (absl::Status status = LoadPage(block, page, frame, HostAddress(frame), plan.fetched); !status.ok()) {
      frames_->Release(page, frame, run.end() - page);
      if (page == gfn) return LookAgain(block, gfn, status, plan);
      run = GfnRange(gfn, page);  // the guest has not asked for this one, and perhaps never will
      break;
    }
  }
  return Resolution{.range = run, .frame = first};
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
  EnqueueIfNeeded(block);
}

}  // namespace quire
