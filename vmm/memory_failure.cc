#include "vmm/memory_failure.h"

#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "guest/frames/pool.h"

namespace quire {
namespace {

constexpr size_t kMostWindows = 1024;
constexpr size_t kMostPending = 64;  // failures that have not been handled yet; of a page each

struct Range {
  uintptr_t begin = 0;
  uintptr_t end = 0;

  bool contains(uintptr_t address) const { return address >= begin && address < end; }
};

// What the signal handler uses. Set before the handler is installed and cleared after it is gone, but for `pending` and
// `eventfd`.
struct Watched {
  std::array<Range, 2> pool;
  std::array<Range, kMostWindows> windows;
  size_t window_count = 0;
  // Addresses in the order in which they came; 0: free.
  std::array<std::atomic<uintptr_t>, kMostPending> pending = {};
  std::atomic<int> eventfd = -1;
};
Watched watched;
static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<int>::is_always_lock_free,
              "a signal handler uses them");

// The functions below are called by the handler, and call what is async-signal-safe: signal-safety(7).

template <size_t n>
void Say(const char (&sentence)[n]) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, sentence, n - 1);
}

// Takes effect when the handler returns: until then the signal is blocked.
void DieOfBusError() {
  signal(SIGBUS, SIG_DFL);
  raise(SIGBUS);
}

void Notice(uintptr_t address) {
  for (std::atomic<uintptr_t>& place : watched.pending) {
    uintptr_t none = 0;
    if (place.load(std::memory_order_relaxed) == address) return;  // a vCPU that runs into it again and again
    if (!place.compare_exchange_strong(none, address, std::memory_order_release, std::memory_order_relaxed)) continue;
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(watched.eventfd.load(std::memory_order_relaxed), &one, sizeof one);
    return;
  }
  Say("quire: more memory failed at once than can be handled\n");
  DieOfBusError();
}

bool IsInWindow(uintptr_t address) {
  for (size_t i = 0; i < watched.window_count; ++i) {
    if (watched.windows[i].contains(address)) return true;
  }
  return false;
}

void OnBusError(int, siginfo_t* info, void*) {
  const int error = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const bool in_pool = watched.pool[0].contains(address) || watched.pool[1].contains(address);
  if (info->si_code != BUS_MCEERR_AO && info->si_code != BUS_MCEERR_AR) {
    DieOfBusError();
  } else if (IsInWindow(address) || (in_pool && info->si_code == BUS_MCEERR_AO)) {
    Notice(address);
  } else if (in_pool) {
    Say("quire: memory of the pool failed while the manager itself was using it\n");
    DieOfBusError();
  } else if (info->si_code == BUS_MCEERR_AR) {
    Say("quire: memory of the program itself failed while it was using it\n");
    DieOfBusError();
  } else {
    Say("quire: memory of the program itself has failed; it goes on until it needs it\n");
  }
  errno = error;
}

Range RangeAt(Hva begin, ByteCount size) { return {.begin = begin.value(), .end = (begin + size).value()}; }

FrameNumber FrameAt(const Range& pool, uintptr_t address) { return FrameNumber((address - pool.begin) / kPageSize); }

}  // namespace

MemoryFailureWatch::MemoryFailureWatch(MemoryManager& manager, const std::vector<Window>& windows, Tell tell)
    : manager_(manager), windows_(windows), tell_(std::move(tell)), noticed_(eventfd(0, EFD_CLOEXEC)) {
  QUIRE_CHECK(noticed_.valid() && watched.eventfd.load() < 0);
  const PoolFile& file = manager.pool().file();
  watched.pool = {RangeAt(Hva(file.SmallAlias(FrameNumber(0))), file.size().bytes()),
                  RangeAt(Hva(file.HugeAlias(FrameNumber(0))), file.size().bytes())};
  watched.window_count = std::min(windows_.size(), kMostWindows);
  for (size_t i = 0; i < watched.window_count; ++i) {
    watched.windows[i] = RangeAt(windows_[i].begin, windows_[i].guest->size().bytes());
  }
  watched.eventfd = noticed_.get();
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  QUIRE_CHECK(sigaction(SIGBUS, &action, &before_) == 0);
  daemon_.Start();
  daemon_.Wake();
}

MemoryFailureWatch::~MemoryFailureWatch() {
  sigaction(SIGBUS, &before_, nullptr);
  watched.window_count = 0;
  watched.pool = {};
  watched.eventfd = -1;
  eventfd_write(noticed_.get(), 1);
  daemon_.Stop();
}

void MemoryFailureWatch::Watch() {
  // Failures that nobody has run into yet are reported to a thread that asks for it, which this one does.
  prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
  while (watched.eventfd.load() >= 0) {
    eventfd_t count;
    if (eventfd_read(noticed_.get(), &count) != 0) continue;
    for (std::atomic<uintptr_t>& place : watched.pending) {
      const uintptr_t address = place.load(std::memory_order_acquire);
      if (address == 0) continue;
      if (watched.eventfd.load() >= 0) Handle(address);
      place.store(0, std::memory_order_release);
    }
  }
}

void MemoryFailureWatch::Handle(uintptr_t address) {
  for (size_t i = 0; i < watched.window_count; ++i) {
    if (!watched.windows[i].contains(address)) continue;
    const Gfn gfn((address - watched.windows[i].begin) / kPageSize);
    return tell_(manager_.PoisonPage(*windows_[i].guest, gfn));
  }
  const Range& pool = watched.pool[watched.pool[0].contains(address) ? 0 : 1];
  tell_(manager_.PoisonFrame(FrameAt(pool, address)));
}

}  // namespace quire
