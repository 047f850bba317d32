#include "notifiers/interval_notifier.h"

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "base/check.h"

namespace quire {

IntervalSubscription::IntervalSubscription(GfnRange range) : range_(range) { QUIRE_CHECK(!range.empty()); }

IntervalNotifier::IntervalNotifier(NotifierChain& chain) : chain_(chain) { chain_.Register(this); }

IntervalNotifier::~IntervalNotifier() {
  chain_.Unregister(this);
  absl::MutexLock lock(&mu_);
  QUIRE_CHECK(subscriptions_.empty() && deferred_.empty() && active_ == 0);
}

// While an invalidation is active, which ranges it covers is not known here, so the newcomer is taken to be covered:
// its sequence is the odd current one, and ReadBegin waits for the last end.
void IntervalNotifier::Insert(IntervalSubscription* subscription) {
  absl::MutexLock lock(&mu_);
  uint64_t sequence = sequence_ - 1;  // odd, and not the current one
  if (active_ == 0) {
    subscriptions_.push_back(subscription);
  } else if (invalidating()) {
    deferred_.push_back({subscription, /*insert=*/true});
    sequence = sequence_;
  } else {
    subscriptions_.push_back(subscription);
    sequence = ++sequence_;
  }
  subscription->sequence_.store(sequence, std::memory_order_relaxed);
}

void IntervalNotifier::Remove(IntervalSubscription* subscription) {
  absl::MutexLock lock(&mu_);
  const auto waiting = std::find_if(deferred_.begin(), deferred_.end(),
                                    [&](const Deferred& d) { return d.subscription == subscription; });
  if (waiting != deferred_.end()) {
    QUIRE_CHECK(waiting->insert);
    deferred_.erase(waiting);
  } else if (invalidating()) {
    deferred_.push_back({subscription, /*insert=*/false});
    AwaitChangeFrom(sequence_);
  } else {
    QUIRE_CHECK(std::erase(subscriptions_, subscription) == 1);
  }
}

// If Invalidate has just set the current odd sequence, the range is being invalidated now; any other odd sequence is
// of the past. The sequence returned is that of the last Invalidate, so the next one makes ReadRetry true.
uint64_t IntervalNotifier::ReadBegin(const IntervalSubscription& subscription) {
  absl::MutexLock lock(&mu_);
  const uint64_t sequence = subscription.sequence_.load(std::memory_order_relaxed);
  if (sequence == sequence_) AwaitChangeFrom(sequence);
  return sequence;
}

void IntervalNotifier::AwaitChangeFrom(uint64_t sequence) {
  const auto changed = [this, sequence]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return sequence_ != sequence; };
  mu_.Await(absl::Condition(&changed));
}

bool IntervalNotifier::HasOverlapLocked(GfnRange range) const {
  return std::any_of(subscriptions_.begin(), subscriptions_.end(),
                     [range](const IntervalSubscription* s) { return s->range().overlaps(range); });
}

absl::Status IntervalNotifier::InvalidateRangeStart(const Invalidation& invalidation) {
  absl::InlinedVector<IntervalSubscription*, 8> overlapping;
  uint64_t sequence;
  {
    absl::MutexLock lock(&mu_);
    ++active_;
    if (HasOverlapLocked(invalidation.range)) sequence_ |= 1;
    sequence = sequence_;
    for (IntervalSubscription* s : subscriptions_) {
      if (s->range().overlaps(invalidation.range)) overlapping.push_back(s);
    }
  }
  // None of them can leave before the sequence is even again.
  for (IntervalSubscription* s : overlapping) {
    if (s->Invalidate(invalidation, sequence)) continue;
    QUIRE_CHECK(!invalidation.blockable);
    InvalidateRangeEnd(invalidation);  // who refuses gets no end from the chain
    return absl::UnavailableError("a device would have to wait");
  }
  return absl::OkStatus();
}

void IntervalNotifier::InvalidateRangeEnd(const Invalidation&) {
  absl::MutexLock lock(&mu_);
  QUIRE_CHECK(active_ > 0);
  if (--active_ > 0 || !invalidating()) return;
  ++sequence_;
  ApplyDeferredLocked();
}

void IntervalNotifier::ApplyDeferredLocked() {
  for (const Deferred& d : deferred_) {
    if (d.insert) {
      subscriptions_.push_back(d.subscription);
    } else {
      QUIRE_CHECK(std::erase(subscriptions_, d.subscription) == 1);
    }
  }
  deferred_.clear();
}

void IntervalNotifier::Release() {
  const Invalidation everything{.range = GfnRange(Gfn(0), Gfn(~uint64_t{0})), .event = InvalidateEvent::kRelease};
  QUIRE_CHECK(InvalidateRangeStart(everything).ok());
  InvalidateRangeEnd(everything);
}

}  // namespace quire
