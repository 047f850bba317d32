#include "notifiers/notifier_chain.h"

#include <algorithm>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/check.h"

namespace quire {
namespace {

// How often a change of the list looks whether the old list is still in use. Changes are rare and in no hurry; polling
// keeps the invalidation path free of wake-ups.
constexpr absl::Duration kPoll = absl::Microseconds(50);

bool Contains(absl::Span<MmuNotifier* const> list, MmuNotifier* subscriber) {
  return std::find(list.begin(), list.end(), subscriber) != list.end();
}

}  // namespace

NotifierChain::NotifierChain() : subscribers_(nullptr), current_(std::make_unique<const Subscribers>()) {
  subscribers_.store(current_.get());
}

NotifierChain::~NotifierChain() {
  absl::MutexLock lock(&mu_);
  QUIRE_CHECK(current_->empty());
  QUIRE_CHECK(visitors_[0].count.load() == 0 && visitors_[1].count.load() == 0);
}

void NotifierChain::Register(MmuNotifier* subscriber) {
  absl::MutexLock lock(&mu_);
  QUIRE_CHECK(!Contains(*current_, subscriber));
  auto next = std::make_unique<Subscribers>(*current_);
  next->push_back(subscriber);
  Publish(std::move(next));
  if (released_) subscriber->Release();
}

void NotifierChain::Unregister(MmuNotifier* subscriber) {
  absl::MutexLock lock(&mu_);
  QUIRE_CHECK(Contains(*current_, subscriber));
  auto next = std::make_unique<Subscribers>(*current_);
  std::erase(*next, subscriber);
  Publish(std::move(next));
}

// Sequentially consistent on both sides: a visitor that found the old list was counted before Publish stored the new
// one, and so before Publish looks at the counters.
NotifierChain::Visit NotifierChain::Enter() {
  const int side = side_.load(std::memory_order_relaxed);
  visitors_[side].count.fetch_add(1, std::memory_order_seq_cst);  // pairs with the loads of WaitForVisitors
  return {subscribers_.load(std::memory_order_seq_cst), side};    // pairs with the store in Publish
}

// Both sides are waited for, since a visitor may have read side_ long before it was counted. Turning newcomers to the
// other side first is what lets each wait end while invalidations keep coming.
void NotifierChain::Publish(std::unique_ptr<const Subscribers> subscribers) {
  subscribers_.store(subscribers.get(), std::memory_order_seq_cst);
  const int side = side_.load(std::memory_order_relaxed);
  WaitForVisitors(1 - side);
  side_.store(1 - side, std::memory_order_relaxed);
  WaitForVisitors(side);
  current_ = std::move(subscribers);
}

// Pairs with the release in Leave: what the visitors did happened before the return.
void NotifierChain::WaitForVisitors(int side) const {
  while (visitors_[side].count.load(std::memory_order_seq_cst) != 0) absl::SleepFor(kPoll);
}

bool NotifierChain::ClearFlushYoung(GfnRange range) {
  const Visit visit = Enter();
  bool young = false;
  for (MmuNotifier* s : *visit.subscribers) young |= s->ClearFlushYoung(range);
  Leave(visit);
  return young;
}

bool NotifierChain::ClearYoung(GfnRange range) {
  const Visit visit = Enter();
  bool young = false;
  for (MmuNotifier* s : *visit.subscribers) young |= s->ClearYoung(range);
  Leave(visit);
  return young;
}

bool NotifierChain::TestYoung(Gfn gfn) {
  const Visit visit = Enter();
  const bool young = std::any_of(visit.subscribers->begin(), visit.subscribers->end(),
                                 [gfn](MmuNotifier* s) { return s->TestYoung(gfn); });
  Leave(visit);
  return young;
}

void NotifierChain::Release() {
  absl::MutexLock lock(&mu_);
  if (std::exchange(released_, true)) return;
  for (MmuNotifier* s : *current_) s->Release();
}

// Calls every subscriber even after one has refused, as Linux does; then the ones that started get their end, and the
// invalidation is as if it had never been.
absl::Status NotifierChain::Start(const Subscribers& subscribers, const Invalidation& invalidation) {
  QUIRE_CHECK(!invalidation.range.empty());
  absl::InlinedVector<MmuNotifier*, 4> refused;
  for (MmuNotifier* s : subscribers) {
    const absl::Status status = s->InvalidateRangeStart(invalidation);
    if (status.ok()) continue;
    QUIRE_CHECK(!invalidation.blockable && absl::IsUnavailable(status));
    refused.push_back(s);
  }
  if (refused.empty()) {
    invalidations_.Add();
    pages_.Add(invalidation.range.size().in_pages());
    return absl::OkStatus();
  }
  for (MmuNotifier* s : subscribers) {
    if (!Contains(refused, s)) s->InvalidateRangeEnd(invalidation);
  }
  return absl::UnavailableError("a secondary MMU would have to wait: invalidate again, blockable");
}

ScopedInvalidation::ScopedInvalidation(NotifierChain& chain, const Invalidation& invalidation)
    : ScopedInvalidation(chain, chain.Enter(), invalidation) {
  QUIRE_CHECK(invalidation.blockable);
  QUIRE_CHECK(chain.Start(*visit_.subscribers, invalidation_).ok());
}

absl::StatusOr<ScopedInvalidation> ScopedInvalidation::TryStart(NotifierChain& chain, Invalidation invalidation) {
  invalidation.blockable = false;
  const NotifierChain::Visit visit = chain.Enter();
  const absl::Status status = chain.Start(*visit.subscribers, invalidation);
  if (status.ok()) return ScopedInvalidation(chain, visit, invalidation);
  chain.Leave(visit);
  return status;
}

ScopedInvalidation::ScopedInvalidation(ScopedInvalidation&& other) noexcept
    : chain_(std::exchange(other.chain_, nullptr)), visit_(other.visit_), invalidation_(other.invalidation_) {}

void ScopedInvalidation::End() {
  if (chain_ == nullptr) return;
  for (MmuNotifier* s : *visit_.subscribers) s->InvalidateRangeEnd(invalidation_);
  std::exchange(chain_, nullptr)->Leave(visit_);
}

}  // namespace quire
