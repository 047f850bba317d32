// When the arena is compacted: by a daemon that is woken when a whole block was refused, by the fault that was refused
// it, or never.
//
//   a block is refused:  free frames suffice, but are scattered
//     kBackground, kFault   the daemon makes blocks, as long as fragmentation is what is wrong, until the arena keeps
//                           as many free as it ever does
//     kFault                and the fault makes one for itself first, once
//     kOff                  nothing is ever moved
//
// How blocks are made is in guest/frames/compaction.h.
#ifndef QUIRE_GUEST_HUGE_COMPACTOR_H_
#define QUIRE_GUEST_HUGE_COMPACTOR_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/counters.h"
#include "base/daemon.h"
#include "guest/frames/fragmentation.h"
#include "guest/frames/pool.h"
#include "guest/huge/compaction_mode.h"
#include "guest/huge/deferral.h"

namespace quire {

struct CompactorCounters {
  Counter daemon_wakes;
  Counter direct;            // faults that compacted for themselves
  Counter refused_deferred;  // occasions that were let pass after failures
  Counter refused_memory;    // not fragmentation: memory is short, or there are free blocks again
};

// Thread safe.
class Compactor {
 public:
  // Enables the pool's compaction, unless `mode` is kOff. All arguments must outlive it.
  Compactor(Pool& pool, FrameMigrator& migrator, CompactionMode mode);

  // The daemon runs between the two. There is none if the mode is kOff.
  void Start();
  void Stop() { daemon_.Stop(); }
  // A whole block was refused: lets the daemon look. Cheap; may be called under a guest's block's lock.
  void Wake() { daemon_.Wake(); }

  // Whether a fault that is refused a block is to call MakeBlock.
  bool in_fault() const { return mode_ == CompactionMode::kFault; }
  // Makes one free block, if that is worth a try. Takes milliseconds; the caller holds no lock of guests' memory.
  void MakeBlock();

  const CompactorCounters& counters() const { return counters_; }
  // CPU time of the daemon, while it runs.
  absl::Duration cpu_time() { return daemon_.cpu_time(); }

 private:
  // Free blocks that the daemon works for: those that the arena keeps.
  static constexpr uint64_t kBlocksKept = ArenaOptions().free_block_limit;

  bool LetPass();
  void Note(uint64_t gained);
  // Whether there are fewer free blocks than are to be kept although memory suffices, and the fragmentation index of
  // the rest says that this is why.
  bool IsFragmented() const;
  void RunDaemon();
  void CompactInBackground();

  Pool& pool_;
  const CompactionMode mode_;

  absl::Mutex lock_;
  Deferral deferral_ ABSL_GUARDED_BY(lock_);
  CompactorCounters counters_;
  Daemon daemon_{"quire-compact", [this] { RunDaemon(); }};  // last: it uses the others
};

}  // namespace quire

#endif  // QUIRE_GUEST_HUGE_COMPACTOR_H_
