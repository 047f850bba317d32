// Makes room: second chance over blocks, by a daemon and by faulting vCPUs.
//
//            Enqueue            Age: taken out of its guest        Evict: what is still out is
//   faults ----------> [ in ] ------------------------> [ out ] --------------------------> stored, frames freed
//                        ^                                 |
//                        +---------------------------------+  what has been touched meanwhile stays
//
// Both queues are first in, first out. The queue of blocks that are out is kept at about an eighth of all frames (the
// share that gives pages the time to prove themselves warm), so a page's second chance lasts as long as it takes to age
// that much memory.
//
// A block in hand (popped, not on a queue) belongs to one thread, which alone ages or evicts it. The block's own lock
// is only tried.
#ifndef QUIRE_GUEST_RECLAIM_RECLAIMER_H_
#define QUIRE_GUEST_RECLAIM_RECLAIMER_H_

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/counters.h"
#include "base/daemon.h"
#include "base/units.h"
#include "guest/frames/pool.h"
#include "guest/guest_memory.h"
#include "guest/reclaim/block_queue.h"
#include "guest/reclaim/reclaim_hooks.h"

namespace quire {

struct ReclaimCounters {
  Counter aged_blocks;
  Counter aged_pages;     // taken out
  Counter evicted_pages;  // frames freed
  Counter daemon_wakes;
  Counter direct;  // faults that had to help
};

// Thread safe.
class Reclaimer final : public ReclaimHooks {
 public:
  // `out_of_memory` is called when everything has been tried and nothing was freed. It stops a guest and frees its
  // memory, or finds that there is room after all; it holds no lock that reclaim needs.
  Reclaimer(Pool& pool, std::function<void(GuestMemory&)> out_of_memory);

  // The daemon runs between the two. Reclaim by faults works without it.
  void Start() { daemon_.Start(); }
  void Stop() { daemon_.Stop(); }
  // Lets the daemon look at the watermarks. Cheap when it has been woken already.
  void Wake() { daemon_.Wake(); }

  void Enqueue(Block& block) override;
  absl::Status MakeRoom(GuestMemory& guest, PageCount wanted) override;
  void Forget(GuestMemory& guest) override;

  // Works until `target` frames are free or each queued block has been looked at twice. Returns the frames freed.
  PageCount Reclaim(PageCount target, EvictionScratch& scratch) { return ReclaimRound(target, scratch).freed; }

  const ReclaimCounters& counters() const { return counters_; }
  // CPU time of the daemon, while it runs.
  absl::Duration cpu_time() { return daemon_.cpu_time(); }

 private:
  // A step's worth: what a fault asks for at a time.
  static constexpr PageCount kBatch{64};

  enum class Step : uint8_t { kAge, kEvict, kNone };
  // What one step works on: blocks side by side to be aged together, or one to be evicted.
  using Blocks = absl::InlinedVector<Block*, GuestMemory::kMostAgedTogether>;
  Step TakeBlocks(Blocks& blocks);
  GuestMemory::Standing PutBack(Block& block, Step step);
  struct Round {
    PageCount freed;
    bool stirred = false;  // pages were taken out or are in use, or blocks were in other hands: another may do better
  };
  Round ReclaimRound(PageCount target, EvictionScratch& scratch);
  // `taken` blocks have left the queue `in_` to be aged.
  bool OutQueueIsShort(size_t taken) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The daemon's work.
  void ReclaimToHigh();

  Pool& pool_;
  const std::function<void(GuestMemory&)> out_of_memory_;

  mutable absl::Mutex lock_;
  BlockQueue in_ ABSL_GUARDED_BY(lock_);
  BlockQueue out_ ABSL_GUARDED_BY(lock_);
  absl::flat_hash_map<const GuestMemory*, int> in_hand_ ABSL_GUARDED_BY(lock_);
  ReclaimCounters counters_;
  EvictionScratch scratch_;                                      // the daemon's
  Daemon daemon_{"quire-reclaim", [this] { ReclaimToHigh(); }};  // last: it uses the others
};

}  // namespace quire

#endif  // QUIRE_GUEST_RECLAIM_RECLAIMER_H_
