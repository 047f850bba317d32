// A backing store in use for swapped pages: which parts of it hold what (Linux's swap area).
//
// It is divided into clusters of 64 KiB, which are taken, written and given back as wholes. Pages lie in a cluster one
// after the other, at multiples of 16 bytes; a cluster falls free when the last of them is dropped. When no cluster is
// free, the emptiest ones are cleaned: what still lives in them moves together, into clusters that are kept for that
// (a log-structured store's cleaner; Rosenblum and Ousterhout, 1991).
//
//            TakeClusters                 Finish                       last page dropped
//     free ---------------> in hand ----------------> written ------------------------------> empty --> free
//                              |                        |  ^                                     DiscardEmpty
//                              +-- PutBack --> free     +--+ cleaning: not given back meanwhile
#ifndef QUIRE_GUEST_SWAP_SWAP_AREA_H_
#define QUIRE_GUEST_SWAP_SWAP_AREA_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/swap/backing_store.h"

namespace quire {

struct SwapAreaCounters {
  Gauge pages;
  Gauge kept;   // of them: copies of pages that have frames
  Gauge bytes;  // of pages: what was stored, without padding
  Counter bytes_written;
  Counter bytes_read;
  Counter cleaned_clusters;
  Counter errors;  // transfers that failed
  // Why pages stayed where they were.
  Counter refused_full;
  Counter refused_away;
};

// Thread safe. Its lock is a leaf, not held during transfers.
class SwapArea {
 public:
  static constexpr size_t kClusterBytes = 64 << 10;
  static constexpr size_t kUnit = 16;        // bytes: what places are counted in
  static constexpr size_t kMostAtOnce = 16;  // clusters: 1 MiB a write
  using Clusters = absl::InlinedVector<uint32_t, kMostAtOnce>;

  // `store` has room for at least kLeastBytes.
  // `await_for`: how long it is counted on when it is away.
  explicit SwapArea(std::unique_ptr<BackingStore> store, absl::Duration await_for = kAwaitFor);
  static constexpr absl::Duration kAwaitFor = absl::Seconds(60);
  static constexpr size_t kLeastBytes = 2 * kMostAtOnce * kClusterBytes;

  // What it takes of pages that do not compress, in whatever order they come and go: cleaning gains a cluster only once
  // a fifth of five is dead, and what is being written is in hand meanwhile.
  ByteCount dependable_bytes() const;

  BackingStore& store() const { return *store_; }
  const SwapAreaCounters& counters() const { return counters_; }
  SwapAreaCounters& counters() { return counters_; }
  // It is not written to any more.
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  // As far as is known, another write would succeed.
  bool MayWrite() const;
  // The same, and there are clusters to write to.
  bool HasRoom() const ABSL_LOCKS_EXCLUDED(lock_);
  bool IsHalfFree() const ABSL_LOCKS_EXCLUDED(lock_);
  // As far as is known, what lies there can be read.
  bool IsReachable() const { return !failed() && away_since_.load(std::memory_order_relaxed) == 0; }
  // It is away, and not yet for so long that nobody should count on it any more.
  bool IsAwaited() const;
  // "is full", "has failed", ...: what to say when there is no memory.
  std::string StateForPeople() const;

  // Up to `count` free clusters, side by side as far as can be; fewer, or none, if there are no more. What is kept for
  // cleaning is left to `cleaning`.
  Clusters TakeClusters(size_t count, bool cleaning) ABSL_LOCKS_EXCLUDED(lock_);
  // Clusters in hand that were not written, or in vain.
  void PutBack(absl::Span<const uint32_t> clusters) ABSL_LOCKS_EXCLUDED(lock_);
  // Writes clusters in hand, of which `bytes` holds one after the other. After an error the area is failed, full or
  // away, and the clusters are to be put back.
  absl::Status Write(absl::Span<const uint32_t> clusters, absl::Span<std::byte> bytes);
  // What is referred to in them has been charged by now.
  void Finish(absl::Span<const uint32_t> clusters) ABSL_LOCKS_EXCLUDED(lock_);

  // A page of `length` bytes at `place` is referred to from now on, or no more.
  void Charge(uint64_t place, uint32_t length) ABSL_LOCKS_EXCLUDED(lock_);
  void Drop(uint64_t place, uint32_t length) ABSL_LOCKS_EXCLUDED(lock_);

  // As BackingStore::Read; counts.
  absl::Status Read(absl::Span<const BackingStore::Transfer> transfers, BackingStore::IfAway if_away);

  // Written clusters of which little lives, so little that they fit into what is kept for cleaning and at least one is
  // gained; none if there are no such. They are not given back before they come to EndCleaning.
  Clusters BeginCleaning() ABSL_LOCKS_EXCLUDED(lock_);
  void EndCleaning(absl::Span<const uint32_t> clusters) ABSL_LOCKS_EXCLUDED(lock_);
  // It cannot be read, and is not begun with again before it is empty.
  void NeverClean(uint32_t cluster) ABSL_LOCKS_EXCLUDED(lock_);
  // Tells the store of the clusters that have fallen empty. May wait a little for it.
  void DiscardEmpty() ABSL_LOCKS_EXCLUDED(lock_);

  ByteCount metadata() const { return ByteCount::Bytes(clusters_.size() * sizeof(Cluster)); }
  // The counters and the clusters agree. Only while nothing else runs.
  absl::Status Check() ABSL_LOCKS_EXCLUDED(lock_);

  static uint32_t ClusterOf(uint64_t place) { return static_cast<uint32_t>(place / (kClusterBytes / kUnit)); }
  static uint64_t PlaceOf(uint32_t cluster, size_t offset) {
    return uint64_t{cluster} * (kClusterBytes / kUnit) + offset / kUnit;
  }
  static ByteCount OffsetOf(uint64_t place) { return ByteCount::Bytes(place * kUnit); }
  static constexpr size_t Padded(size_t length) { return (length + kUnit - 1) / kUnit * kUnit; }

 private:
  static constexpr size_t kKeptForCleaning = 4;  // clusters
  enum class State : uint8_t { kFree, kInHand, kWritten, kCleaning, kEmpty };
  struct Cluster {
    uint32_t live = 0;  // bytes, with padding
    State state = State::kFree;
    bool unreadable = false;
  };
  void ReleaseIfDeadLocked(uint32_t cluster) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  const std::unique_ptr<BackingStore> store_;
  const absl::Duration await_for_;
  SwapAreaCounters counters_;
  std::atomic<bool> failed_ = false;
  // Nanoseconds of the real clock:
  std::atomic<int64_t> let_be_until_ = 0;  // the next write is to wait: the store was full, or away
  std::atomic<int64_t> away_since_ = 0;    // 0: it is not

  mutable absl::Mutex lock_;
  std::vector<Cluster> clusters_;  // the states and counts are guarded by lock_; the vector's size is constant
  size_t free_ ABSL_GUARDED_BY(lock_);
  uint32_t next_ ABSL_GUARDED_BY(lock_) = 0;  // where the search for free clusters goes on
  std::vector<uint32_t> empty_ ABSL_GUARDED_BY(lock_);
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SWAP_AREA_H_
