#include "mmu/ept.h"

#include <algorithm>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "notifiers/notifier_chain.h"

namespace quire {

Ept::Ept(FaultHandler& memory) : memory_(memory) {
  QUIRE_CHECK(memory.size() <= EptTables::kMaxPages);
  memory_.notifiers().Register(this);
}

Ept::~Ept() {
  memory_.notifiers().Unregister(this);
  absl::MutexLock lock(&mu_);
  QUIRE_CHECK(std::none_of(seats_.begin(), seats_.end(), [](const Seat& seat) { return seat.taken; }));
}

Ept::Seat* Ept::Join() {
  absl::MutexLock lock(&mu_);
  auto seat = std::find_if(seats_.begin(), seats_.end(), [](const Seat& s) { return !s.taken; });
  Seat& chosen = seat != seats_.end() ? *seat : seats_.emplace_back();
  chosen.taken = true;
  return &chosen;
}

void Ept::Leave(Seat* seat) {
  absl::MutexLock lock(&mu_);
  seat->taken = false;
}

absl::Status Ept::Fault(Gfn gfn, Access access, Seat& seat) {
  seat.faults.Add();
  const MonotonicTime start = RealClock().Now();
  for (;;) {
    const InvalidationTracker::Snapshot snapshot = tracker_.TakeSnapshot();
    const absl::StatusOr<Resolution> resolution = memory_.Resolve(gfn, access, Wait::kMay);
    if (!resolution.ok()) return resolution.status();
    QUIRE_CHECK(resolution->range.contains(gfn) && Allows(resolution->protection, access));
    switch (Install(snapshot, *resolution)) {
      case Installed::kYes:
        fault_latency_.Record(RealClock().Now() - start);
        return absl::OkStatus();
      case Installed::kReleased:
        return absl::CancelledError(
            absl::StrCat("the guest was released while its gfn ", gfn.value(), " was resolved"));
      case Installed::kRetry:
        seat.retries.Add();
        std::this_thread::yield();  // to whoever invalidates
    }
  }
}

Ept::Installed Ept::Install(InvalidationTracker::Snapshot snapshot, const Resolution& resolution) {
  Shootdown shootdown;
  {
    absl::MutexLock lock(&mu_);
    if (released_) return Installed::kReleased;
    if (tracker_.MustRetry(snapshot, resolution.range)) return Installed::kRetry;
    tables_.Install(resolution, shootdown.retired);
    if (!shootdown.retired.empty()) RequestFlushesLocked(shootdown);
  }
  Finish(std::move(shootdown));
  return Installed::kYes;
}

void Ept::RequestFlushesLocked(Shootdown& shootdown) {
  for (Seat& seat : seats_) {
    if (!seat.taken) continue;
    const uint64_t ticket = seat.gate.Request(shootdown.range);
    if (seat.gate.InGuest()) shootdown.awaited.emplace_back(&seat.gate, ticket);
  }
}

void Ept::Finish(Shootdown shootdown) {
  for (const auto& [gate, ticket] : shootdown.awaited) gate->Await(ticket);
  tables_.Free(shootdown.retired);
}

// Where nothing was mapped nobody has anything to flush, with one exception: another invalidation of the same pages may
// have unmapped them just now and still be waiting, and this one must not return before their users are gone either.
absl::Status Ept::InvalidateRangeStart(const Invalidation& invalidation) {
  Shootdown shootdown;
  {
    absl::MutexLock lock(&mu_);
    tracker_.Begin();
    tracker_.AddRange(invalidation.range);
    shootdown.range = tables_.Zap(invalidation.range, shootdown.retired);
    if (tracker_.in_progress() > 1) shootdown.range = shootdown.range.Hull(invalidation.range);
    if (!shootdown.range.empty()) RequestFlushesLocked(shootdown);
  }
  Finish(std::move(shootdown));
  return absl::OkStatus();
}

void Ept::InvalidateRangeEnd(const Invalidation&) {
  absl::MutexLock lock(&mu_);
  tracker_.End();
}

// Flushes what is mapped and not only what was marked: ClearYoung may have left a page in a TLB without its mark. Not
// awaited: an access that is under way counts as one before the call.
bool Ept::ClearFlushYoung(GfnRange range) {
  absl::MutexLock lock(&mu_);
  const EptTables::Aged aged = tables_.ClearAccessed(range);
  Shootdown shootdown{.range = aged.mapped, .retired = {}, .awaited = {}};
  if (!aged.mapped.empty()) RequestFlushesLocked(shootdown);
  return aged.young;
}

bool Ept::ClearYoung(GfnRange range) {
  absl::MutexLock lock(&mu_);
  return tables_.ClearAccessed(range).young;
}

bool Ept::TestYoung(Gfn gfn) { return Lookup(gfn).accessed(); }

void Ept::Release() {
  {
    absl::MutexLock lock(&mu_);
    released_ = true;
  }
  const Invalidation everything{.range = GfnRange(Gfn(0), memory_.size()), .event = InvalidateEvent::kRelease};
  QUIRE_CHECK(InvalidateRangeStart(everything).ok());
  InvalidateRangeEnd(everything);
}

EptEntry Ept::Lookup(Gfn gfn) const {
  absl::MutexLock lock(&mu_);
  return gfn.value() < memory_.size().in_pages() ? tables_.Find(gfn) : EptEntry();
}

EptStatistics Ept::statistics() const {
  EptStatistics sum;
  sum.blocks = tables_.blocks();
  uint64_t bytes = tables_.bytes().in_bytes();
  absl::MutexLock lock(&mu_);
  for (const Seat& seat : seats_) {
    sum.tlb_hits += seat.hits.value();
    sum.tlb_misses += seat.misses.value();
    sum.faults += seat.faults.value();
    sum.retries += seat.retries.value();
    sum.flushes += seat.gate.flushes();
    bytes += sizeof(Seat) + (seat.taken ? sizeof(EptVcpu) : 0);
  }
  sum.metadata = ByteCount::Bytes(bytes);
  return sum;
}

std::byte* EptVcpu::Walk(Gfn gfn, Access access) {
  seat_.misses.Add();
  if (gfn.value() >= ept_.memory_.size().in_pages()) return nullptr;
  const EptEntry leaf = ept_.tables_.Touch(gfn, access);
  if (!leaf.present()) return nullptr;
  std::byte* const address = ept_.memory_.HostAddress(leaf.frame());
  const bool can_write = leaf.writable() && leaf.dirty();
  if (!leaf.large()) return tlb_.InsertPage(gfn, address, can_write), address;
  tlb_.InsertBlock(BlockOf(gfn), address, can_write);
  return address + IndexInBlock(gfn) * kPageSize;
}

}  // namespace quire
