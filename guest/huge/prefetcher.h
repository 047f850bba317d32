// Brings the blocks ahead of a stream into memory, on threads of its own: populates and decompresses them, so that the
// fault that comes for one only has to map it.
//
//   fault ~> whole block N, in a stream ~> Request(N + 1) ~> thread: GuestMemory::Prefetch(N + 1 .. N + kDepth)
//                                                                |
//   fault ~> block N + 1 is there, out, like one that has its second chance <----+
//
// The work is a help that nobody waits for: what does not fit into the short queue is dropped, and a block that a fault
// has in hand is left to it.
#ifndef QUIRE_GUEST_HUGE_PREFETCHER_H_
#define QUIRE_GUEST_HUGE_PREFETCHER_H_

#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "guest/huge/prefetch_hooks.h"

namespace quire {

// Thread safe.
class Prefetcher final : public PrefetchHooks {
 public:
  Prefetcher() = default;
  ~Prefetcher() override { Stop(); }
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // The threads run between the two; without them requests are dropped.
  void Start();
  void Stop();

  void Request(GuestMemory& guest, BlockNumber next) override;
  void Forget(GuestMemory& guest) override;

  // CPU time of the threads, while they run.
  absl::Duration cpu_time();

 private:
  // Two: while one decompresses, a fault may wait for it, and its core is free.
  static constexpr int kThreads = 2;
  static constexpr uint64_t kDepth = 4;  // blocks ahead of the stream
  static constexpr size_t kLongestQueue = 8;

  struct Work {
    GuestMemory* guest;
    BlockNumber block;
    friend bool operator==(const Work&, const Work&) = default;
  };
  void Run();

  absl::Mutex lock_;
  std::deque<Work> queue_ ABSL_GUARDED_BY(lock_);
  absl::flat_hash_map<const GuestMemory*, int> in_hand_ ABSL_GUARDED_BY(lock_);
  bool running_ ABSL_GUARDED_BY(lock_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_HUGE_PREFETCHER_H_
