// Pages of a guest that share a frame with others of the same content, and how they come to, stop and move.
//
// Nobody writes a shared frame, so each page comes and goes by itself, under the lock of its own block alone: two of
// them never have to change together.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/status/statusor.h"
#include "base/racy_reads.h"
#include "guest/guest_memory.h"
#include "guest/merge/page_hash.h"

namespace quire {
namespace {

// Pages that are looked at under one hold of their block's lock: some microseconds.
constexpr uint64_t kSampledAtOnce = 16;

// Pages that are merged under one hold.
constexpr size_t kMergedAtOnce = 64;

// What lies between two pages loses its translations too if they are invalidated together: worth it for so many pages.
constexpr PageCount kReachAcross{16};

// A cache line in eight.
bool IsZeroAtAGlance(const std::byte* page) {
  constexpr size_t kLine = 64;
  static constexpr std::byte kZeros[kLine] = {};
  for (size_t at = 0; at < kPageSize; at += 8 * kLine) {
    if (std::memcmp(page + at, kZeros, kLine) != 0) return false;
  }
  return true;
}

}  // namespace

bool GuestMemory::IsWhole(BlockNumber number) {
  Block& block = map_->block(number);
  absl::MutexLock lock(&block.lock);
  return block.whole;
}

bool GuestMemory::HasFrames(BlockNumber number) {
  Block& block = map_->block(number);
  absl::MutexLock lock(&block.lock);
  return block.HasFrames();
}

// Read through the alias while the guest may write: what is found is confirmed before it counts. Under the lock, for a
// frame that is given back meanwhile would be populated again by reading it.
void GuestMemory::SamplePages(GfnRange range, uint64_t seed, absl::FunctionRef<HowToSample(Gfn)> how,
                              Samples& samples) {
  Block& block = map_->block(BlockOf(range.begin()));
  const GfnRange pages = map_->Pages(block).Intersect(range);
  for (Gfn first = pages.begin(); first < pages.end(); first = first + PageCount(kSampledAtOnce)) {
    absl::MutexLock lock(&block.lock);
    const GfnRange batch = GfnRange(first, PageCount(kSampledAtOnce)).Intersect(pages);
    struct Page {
      Gfn gfn;
      HowToSample how;
      const std::byte* bytes;
    };
    absl::InlinedVector<Page, kSampledAtOnce> wanted;
    for (Gfn gfn = batch.begin(); gfn < batch.end(); ++gfn) {
      const PageEntry entry = map_->Get(block, gfn);
      if (!entry.has_frame() || entry.state() == PageState::kInTransit) continue;
      const HowToSample page_how = how(gfn);
      if (page_how == HowToSample::kNot) continue;
      wanted.push_back({.gfn = gfn, .how = page_how, .bytes = FrameAddress(block, entry.frame())});
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (i + 1 < wanted.size()) __builtin_prefetch(wanted[i + 1].bytes);
      const RacyReads hint;
      const Page& page = wanted[i];
      const bool zero = page.how == HowToSample::kGlance ? IsZeroAtAGlance(page.bytes) : SwapSpace::IsZero(page.bytes);
      samples.push_back({.gfn = page.gfn, .hash = zero ? 0 : HashPage(page.bytes, seed), .zero = zero});
    }
  }
}

void GuestMemory::MergePages(BlockNumber number, uint64_t seed, absl::Span<Merge> merges) {
  Block& block = map_->block(number);
  while (!merges.empty()) {
    size_t count = 1;
    while (count < merges.size() && count < kMergedAtOnce &&
           merges[count].gfn - merges[count - 1].gfn <= kReachAcross) {
      ++count;
    }
    if (block.lock.TryLock()) {
      MergeRun(block, seed, merges.first(count));
      block.lock.Unlock();
    }
    merges.remove_prefix(count);
  }
}

void GuestMemory::MergeRun(Block& block, uint64_t seed, absl::Span<Merge> run) {
  GfnRange mapped;
  bool any = false;
  for (Merge& merge : run) {
    merge.outcome = LooksPromising(block, seed, merge);
    if (merge.outcome == Merge::Outcome::kMerged && stopped()) merge.outcome = Merge::Outcome::kBusy;
    if (merge.outcome == Merge::Outcome::kMerged && !ChargeIsland(merge)) merge.outcome = Merge::Outcome::kCannot;
    if (merge.outcome != Merge::Outcome::kMerged) continue;
    any = true;
    mapped = mapped.Hull(MappedPart(block, merge.gfn));
  }
  if (!any) return;
  FrameRuns old;
  {
    const std::optional<ScopedInvalidation> invalidation = Unmap(mapped);
    for (Merge& merge : run) {
      if (merge.outcome != Merge::Outcome::kMerged) continue;
      const FrameNumber frame = map_->Get(block, merge.gfn).frame();
      merge.outcome = MergePage(block, seed, merge);
      if (merge.outcome == Merge::Outcome::kMerged) {
        AddToRuns(old, merge.gfn, frame);
      } else if (merge.into != Merge::Into::kNothing) {
        UnchargeIsland();
      }
    }
  }
  ReleaseFrames(block, old);
}

// What shall go into a frame that there is, or into none, was sampled just now. The first of its content may have been
// sampled a pass ago: whether it has changed is worth a look before it is invalidated.
GuestMemory::Merge::Outcome GuestMemory::LooksPromising(const Block& block, uint64_t seed, const Merge& merge) {
  const RacyReads hint;
  if (merge.into == Merge::Into::kNewFrame) return LooksLike(block, seed, merge);
  const PageEntry entry = map_->Get(block, merge.gfn);
  if (!entry.has_frame()) return Merge::Outcome::kChanged;
  return entry.state() == PageState::kInTransit ? Merge::Outcome::kBusy : Merge::Outcome::kMerged;
}

GuestMemory::Merge::Outcome GuestMemory::LooksLike(const Block& block, uint64_t seed, const Merge& merge) {
  const PageEntry entry = map_->Get(block, merge.gfn);
  if (!entry.has_frame()) return Merge::Outcome::kChanged;
  if (entry.state() == PageState::kInTransit) return Merge::Outcome::kBusy;
  if (block.IsWired(merge.gfn)) return Merge::Outcome::kWired;
  const std::byte* const page = FrameAddress(block, entry.frame());
  bool same = false;
  switch (merge.into) {
    case Merge::Into::kNothing:
      same = SwapSpace::IsZero(page);
      break;
    case Merge::Into::kNewFrame:
      same = HashPage(page, seed) == merge.hash;
      break;
    case Merge::Into::kFrame:
      same = std::memcmp(page, HostAddress(merge.hold->frame()), kPageSize) == 0;
      break;
  }
  return same ? Merge::Outcome::kMerged : Merge::Outcome::kChanged;
}

// Nobody can write the page any more.
GuestMemory::Merge::Outcome GuestMemory::MergePage(Block& block, uint64_t seed, const Merge& merge) {
  const Merge::Outcome looks = LooksLike(block, seed, merge);
  if (looks != Merge::Outcome::kMerged) return looks;
  if (merge.into == Merge::Into::kNothing) {
    ReplacePage(block, merge.gfn, PageEntry::Absent());
    return Merge::Outcome::kMerged;
  }
  return SharePage(block, merge);
}

GuestMemory::Merge::Outcome GuestMemory::SharePage(Block& block, const Merge& merge) {
  if (merge.into == Merge::Into::kFrame) {
    const std::optional<ShareLink> link = services_.shared.Join(*merge.hold, AsSharer(merge.gfn));
    if (!link.has_value()) return Merge::Outcome::kFull;
    ReplacePage(block, merge.gfn, PageEntry::Shared(merge.hold->frame(), *link));
    return Merge::Outcome::kMerged;
  }
  const absl::StatusOr<FrameNumber> frame = services_.shared.Allocate();
  if (!frame.ok()) return Merge::Outcome::kNoMemory;
  std::memcpy(HostAddress(*frame), FrameAddress(block, map_->Get(block, merge.gfn).frame()), kPageSize);
  const ShareLink link = services_.shared.Publish(*frame, merge.hash, AsSharer(merge.gfn));
  ReplacePage(block, merge.gfn, PageEntry::Shared(*frame, link));
  return Merge::Outcome::kMerged;
}

void GuestMemory::ReplacePage(Block& block, Gfn gfn, PageEntry entry) {
  FreeKept(map_->Get(block, gfn));
  map_->Set(block, gfn, entry);
}

// --- Faults.

absl::StatusOr<Resolution> GuestMemory::ResolveShared(Block& block, Gfn gfn, const FaultPlan& plan) {
  services_.shared.NoteUsed(map_->Get(block, gfn).frame());
  if (plan.access == Access::kRead) {
    Resolution resolution = ConsecutiveAround(block, gfn);
    resolution.protection = Protection::kReadOnly;
    return resolution;
  }
  const absl::StatusOr<Resolution> own = AcquireSome(RunAhead(block, gfn, plan));
  if (own.ok()) Unshare(block, own->range, own->frame);
  return own;
}

void GuestMemory::Unshare(Block& block, GfnRange run, FrameNumber own) {
  absl::InlinedVector<PageEntry, kRun.in_pages()> shared;
  for (Gfn page = run.begin(); page < run.end(); ++page) {
    shared.push_back(map_->Get(block, page));
    std::memcpy(HostAddress(own + (page - run.begin())), HostAddress(shared.back().frame()), kPageSize);
  }
  {
    const ScopedInvalidation invalidation(notifiers_, {.range = run, .event = InvalidateEvent::kProtectionPage});
    MakeResident(block, run, own);
  }
  for (const PageEntry entry : shared) LeaveShared(entry);
  services_.faults.unshare.Add(run.size().in_pages());
}

void GuestMemory::LeaveShared(PageEntry entry) {
  if (entry.state() != PageState::kShared) return;
  services_.shared.Leave(entry.frame(), entry.link());
  UnchargeIsland();
}

// --- A shared frame is given up.

bool GuestMemory::Shares(const Block& block, Gfn gfn, FrameNumber frame) const {
  const PageEntry entry = map_->Get(block, gfn);
  return entry.state() == PageState::kShared && entry.frame() == frame;
}

bool GuestMemory::MoveShared(Gfn gfn, const SharedFrames::Hold& from, const SharedFrames::Hold& to) {
  Block& block = map_->block(BlockOf(gfn));
  absl::MutexLock lock(&block.lock);
  if (!Shares(block, gfn, from.frame())) return false;
  const std::optional<ShareLink> link = services_.shared.Join(to, AsSharer(gfn));
  if (!link.has_value()) return false;
  const PageEntry entry = map_->Get(block, gfn);
  {
    const std::optional<ScopedInvalidation> invalidation = Unmap(GfnRange(gfn, kOnePage));
    map_->Set(block, gfn, PageEntry::Shared(to.frame(), *link));
  }
  services_.shared.Leave(entry.frame(), entry.link());
  return true;
}

bool GuestMemory::EvictShared(Gfn gfn, const SharedFrames::Hold& from, SwapSlot slot) {
  Block& block = map_->block(BlockOf(gfn));
  absl::MutexLock lock(&block.lock);
  if (!Shares(block, gfn, from.frame())) return false;
  if (!swapped_limit_.TryCharge(kOnePage)) {
    services_.swap.refused_limit.Add();
    return false;
  }
  if (!services_.store.Share(slot)) {
    swapped_limit_.Uncharge(kOnePage);
    return false;
  }
  const PageEntry entry = map_->Get(block, gfn);
  {
    const std::optional<ScopedInvalidation> invalidation = Unmap(GfnRange(gfn, kOnePage));
    map_->Set(block, gfn, PageEntry::Swapped(slot));
  }
  LeaveShared(entry);
  NoteSwapped();
  return true;
}

void GuestMemory::UnmapShared(Gfn gfn, const SharedFrames::Hold& frame) {
  Block& block = map_->block(BlockOf(gfn));
  absl::MutexLock lock(&block.lock);
  if (Shares(block, gfn, frame.frame())) Unmap(GfnRange(gfn, kOnePage));
}

}  // namespace quire
