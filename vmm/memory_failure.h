// What the host kernel says of memory that has failed: SIGBUS with BUS_MCEERR_AO (somebody should know) or
// BUS_MCEERR_AR (the thread has just run into it). See sigaction(2), and mm/memory-failure.c of the kernel.
//
//   address               AO                       AR
//   in a guest's window   the page is poisoned     the same; the vCPU tries again, and finds it lost
//   in the pool           the frame is poisoned    a sentence, and the process ends: the manager itself was reading or
//                                                  writing there, and has no way on
//   elsewhere             a sentence               a sentence, and the process ends
//
// Any other SIGBUS ends the process as ever.
#ifndef QUIRE_VMM_MEMORY_FAILURE_H_
#define QUIRE_VMM_MEMORY_FAILURE_H_

#include <csignal>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "base/daemon.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "guest/guest_memory.h"
#include "guest/memory_manager.h"

namespace quire {

// At most one at a time in a process.
class MemoryFailureWatch {
 public:
  // Addresses at which a guest's pages are mapped, from page 0 on.
  struct Window {
    Hva begin;
    GuestMemory* guest;
  };
  // Called on the watch's thread with what became of each failure.
  using Tell = std::function<void(const absl::StatusOr<MemoryManager::Poisoned>&)>;

  // Watches the pool and these windows; all outlive it. At most 1024 windows are watched.
  MemoryFailureWatch(MemoryManager& manager, const std::vector<Window>& windows, Tell tell);
  // SIGBUS is what it was before.
  ~MemoryFailureWatch();
  MemoryFailureWatch(const MemoryFailureWatch&) = delete;
  MemoryFailureWatch& operator=(const MemoryFailureWatch&) = delete;

 private:
  void Watch();
  void Handle(uintptr_t address);

  MemoryManager& manager_;
  const std::vector<Window> windows_;
  const Tell tell_;
  UniqueFd noticed_;  // an eventfd, written by the signal handler, and when the watch is to end
  struct sigaction before_ = {};
  Daemon daemon_{"quire-mce", [this] { Watch(); }};  // last: it uses the others
};

}  // namespace quire

#endif  // QUIRE_VMM_MEMORY_FAILURE_H_
