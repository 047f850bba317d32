#include "base/daemon.h"

#include "base/thread.h"

namespace quire {

void Daemon::Start() {
  {
    absl::MutexLock lock(&lock_);
    stopping_ = false;
  }
  thread_ = std::thread([this] { Run(); });
}

void Daemon::Stop() {
  {
    absl::MutexLock lock(&lock_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Daemon::Wake() {
  // Asked for already, and not yet seen. While it works it must be asked again: it may just have found nothing to do.
  if (wake_.load(std::memory_order_relaxed)) return;
  absl::MutexLock lock(&lock_);
  wake_ = true;
}

void Daemon::Run() {
  SetThreadName(name_);
  for (;;) {
    {
      absl::MutexLock lock(&lock_);
      const auto woken = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return wake_ || stopping_; };
      lock_.Await(absl::Condition(&woken));
      if (stopping_) return;
      wake_ = false;
    }
    work_();
  }
}

bool Daemon::stopping() const {
  absl::MutexLock lock(&lock_);
  return stopping_;
}

void Daemon::Rest(absl::Duration time) {
  absl::MutexLock lock(&lock_);
  lock_.AwaitWithTimeout(absl::Condition(&stopping_), time);
}

absl::Duration Daemon::cpu_time() { return thread_.joinable() ? CpuTimeOf(thread_) : absl::ZeroDuration(); }

}  // namespace quire
