// What takes pages of a guest out of its memory, or to another place in it: aging, eviction, migration.
#include <bitset>
#include <cstring>
#include <optional>

#include "absl/base/attributes.h"
#include "absl/container/inlined_vector.h"
#include "guest/guest_memory.h"

namespace quire {
namespace {

bool IsStored(StoreOutcome outcome) { return outcome == StoreOutcome::kStored || outcome == StoreOutcome::kStoredAsIs; }

}  // namespace

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
  if (!IsWholeAndIn(block) || block.wired != nullptr) return Found::kPieces;
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
    if (block.IsWired(gfn)) {
      services_.wiring.refused_reclaim.Add();
      continue;
    }
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
    // One that was taken back may be in the store all the same: put there by another, who has charged it.
    const bool stored = !taken_back && map_->Get(block, page.gfn).state() == PageState::kSwapped;
    if (page.charged && !stored) swapped_limit_.Uncharge(kOnePage);
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
  pages_out_.Add();
  swapped_peak_.Note(counts()[PageState::kSwapped].in_pages());
}

void GuestMemory::FreeKept(PageEntry entry) {
  if (const std::optional<SwapSlot> kept = entry.kept()) services_.store.Free(*kept);
}

GuestMemory::Standing GuestMemory::Settle(Block& block) {
  absl::MutexLock lock(&block.lock);
  if (block.Count(PageState::kOut) > 0) return Standing::kSomeOut;
  if (block.Count(PageState::kResident) > block.CountWired()) return Standing::kAllIn;
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
    const bool moves = may_move && !IsRefusedAsWired(block, move.owner.gfn());
    move.answer = moves ? FrameMigrator::Answer::kMoved : FrameMigrator::Answer::kCannot;
    if (moves) mapped = mapped.Hull(MappedPart(block, move.owner.gfn()));
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

// Since its frame's descriptor was read: that says so too.
bool GuestMemory::IsRefusedAsWired(const Block& block, Gfn gfn) {
  if (!block.IsWired(gfn)) return false;
  services_.wiring.refused_move.Add();
  return true;
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
  if (IsRefusedAsWired(block, gfn)) return FrameMigrator::Answer::kCannot;
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

}  // namespace quire
