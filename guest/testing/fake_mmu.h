// A secondary MMU reduced to its duty: it remembers what it was told it may map, and forgets what is invalidated.
#ifndef QUIRE_GUEST_TESTING_FAKE_MMU_H_
#define QUIRE_GUEST_TESTING_FAKE_MMU_H_

#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/units.h"
#include "guest/fault_handler.h"
#include "notifiers/invalidation_tracker.h"
#include "notifiers/mmu_notifier.h"

namespace quire {

// Thread safe, except where an address is handed out.
class FakeMmu final : public MmuNotifier {
 public:
  explicit FakeMmu(FaultHandler& memory) : memory_(memory) { memory_.notifiers().Register(this); }
  ~FakeMmu() override { memory_.notifiers().Unregister(this); }

  // Lets `use` have the page's bytes, faulted in if need be. No invalidation of the page ends meanwhile.
  absl::Status WithPage(Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) {
    for (;;) {
      const InvalidationTracker::Snapshot snapshot = tracker_.TakeSnapshot();
      {
        absl::MutexLock lock(&lock_);
        if (const auto known = frames_.find(gfn); known != frames_.end() && Allows(known->second.protection, access)) {
          young_.insert(gfn);
          use(memory_.HostAddress(known->second.frame));
          return absl::OkStatus();
        }
        ++faults_;
      }
      const absl::StatusOr<Resolution> resolution = memory_.Resolve(gfn, access, Wait::kMay);
      if (!resolution.ok()) return resolution.status();
      Install(snapshot, *resolution);
    }
  }

  // The page's bytes, faulted in if need be. They are the page's for as long as no other thread invalidates.
  absl::StatusOr<std::byte*> Page(Gfn gfn, Access access = Access::kWrite) {
    std::byte* page = nullptr;
    absl::Status status = WithPage(gfn, access, [&](std::byte* bytes) { page = bytes; });
    if (!status.ok()) return status;
    return page;
  }

  // Reads and writes the page's first word.
  uint64_t Read(Gfn gfn) {
    uint64_t word;
    std::memcpy(&word, Page(gfn, Access::kRead).value(), sizeof word);
    return word;
  }
  void Write(Gfn gfn, uint64_t word) { std::memcpy(Page(gfn).value(), &word, sizeof word); }

  // The frame that is mapped for the page now.
  std::optional<FrameNumber> Lookup(Gfn gfn) const {
    absl::MutexLock lock(&lock_);
    const auto known = frames_.find(gfn);
    if (known == frames_.end()) return std::nullopt;
    return known->second.frame;
  }
  bool maps(Gfn gfn) const { return Lookup(gfn).has_value(); }
  size_t mapped_pages() const {
    absl::MutexLock lock(&lock_);
    return frames_.size();
  }
  uint64_t faults() const {
    absl::MutexLock lock(&lock_);
    return faults_;
  }
  std::vector<Invalidation> invalidations() const {
    absl::MutexLock lock(&lock_);
    return invalidations_;
  }
  // Aging sees accesses only if this is set: KVM's window has no access bits either.
  void set_has_access_bits(bool has) {
    absl::MutexLock lock(&lock_);
    has_access_bits_ = has;
  }

  absl::Status InvalidateRangeStart(const Invalidation& invalidation) override {
    absl::MutexLock lock(&lock_);
    tracker_.Begin();
    tracker_.AddRange(invalidation.range);
    invalidations_.push_back(invalidation);
    frames_.erase(frames_.lower_bound(invalidation.range.begin()), frames_.lower_bound(invalidation.range.end()));
    return absl::OkStatus();
  }
  void InvalidateRangeEnd(const Invalidation&) override {
    absl::MutexLock lock(&lock_);
    tracker_.End();
  }
  bool ClearFlushYoung(GfnRange range) override {
    absl::MutexLock lock(&lock_);
    const auto first = young_.lower_bound(range.begin());
    const auto last = young_.lower_bound(range.end());
    const bool young = first != last;
    young_.erase(first, last);
    return young && has_access_bits_;
  }

 private:
  void Install(InvalidationTracker::Snapshot snapshot, const Resolution& resolution) {
    absl::MutexLock lock(&lock_);
    if (tracker_.MustRetry(snapshot, resolution.range)) return;
    for (Gfn page = resolution.range.begin(); page < resolution.range.end(); ++page) {
      frames_[page] = {.frame = resolution.FrameOf(page), .protection = resolution.protection};
    }
  }

  FaultHandler& memory_;
  mutable absl::Mutex lock_;
  InvalidationTracker tracker_;  // guarded by lock_, but for taking snapshots
  struct Leaf {
    FrameNumber frame;
    Protection protection = Protection::kReadOnly;
  };
  std::map<Gfn, Leaf> frames_ ABSL_GUARDED_BY(lock_);
  std::set<Gfn> young_ ABSL_GUARDED_BY(lock_);
  bool has_access_bits_ ABSL_GUARDED_BY(lock_) = false;
  uint64_t faults_ ABSL_GUARDED_BY(lock_) = 0;
  std::vector<Invalidation> invalidations_ ABSL_GUARDED_BY(lock_);
};

}  // namespace quire

#endif  // QUIRE_GUEST_TESTING_FAKE_MMU_H_
