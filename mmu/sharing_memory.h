// A guest's memory for tests of windows: each page is the guest's own, in its reservation, or shared, in a frame
// outside.
#ifndef QUIRE_MMU_SHARING_MEMORY_H_
#define QUIRE_MMU_SHARING_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/units.h"
#include "guest/fault_handler.h"
#include "guest/frames/pool_file.h"
#include "notifiers/mmu_notifier.h"
#include "notifiers/notifier_chain.h"

namespace quire {

// Thread safe: one lock, held across an invalidation as a block's lock is.
class SharingMemory final : public FaultHandler {
 public:
  // `file` outlives it. The guest is as large as `home`, whole blocks of the file.
  SharingMemory(PoolFile& file, FrameRange home) : file_(file), home_(home), shared_(home.size().in_pages()) {}

  // From now on the pages are shared, in the frames from `frame` on. Their content is copied there. Their own frames
  // become holes.
  void Share(GfnRange range, FrameNumber frame) {
    absl::MutexLock lock(&mu_);
    ScopedInvalidation invalidation(notifiers_, {.range = range, .event = InvalidateEvent::kProtectionPage});
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
      const FrameNumber to = frame + (gfn - range.begin());
      std::memcpy(HostAddress(to), HostAddress(Frame(gfn)), kPageSize);
      shared_[gfn.value()] = to;
    }
    while (!file_.Punch(FrameRange(HomeOf(range.begin()), range.size()))) {
    }
  }
  // Makes shared pages the guest's own again, as a write would.
  void Unshare(GfnRange range) {
    absl::MutexLock lock(&mu_);
    UnshareLocked(range);
  }
  // What a change to the pages that leaves them as they are looks like to a window.
  void Invalidate(GfnRange range) {
    absl::MutexLock lock(&mu_);
    ScopedInvalidation invalidation(notifiers_, {.range = range, .event = InvalidateEvent::kClear});
  }
  void Stop() {
    stopped_.store(true);
    notifiers_.Release();
  }

  // Called with each frame that a page has left, when no window shows it for that page any more.
  std::function<void(FrameNumber)> on_left;
  // How many pages of a run an answer covers at most, a power of two up to 512. A block of pages that are all the
  // guest's own is populated and mapped whole if 512.
  void set_around(PageCount around) { around_.store(around.in_pages()); }

  bool IsShared(Gfn gfn) const {
    absl::MutexLock lock(&mu_);
    return shared_[gfn.value()].has_value();
  }
  // Pages that were unshared.
  uint64_t unshared() const { return unshared_.load(); }
  FrameNumber HomeOf(Gfn gfn) const { return home_.begin() + (gfn - Gfn(0)); }

  // FaultHandler
  absl::StatusOr<Resolution> Resolve(Gfn gfn, Access access, Wait) override {
    absl::MutexLock lock(&mu_);
    if (stopped_.load()) return absl::CancelledError("stopped");
    if (gfn >= Gfn(0) + size()) return absl::OutOfRangeError("no such page");
    if (access == Access::kWrite && shared_[gfn.value()]) UnshareLocked(GfnRange(gfn, kOnePage));
    const GfnRange run = RunAround(gfn);
    if (!shared_[gfn.value()]) {
      for (Gfn page = run.begin(); page < run.end(); ++page) Populate(page);
      return Resolution{run, HomeOf(run.begin())};
    }
    return Resolution{run, Frame(run.begin()), Protection::kReadOnly};
  }
  std::byte* HostAddress(FrameNumber frame) override { return file_.SmallAlias(frame); }
  NotifierChain& notifiers() override { return notifiers_; }
  PageCount size() const override { return home_.size(); }

 private:
  FrameNumber Frame(Gfn gfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return shared_[gfn.value()].value_or(HomeOf(gfn));
  }
  void Populate(Gfn gfn) {
    (void)__atomic_fetch_add(reinterpret_cast<uint64_t*>(HostAddress(HomeOf(gfn))), 0, __ATOMIC_RELAXED);
  }

  void UnshareLocked(GfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
      if (shared_[gfn.value()]) std::memcpy(HostAddress(HomeOf(gfn)), HostAddress(Frame(gfn)), kPageSize);
    }
    std::vector<FrameNumber> left;
    {
      ScopedInvalidation invalidation(notifiers_, {.range = range, .event = InvalidateEvent::kProtectionPage});
      for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
        if (const auto frame = std::exchange(shared_[gfn.value()], std::nullopt)) left.push_back(*frame);
      }
    }
    unshared_ += left.size();
    for (FrameNumber frame : left) {
      if (on_left) on_left(frame);
    }
  }

  GfnRange RunAround(Gfn gfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const uint64_t around = around_.load();
    const GfnRange limits(Gfn(gfn.value() / around * around), PageCount(around));
    const auto belongs = [&](Gfn page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      if (shared_[page.value()].has_value() != shared_[gfn.value()].has_value()) return false;
      return page < gfn ? Frame(page) + (gfn - page) == Frame(gfn) : Frame(gfn) + (page - gfn) == Frame(page);
    };
    Gfn begin = gfn, end = gfn + kOnePage;
    while (begin > limits.begin() && belongs(begin - kOnePage)) begin = begin - kOnePage;
    while (end < limits.end() && belongs(end)) ++end;
    return GfnRange(begin, end);
  }

  PoolFile& file_;
  const FrameRange home_;
  NotifierChain notifiers_;
  mutable absl::Mutex mu_;
  std::vector<std::optional<FrameNumber>> shared_ ABSL_GUARDED_BY(mu_);
  std::atomic<bool> stopped_ = false;
  std::atomic<uint64_t> around_{1};
  std::atomic<uint64_t> unshared_{0};
};

}  // namespace quire

#endif  // QUIRE_MMU_SHARING_MEMORY_H_
