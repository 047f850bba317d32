// A subscriber that writes down what it is told: everything on either side of the chain can be tested against it.
#ifndef QUIRE_NOTIFIERS_RECORDING_NOTIFIER_H_
#define QUIRE_NOTIFIERS_RECORDING_NOTIFIER_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/check.h"
#include "base/units.h"
#include "notifiers/mmu_notifier.h"

namespace quire {

// Thread safe. Checks by itself that each end has its start.
class RecordingNotifier final : public MmuNotifier {
 public:
  // Calls are written as "name: start [3, 5)".
  explicit RecordingNotifier(std::string name = "") : name_(std::move(name)) {}

  // Several recorders may write into one log, to see their order. `log` is not owned; only for single-threaded tests.
  void LogInto(std::vector<std::string>* log) {
    absl::MutexLock lock(&mu_);
    log_ = log;
  }
  // Refuse non-blockable starts from now on.
  void Refuse(bool refuse) {
    absl::MutexLock lock(&mu_);
    refuse_ = refuse;
  }
  // The guest is seen to access this page.
  void Touch(Gfn gfn) {
    absl::MutexLock lock(&mu_);
    young_.insert(gfn);
  }

  absl::Status InvalidateRangeStart(const Invalidation& invalidation) override {
    absl::MutexLock lock(&mu_);
    if (refuse_ && !invalidation.blockable) {
      Log("refuse", invalidation.range);
      return absl::UnavailableError("refused, as told");
    }
    Log("start", invalidation.range);
    ++starts_;
    active_.push_back(invalidation.range);
    return absl::OkStatus();
  }
  void InvalidateRangeEnd(const Invalidation& invalidation) override {
    absl::MutexLock lock(&mu_);
    Log("end", invalidation.range);
    for (auto it = active_.begin(); it != active_.end(); ++it) {
      if (*it == invalidation.range) return active_.erase(it), void();
    }
    QUIRE_CHECK(!"an end without its start");
  }
  bool ClearFlushYoung(GfnRange range) override { return ClearMarks("clear_flush_young", range); }
  bool ClearYoung(GfnRange range) override { return ClearMarks("clear_young", range); }
  bool TestYoung(Gfn gfn) override {
    absl::MutexLock lock(&mu_);
    Log("test_young", GfnRange(gfn, kOnePage));
    return young_.contains(gfn);
  }
  void Release() override {
    absl::MutexLock lock(&mu_);
    if (log_ != nullptr) log_->push_back(absl::StrCat(name_, ": release"));
    ++releases_;
  }

  // Whether a page is being invalidated now.
  bool IsInvalidating(Gfn gfn) const {
    absl::MutexLock lock(&mu_);
    for (const GfnRange& range : active_) {
      if (range.contains(gfn)) return true;
    }
    return false;
  }
  uint64_t starts() const {
    absl::MutexLock lock(&mu_);
    return starts_;
  }
  int releases() const {
    absl::MutexLock lock(&mu_);
    return releases_;
  }

 private:
  void Log(const char* what, GfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (log_ == nullptr) return;
    log_->push_back(absl::StrCat(name_, ": ", what, " [", range.begin().value(), ", ", range.end().value(), ")"));
  }
  bool ClearMarks(const char* what, GfnRange range) {
    absl::MutexLock lock(&mu_);
    Log(what, range);
    const auto begin = young_.lower_bound(range.begin());
    const auto end = young_.lower_bound(range.end());
    const bool young = begin != end;
    young_.erase(begin, end);
    return young;
  }

  const std::string name_;
  mutable absl::Mutex mu_;
  std::vector<std::string>* log_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool refuse_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<GfnRange> active_ ABSL_GUARDED_BY(mu_);
  std::set<Gfn> young_ ABSL_GUARDED_BY(mu_);
  uint64_t starts_ ABSL_GUARDED_BY(mu_) = 0;
  int releases_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace quire

#endif  // QUIRE_NOTIFIERS_RECORDING_NOTIFIER_H_
