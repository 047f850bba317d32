// For tests in which threads of this process touch windows as vCPUs would.
#ifndef QUIRE_MMU_TOUCHED_WINDOWS_H_
#define QUIRE_MMU_TOUCHED_WINDOWS_H_

#include <sched.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>

#include "base/check.h"
#include "base/units.h"
#include "mmu/kvm_window.h"

namespace quire {

// While it lives, a touch of the windows that it was given is tried again when it is refused, for ever: their mappings
// may just be being replaced. One at a time.
class TouchedWindows {
 public:
  TouchedWindows() {
    struct sigaction action = {};
    action.sa_sigaction = Retry;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    QUIRE_CHECK(sigaction(SIGSEGV, &action, &before_) == 0);
  }
  ~TouchedWindows() {
    sigaction(SIGSEGV, &before_, nullptr);
    for (Range& range : ranges()) range.begin = range.end = 0;
  }
  TouchedWindows(const TouchedWindows&) = delete;
  TouchedWindows& operator=(const TouchedWindows&) = delete;

  void Add(const KvmWindow& window) {
    for (Range& range : ranges()) {
      if (range.end != 0) continue;
      range.begin = window.base().value();
      range.end = window.base().value() + window.size().in_bytes();
      return;
    }
    QUIRE_CHECK(false);
  }

 private:
  struct Range {
    std::atomic<uintptr_t> begin = 0, end = 0;
  };
  static std::array<Range, 16>& ranges() {
    static std::array<Range, 16> ranges;
    return ranges;
  }
  static void Retry(int, siginfo_t* info, void*) {
    const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    for (const Range& range : ranges()) {
      if (range.begin <= address && address < range.end) {
        sched_yield();
        return;
      }
    }
    signal(SIGSEGV, SIG_DFL);  // at the same instruction, again
  }

  struct sigaction before_ = {};
};

// Calls `call` with each line of /proc/self/smaps that describes a mapping of the window, its first line being its
// header.
inline void ForEachMappingLine(const KvmWindow& window,
                               const std::function<void(const std::string&, bool header)>& call) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    uintptr_t begin, end;
    char protection;
    const bool header = std::sscanf(line.c_str(), "%lx-%lx %c", &begin, &end, &protection) == 3;
    const uintptr_t base = window.base().value();
    if (header) inside = begin < base + window.size().in_bytes() && base < end;
    if (inside) call(line, header);
  }
}

inline int MappingsOf(const KvmWindow& window) {
  int mappings = 0;
  ForEachMappingLine(window, [&](const std::string&, bool header) { mappings += header ? 1 : 0; });
  return mappings;
}

// What the kernel copied for itself: nothing, ever.
inline uint64_t AnonymousKiBOf(const KvmWindow& window) {
  uint64_t sum = 0, kib;
  ForEachMappingLine(window, [&](const std::string& line, bool) {
    if (std::sscanf(line.c_str(), "Anonymous: %lu", &kib) == 1) sum += kib;
  });
  return sum;
}

}  // namespace quire

#endif  // QUIRE_MMU_TOUCHED_WINDOWS_H_
