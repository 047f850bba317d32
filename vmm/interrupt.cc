#include "vmm/interrupt.h"

#include <signal.h>
#include <time.h>

#include <atomic>
#include <cstdint>

namespace quire {
namespace {

constexpr int64_t kPatienceNs = 1'000'000'000;

std::atomic<int> caught = 0;
std::atomic<int64_t> caught_at_ns = 0;
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free,
              "a signal handler uses them");

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

void DieOf(int number) {
  signal(number, SIG_DFL);
  raise(number);
}

// Only async-signal-safe calls: signal-safety(7).
void OnSignal(int number) {
  int none = 0;
  if (caught.compare_exchange_strong(none, number, std::memory_order_relaxed)) {
    caught_at_ns.store(NowNs(), std::memory_order_relaxed);
    return;
  }
  const int64_t first = caught_at_ns.load(std::memory_order_relaxed);
  if (first != 0 && NowNs() - first >= kPatienceNs) DieOf(number);
}

}  // namespace

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int CaughtInterrupt() { return caught.load(std::memory_order_relaxed); }

void DieOfCaughtInterrupt() {
  if (const int number = CaughtInterrupt(); number != 0) DieOf(number);
}

}  // namespace quire
