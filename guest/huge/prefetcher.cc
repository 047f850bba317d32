#include "guest/huge/prefetcher.h"

#include <sys/resource.h>

#include <algorithm>

#include "base/thread.h"
#include "guest/guest_memory.h"

namespace quire {
namespace {

constexpr int kNice = 10;

}  // namespace

void Prefetcher::Start() {
  {
    absl::MutexLock lock(&lock_);
    running_ = true;
  }
  for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Run(); });
}

void Prefetcher::Stop() {
  {
    absl::MutexLock lock(&lock_);
    running_ = false;
    queue_.clear();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Prefetcher::Request(GuestMemory& guest, BlockNumber next) {
  absl::MutexLock lock(&lock_);
  if (!running_) return;
  for (uint64_t ahead = 0; ahead < kDepth && queue_.size() < kLongestQueue; ++ahead) {
    const Work work{&guest, BlockNumber(next.value() + ahead)};
    if (FirstGfn(work.block) >= Gfn(0) + guest.size()) return;
    if (std::find(queue_.begin(), queue_.end(), work) == queue_.end()) queue_.push_back(work);
  }
}

void Prefetcher::Run() {
  SetThreadName("quire-prefetch");
  // A fault that has found its block wants the core at once. (Linux: a thread by itself is meant, not the process.)
  setpriority(PRIO_PROCESS, 0, kNice);
  const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return !running_ || !queue_.empty(); };
  absl::MutexLock lock(&lock_);
  for (;;) {
    lock_.Await(absl::Condition(&wanted));
    if (!running_) return;
    const Work work = queue_.front();
    queue_.pop_front();
    ++in_hand_[work.guest];
    lock_.Unlock();
    work.guest->Prefetch(work.block);
    lock_.Lock();
    const auto hand = in_hand_.find(work.guest);
    if (--hand->second == 0) in_hand_.erase(hand);
  }
}

void Prefetcher::Forget(GuestMemory& guest) {
  absl::MutexLock lock(&lock_);
  queue_.erase(std::remove_if(queue_.begin(), queue_.end(), [&](const Work& work) { return work.guest == &guest; }),
               queue_.end());
  const auto none_in_hand = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return !in_hand_.contains(&guest); };
  lock_.Await(absl::Condition(&none_in_hand));
}

absl::Duration Prefetcher::cpu_time() {
  absl::Duration sum;
  for (std::thread& thread : threads_) sum += CpuTimeOf(thread);
  return sum;
}

}  // namespace quire
