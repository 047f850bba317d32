// Makes room: second chance over blocks, by threads in the background and by faulting vCPUs.
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
// The second queue is also the bounded queue between aging and compression: several threads take blocks from it, each
// compresses the one that it has, and whoever finds it short ages some more. Between the low and the high watermark one
// thread is at work; below the low one the others join it, since a vCPU that falls below min has to help, and waits.
//
// A guest that may hold only so many frames has queues of its own as well: its faults reclaim from those when the guest
// is at its limit, and from nobody else. Its blocks are on both.
//
// A block in hand (popped, not on a queue) belongs to one thread, which alone ages or evicts it. The block's own lock
// is only tried.
#ifndef QUIRE_GUEST_RECLAIM_RECLAIMER_H_
#define QUIRE_GUEST_RECLAIM_RECLAIMER_H_

#include <functional>
#include <memory>
#include <vector>

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
  Counter daemon_wakes;   // of all threads
  Counter direct;         // faults that had to help
  Counter at_limit;       // faults that had to reclaim from their own guest, which was at its limit
};

// Thread safe.
class Reclaimer final : public ReclaimHooks {
 public:
  // `out_of_memory` is called when everything has been tried and nothing was freed. It stops a guest and frees its
  // memory, or finds that there is room after all; it holds no lock that reclaim needs. `threads`: at work in the
  // background, at least one.
  Reclaimer(Pool& pool, std::function<void(GuestMemory&)> out_of_memory, int threads = 1);
  ~Reclaimer() override;

  // The threads run between the two. Reclaim by faults works without them.
  // `shrink` gives up to so many pages of memory back that nobody needs, and returns how many it was: it is asked
  // first, as Linux's shrinkers are. Takes no lock of guests' memory.
  void SetShrinker(std::function<PageCount(PageCount)> shrink) { shrink_ = std::move(shrink); }
  // `reclaim` gives frames back that several pages share, and returns how many. It is asked to look at some after each
  // batch of private pages, and at many (true) by who finds nothing else. Takes locks of guests' memory.
  void SetSharedReclaim(std::function<PageCount(bool)> reclaim) { reclaim_shared_ = std::move(reclaim); }

  // `squeeze` makes what is stored take less memory, by hard work, and returns whether it did: who finds nothing else
  // in a few rounds asks for it before he waits for others. Called without locks; may take the list of guests'.
  void SetSqueeze(std::function<bool()> squeeze) { squeeze_ = std::move(squeeze); }

  void Start();
  void Stop();
  // Lets them look at the watermarks. Cheap when they have been woken already.
  void Wake();

  void Enqueue(Block& block) override;
  absl::Status MakeRoom(GuestMemory& guest, PageCount wanted) override;
  void Track(GuestMemory& guest) override ABSL_LOCKS_EXCLUDED(lock_);
  bool ReclaimFrom(GuestMemory& guest, PageCount wanted) override;
  void Forget(GuestMemory& guest) override;

  // Works until `target` frames are free or each queued block has been looked at twice. Returns the frames freed.
  PageCount Reclaim(PageCount target, EvictionScratch& scratch) { return ReclaimRound(target, scratch).freed; }

  const ReclaimCounters& counters() const { return counters_; }
  // CPU time of the threads, while they run.
  absl::Duration cpu_time();

 private:
  // A step's worth: what a fault asks for at a time.
  static constexpr PageCount kBatch{64};

  struct Queues {
    explicit Queues(BlockLinks Block::*links) : in(links), out(links) {}
    // `taken` blocks have left the queue `in` to be aged.
    bool OutIsShort(size_t taken) const { return (out.size() + taken) * 8 < in.size() + out.size() + taken; }

    BlockQueue in;
    BlockQueue out;
  };
  using Which = BlockQueue Queues::*;
  // Those of a guest that is tracked; null for any other.
  Queues* OwnQueues(const GuestMemory& guest) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Push(Which which, Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Takes the oldest block off, and off the other queue that it is on.
  Block* Pop(Queues& from, Which which) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  enum class Step : uint8_t { kAge, kEvict, kNone };
  // What one step works on: blocks side by side to be aged together, or one to be evicted.
  using Blocks = absl::InlinedVector<Block*, GuestMemory::kMostAgedTogether>;
  // Null: of any guest.
  Step TakeBlocks(const GuestMemory* of, Blocks& blocks);
  GuestMemory::Standing PutBack(Block& block, Step step);
  struct Round {
    PageCount freed;
    bool others = false;   // blocks were in other hands at the end
    bool stirred = false;  // pages were taken out or are in use, or blocks were in other hands: another may do better
  };
  // `of`: reclaims from this guest, which is tracked; null: from any.
  Round ReclaimRound(PageCount target, EvictionScratch& scratch, const GuestMemory* of = nullptr);
  // A thread in the background.
  class Worker;
  void ReclaimTo(PageCount enough, EvictionScratch& scratch, Daemon& daemon);

  Pool& pool_;
  const std::function<void(GuestMemory&)> out_of_memory_;
  std::function<PageCount(PageCount)> shrink_;
  std::function<PageCount(bool)> reclaim_shared_;
  std::function<bool()> squeeze_;

  mutable absl::Mutex lock_;
  Queues all_ ABSL_GUARDED_BY(lock_){&Block::links};
  absl::flat_hash_map<const GuestMemory*, std::unique_ptr<Queues>> own_ ABSL_GUARDED_BY(lock_);
  absl::flat_hash_map<const GuestMemory*, int> in_hand_ ABSL_GUARDED_BY(lock_);
  ReclaimCounters counters_;
  std::vector<std::unique_ptr<Worker>> workers_;  // last: they use the others
};

class Reclaimer::Worker {
 public:
  // Works until `enough` pages are free.
  Worker(Reclaimer& reclaimer, PageCount enough)
      : enough_(enough),
        daemon_("quire-reclaim", [this, &reclaimer] { reclaimer.ReclaimTo(enough_, scratch_, daemon_); }) {}

  PageCount enough() const { return enough_; }
  Daemon& daemon() { return daemon_; }

 private:
  const PageCount enough_;
  EvictionScratch scratch_;
  Daemon daemon_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_RECLAIM_RECLAIMER_H_
