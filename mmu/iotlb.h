// The translations that a guest's devices have at hand: the third kind of secondary MMU, beside KVM's window and the
// software EPT. Devices read and write their rings through it, a few bytes at a time, in the same few pages.
//
// It is the subscriber of a range (notifiers/interval_notifier.h), which is all of the guest's memory: one
// subscription, for the notifier looks at each of them in every invalidation. What is cached lies in a small table
// here.
//
//   access: lock -- cached? -- copy -- unlock
//                     | no
//                   unlock -- ReadBegin -- Resolve -- lock -- cache it -- ReadRetry? -- copy -- unlock
//
//   Invalidate: SetSequence -- filter: nothing of these blocks is cached? -- done
//                                 | some may be
//                              lock -- drop -- unlock
//
// A frame's bytes are touched only under the lock, through a translation that is in the table, so an invalidation that
// has the lock, or finds the filter empty for its range, knows that nobody uses the old frame any more.
//
// The filter spares reclaim the lock, which a device may hold for as long as a page takes to be copied. What the lock
// would order is ordered by the filter's own changes, each of which is an atomic read-modify-write: see Invalidate.
//
// Locks: mu_ is a leaf. An invalidation takes it under a block's lock, so nothing is resolved while it is held.
#ifndef QUIRE_MMU_IOTLB_H_
#define QUIRE_MMU_IOTLB_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/fault_handler.h"
#include "notifiers/interval_notifier.h"
#include "notifiers/mmu_notifier.h"

namespace quire {

struct IotlbCounters {
  Counter hits;
  Counter misses;
  Counter retries;        // misses resolved again because an invalidation came in between
  Counter dropped;        // translations, by invalidations
  Counter displaced;      // translations, by others
  Counter invalidations;  // all of them, and ...
  Counter filtered;       // ... those that the filter answered
};

// Thread safe; one for all devices of a guest, or one for each.
class Iotlb final : private IntervalSubscription {
 public:
  // Of pages in a row each, up to 2 MiB: a virtqueue needs three at most, and a buffer one for a moment.
  static constexpr size_t kTranslations = 64;

  // Subscribes to `memory`, which outlives it.
  explicit Iotlb(FaultHandler& memory);
  ~Iotlb() override;

  // Copies bytes of the guest's memory, from byte `from` or to byte `to` of it on, page by page: see CopyFromGuest and
  // CopyToGuest. The host's side must not lie in any guest's window. May wait as faults do with Wait::kMay; the caller
  // holds no lock that comes above a block's. Errors: those of FaultHandler::Resolve; what comes before the page that
  // could not be had has been copied.
  absl::Status Read(ByteCount from, absl::Span<std::byte> to) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Write(ByteCount to, absl::Span<const std::byte> from) ABSL_LOCKS_EXCLUDED(mu_);

  // The frame that is cached for the page now, for tests and inspection.
  std::optional<FrameNumber> Lookup(Gfn gfn) const ABSL_LOCKS_EXCLUDED(mu_);
  const IotlbCounters& counters() const { return counters_; }

 private:
  struct Translation {
    Resolution pages;  // an empty range: none
    uint64_t last_use = 0;
  };

  // Calls use(page) with the bytes of the guest's page, under the lock.
  absl::Status WithPage(Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Miss(Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) ABSL_LOCKS_EXCLUDED(mu_);

  const Translation* FindLocked(Gfn gfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::byte* UseLocked(Gfn gfn, Access access) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // In place of those that overlap it, or of the one that was used the longest time ago.
  void InsertLocked(const Resolution& resolution) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint64_t DropLocked(GfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void UpdateFilterLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // IntervalSubscription
  bool Invalidate(const Invalidation& invalidation, uint64_t sequence) override ABSL_LOCKS_EXCLUDED(mu_);

  FaultHandler& memory_;
  IntervalNotifier notifier_;
  IotlbCounters counters_;

  mutable absl::Mutex mu_;  // held while bytes are copied, a page at most; never across a wait
  std::array<Translation, kTranslations> table_ ABSL_GUARDED_BY(mu_);
  std::array<uint8_t, kTranslations> hints_ ABSL_GUARDED_BY(mu_) = {};  // by page modulo: where it was found last
  uint64_t uses_ ABSL_GUARDED_BY(mu_) = 0;
  bool released_ ABSL_GUARDED_BY(mu_) = false;
  // Bit b % 64 is set while a page of block b is cached. Changed under mu_, read without it.
  std::atomic<uint64_t> filter_ = 0;
};

}  // namespace quire

#endif  // QUIRE_MMU_IOTLB_H_
