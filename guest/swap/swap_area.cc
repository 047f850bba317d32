#include "guest/swap/swap_area.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"

namespace quire {
namespace {

// How long a store is left alone before the next write tries it, when it was away, and when it had no room: that may
// have been made, and costs nothing to find out.
constexpr absl::Duration kAwayFor = absl::Milliseconds(100);
constexpr absl::Duration kFullFor = absl::Seconds(1);

int64_t Now() { return RealClock().Now().in_nanoseconds(); }

}  // namespace

SwapArea::SwapArea(std::unique_ptr<BackingStore> store, absl::Duration await_for)
    : store_(std::move(store)),
      await_for_(await_for),
      clusters_(store_->size().in_bytes() / kClusterBytes),
      free_(clusters_.size()) {
  QUIRE_CHECK(store_->size().in_bytes() >= kLeastBytes);
}

ByteCount SwapArea::dependable_bytes() const {
  const size_t usable = clusters_.size() - kKeptForCleaning - kMostAtOnce;
  return ByteCount::Bytes(usable * kKeptForCleaning / (kKeptForCleaning + 1) * kClusterBytes);
}

bool SwapArea::MayWrite() const { return !failed() && Now() >= let_be_until_.load(std::memory_order_relaxed); }

bool SwapArea::HasRoom() const {
  if (!MayWrite()) return false;
  absl::MutexLock lock(&lock_);
  return free_ > kKeptForCleaning || !empty_.empty();
}

bool SwapArea::IsHalfFree() const {
  absl::MutexLock lock(&lock_);
  return (free_ + empty_.size()) * 2 >= clusters_.size();
}

bool SwapArea::IsAwaited() const {
  const int64_t since = away_since_.load(std::memory_order_relaxed);
  return !failed() && since != 0 && absl::Nanoseconds(Now() - since) < await_for_;
}

std::string SwapArea::StateForPeople() const {
  if (failed()) return "has failed";
  if (away_since_.load(std::memory_order_relaxed) != 0) return "is away";
  return absl::StrCat("holds ", counters_.pages.value(), " pages and has no room for more just now");
}

SwapArea::Clusters SwapArea::TakeClusters(size_t count, bool cleaning) {
  QUIRE_CHECK(count <= kMostAtOnce);
  Clusters taken;
  absl::MutexLock lock(&lock_);
  const size_t kept = cleaning ? 0 : kKeptForCleaning;
  if (free_ <= kept) return taken;
  count = std::min(count, free_ - kept);
  while (taken.size() < count) {
    const uint32_t cluster = next_;
    next_ = cluster + 1 < clusters_.size() ? cluster + 1 : 0;
    if (clusters_[cluster].state != State::kFree) continue;
    clusters_[cluster].state = State::kInHand;
    --free_;
    taken.push_back(cluster);
  }
  return taken;
}

void SwapArea::PutBack(absl::Span<const uint32_t> clusters) {
  absl::MutexLock lock(&lock_);
  for (const uint32_t cluster : clusters) {
    QUIRE_CHECK(clusters_[cluster].state == State::kInHand && clusters_[cluster].live == 0);
    clusters_[cluster].state = State::kFree;
    ++free_;
  }
  if (!clusters.empty()) next_ = clusters.front();  // what is written next lies next to what was written last
}

absl::Status SwapArea::Write(absl::Span<const uint32_t> clusters, absl::Span<std::byte> bytes) {
  absl::InlinedVector<BackingStore::Transfer, kMostAtOnce> transfers;
  for (size_t i = 0; i < clusters.size(); ++i) {
    const absl::Span<std::byte> cluster = bytes.subspan(i * kClusterBytes, kClusterBytes);
    transfers.push_back({.offset = OffsetOf(PlaceOf(clusters[i], 0)), .bytes = cluster});
  }
  const absl::Status status = store_->Write(transfers);
  if (!absl::IsUnavailable(status)) away_since_ = 0;
  if (status.ok()) {
    counters_.bytes_written.Add(clusters.size() * kClusterBytes);
    return status;
  }
  if (absl::IsResourceExhausted(status)) {
    counters_.refused_full.Add();
    let_be_until_ = Now() + absl::ToInt64Nanoseconds(kFullFor);
  } else if (absl::IsUnavailable(status)) {
    counters_.refused_away.Add();
    let_be_until_ = Now() + absl::ToInt64Nanoseconds(kAwayFor);
    int64_t never = 0;
    away_since_.compare_exchange_strong(never, Now());
  } else {
    counters_.errors.Add();
    failed_ = true;
  }
  return status;
}

void SwapArea::Finish(absl::Span<const uint32_t> clusters) {
  absl::MutexLock lock(&lock_);
  for (const uint32_t cluster : clusters) {
    QUIRE_CHECK(clusters_[cluster].state == State::kInHand);
    clusters_[cluster].state = State::kWritten;
    ReleaseIfDeadLocked(cluster);
  }
}

void SwapArea::Charge(uint64_t place, uint32_t length) {
  counters_.pages.Add();
  counters_.bytes.Add(length);
  absl::MutexLock lock(&lock_);
  clusters_[ClusterOf(place)].live += static_cast<uint32_t>(Padded(length));
}

void SwapArea::Drop(uint64_t place, uint32_t length) {
  counters_.pages.Subtract();
  counters_.bytes.Subtract(length);
  absl::MutexLock lock(&lock_);
  Cluster& cluster = clusters_[ClusterOf(place)];
  QUIRE_CHECK(cluster.live >= Padded(length));
  cluster.live -= static_cast<uint32_t>(Padded(length));
  ReleaseIfDeadLocked(ClusterOf(place));
}

void SwapArea::ReleaseIfDeadLocked(uint32_t cluster) {
  if (clusters_[cluster].state != State::kWritten || clusters_[cluster].live > 0) return;
  clusters_[cluster].state = State::kEmpty;
  empty_.push_back(cluster);
}

absl::Status SwapArea::Read(absl::Span<const BackingStore::Transfer> transfers, BackingStore::IfAway if_away) {
  const absl::Status status = store_->Read(transfers, if_away);
  if (absl::IsDataLoss(status)) counters_.errors.Add();
  for (const BackingStore::Transfer& transfer : transfers) counters_.bytes_read.Add(transfer.bytes.size());
  return status;
}

SwapArea::Clusters SwapArea::BeginCleaning() {
  absl::MutexLock lock(&lock_);
  std::vector<uint32_t> candidates;
  for (uint32_t cluster = 0; cluster < clusters_.size(); ++cluster) {
    const Cluster& candidate = clusters_[cluster];
    if (candidate.state == State::kWritten && !candidate.unreadable) candidates.push_back(cluster);
  }
  const size_t count = std::min(candidates.size(), kMostAtOnce);
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(count), candidates.end(),
                    [&](uint32_t a, uint32_t b)
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return clusters_[a].live < clusters_[b].live; });
  // At the end of each cluster less than a page is left unused.
  constexpr size_t kRoom = kKeptForCleaning * (kClusterBytes - kPageSize);
  Clusters chosen;
  size_t live = 0;
  for (size_t i = 0; i < count && live + clusters_[candidates[i]].live <= kRoom; ++i) {
    live += clusters_[candidates[i]].live;
    chosen.push_back(candidates[i]);
  }
  if (chosen.size() <= live / (kClusterBytes - kPageSize) + 1) return {};
  for (const uint32_t cluster : chosen) clusters_[cluster].state = State::kCleaning;
  return chosen;
}

void SwapArea::EndCleaning(absl::Span<const uint32_t> clusters) {
  counters_.cleaned_clusters.Add(clusters.size());
  absl::MutexLock lock(&lock_);
  for (const uint32_t cluster : clusters) {
    clusters_[cluster].state = State::kWritten;
    ReleaseIfDeadLocked(cluster);
  }
}

void SwapArea::NeverClean(uint32_t cluster) {
  absl::MutexLock lock(&lock_);
  clusters_[cluster].unreadable = true;
}

void SwapArea::DiscardEmpty() {
  std::vector<uint32_t> empty;
  {
    absl::MutexLock lock(&lock_);
    empty.swap(empty_);
  }
  if (empty.empty()) return;
  std::sort(empty.begin(), empty.end());
  for (size_t i = 0; i < empty.size();) {
    size_t end = i + 1;
    while (end < empty.size() && empty[end] == empty[end - 1] + 1) ++end;
    store_->Discard(OffsetOf(PlaceOf(empty[i], 0)), ByteCount::Bytes((end - i) * kClusterBytes));
    i = end;
  }
  absl::MutexLock lock(&lock_);
  for (const uint32_t cluster : empty) clusters_[cluster] = Cluster();
  free_ += empty.size();
  // There is room for so much at least.
  if (away_since_.load(std::memory_order_relaxed) == 0) let_be_until_ = 0;
}

absl::Status SwapArea::Check() {
  absl::MutexLock lock(&lock_);
  uint64_t live = 0;
  size_t free = 0;
  for (const Cluster& cluster : clusters_) {
    live += cluster.live;
    free += cluster.state == State::kFree;
    if (cluster.state == State::kInHand || cluster.state == State::kCleaning) {
      return absl::InternalError("swap area: a cluster is in hand, and nobody is at work");
    }
    if (cluster.live > 0 && cluster.state != State::kWritten) {
      return absl::InternalError("swap area: a cluster that was given up has pages");
    }
  }
  const uint64_t bytes = counters_.bytes.value();
  if (free == free_ && live >= bytes && live <= bytes + counters_.pages.value() * (kUnit - 1)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("swap area: ", free, " clusters are free, but ", free_, " were counted, or ",
                                          live, " bytes are in use for pages of ", bytes));
}

}  // namespace quire
