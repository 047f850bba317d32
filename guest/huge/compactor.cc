#include "guest/huge/compactor.h"

namespace quire {

Compactor::Compactor(Pool& pool, FrameMigrator& migrator, CompactionMode mode) : pool_(pool), mode_(mode) {
  if (mode == CompactionMode::kOff) return;
  pool.EnableCompaction(&migrator);
  pool.SetScatteredCallback([this] { Wake(); });
}

void Compactor::Start() {
  if (mode_ != CompactionMode::kOff) daemon_.Start();
}

void Compactor::RunDaemon() {
  counters_.daemon_wakes.Add();
  if (!LetPass()) CompactInBackground();
}

void Compactor::CompactInBackground() {
  for (;;) {
    if (!IsFragmented()) {
      counters_.refused_memory.Add();
      return;
    }
    // One at a time, so that neither a contiguous allocation nor Stop() waits for all of them.
    const uint64_t gained = pool_.compaction()->MakeFreeBlocks(1);
    Note(gained);
    if (gained == 0 || daemon_.stopping()) return;
  }
}

void Compactor::MakeBlock() {
  // No look at the index, which shuns what is cheapest: a few long runs count as lack of memory.
  if (pool_.arena().counts().free_in_whole_blocks > PageCount() || !pool_.HasRoomForBlock()) {
    counters_.refused_memory.Add();
    return;
  }
  if (LetPass()) return;
  counters_.direct.Add();
  Note(pool_.compaction()->MakeFreeBlocks(1));
}

bool Compactor::IsFragmented() const {
  FreeRuns runs = pool_.arena().free_runs();
  if (runs[kBlockOrder] >= kBlocksKept || !pool_.HasRoomForBlock()) return false;
  runs[kBlockOrder] = 0;
  return FragmentationIndex(runs, kBlockOrder) > kFragmentationThreshold;
}

bool Compactor::LetPass() {
  absl::MutexLock lock(&lock_);
  if (!deferral_.ShouldDefer()) return false;
  counters_.refused_deferred.Add();
  return true;
}

void Compactor::Note(uint64_t gained) {
  absl::MutexLock lock(&lock_);
  if (gained > 0) {
    deferral_.Succeeded();
  } else {
    deferral_.Failed();
  }
}

}  // namespace quire
