#include "mmu/shootdown.h"

#include <sched.h>

namespace quire {
namespace {

// A vCPU uses a page for some hundred nanoseconds. If it has not left after this many looks it has lost its processor,
// and the best help is to give it this one.
constexpr int kLooksBeforeYield = 200;

void Pause() { __builtin_ia32_pause(); }

}  // namespace

uint64_t ShootdownGate::Request(GfnRange range) {
  absl::MutexLock lock(&mu_);
  if (!range.empty() && !pending_all_) {
    if (pending_.size() < pending_.capacity()) {
      pending_.push_back(range);
    } else {
      pending_all_ = true;
    }
  }
  return requested_.fetch_add(1, std::memory_order_seq_cst) + 1;  // (C)
}

// The release pairs with the acquire in Await.
void ShootdownGate::Acknowledge(Tlb& tlb) {
  absl::MutexLock lock(&mu_);
  if (pending_all_) tlb.FlushAll();
  for (const GfnRange range : pending_) tlb.Flush(range);
  pending_.clear();
  pending_all_ = false;
  flushes_.Add();
  acknowledged_.store(requested_.load(std::memory_order_relaxed), std::memory_order_release);
}

void ShootdownGate::Await(uint64_t ticket) const {
  for (int looks = 0; in_guest_.load(std::memory_order_acquire); ++looks) {
    if (acknowledged_.load(std::memory_order_acquire) >= ticket) return;
    if (looks < kLooksBeforeYield) {
      Pause();
    } else {
      sched_yield();
    }
  }
}

}  // namespace quire
