// The arena: frames of the pool that belong to no guest's reservation, handed out one by one, in runs of 2^order, or
// as ranges of any length.
//
// The arena is the frames [0, size) of the pool's file. Its blocks (512 frames) are absent, and cost nothing, or live:
// taken whole from the BlockSource, which charges them. Frames come, in this order, from
//   1. the list of the CPU the caller runs on (order 0 only),
//   2. the buddy allocator: the free frames of live blocks,
//   3. the lowest absent block, which becomes live,
//   4. the lists of the other CPUs, when the source refuses.
// A block that is wholly free again stays live for the next who needs one, but only a few are kept: whoever frees
// frames so that there are more than Options::free_block_limit gives the surplus back to the source. All of them go
// back when ReturnFreeBlocks asks for it.
//
// A range can be isolated, for somebody who empties it (compaction.h): what is free in it is set aside, and so is what
// falls free. That memory is not lost to others: it counts as free, and an allocation that finds no other ends the
// isolation and takes it.
//
// The contents of frames are not the arena's business: they are not zeroed, neither on allocation nor when freed.
//
// Locks, in the order in which they are taken; all are leaves for the caller, who may hold any other lock but the
// source's:
//   growth_mutex_   held while a block becomes live or absent, around the calls to the source (hundreds of
//                   microseconds). So blocks change state one at a time, and who finds no free frame while another
//                   thread is acquiring a block waits for that block instead of failing, or acquiring one more.
//   CpuList::mutex  one CPU's list. Contended only when a thread is moved to another CPU in between, or by a drain.
//   mutex_          the buddy allocator. Never held during a call to the source.
#ifndef QUIRE_GUEST_FRAMES_ARENA_H_
#define QUIRE_GUEST_FRAMES_ARENA_H_

#include <sched.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "guest/frames/block_source.h"
#include "guest/frames/buddy.h"
#include "guest/frames/frame_table.h"

namespace quire {

struct ArenaOptions {
  // Wholly free blocks that are kept live. 4 (8 MiB): each costs the source 200 to 400 us to populate again, and they
  // are the first to go when memory gets short.
  uint64_t free_block_limit = 4;
  // Per-CPU lists; 0: one for each CPU of the host.
  size_t cpu_lists = 0;
  // Tells which CPU the caller runs on. Replaced by tests.
  int (*current_cpu)() = &sched_getcpu;
};

// All of these are of live blocks. Frames in per-CPU lists (at most Arena::kCpuListCapacity a CPU) are not counted as
// free; isolated ones are.
struct ArenaCounts {
  PageCount live;
  PageCount free;
  PageCount free_in_whole_blocks;  // the part of `free` that could be given back at once
};

// Thread safe.
class Arena {
 public:
  // 64 frames, moved by 32 at a time: the lock of the buddy allocator is taken once in 32 calls, and a CPU keeps no
  // more than 256 KiB to itself.
  static constexpr size_t kCpuListCapacity = 64;
  static constexpr size_t kCpuListBatch = 32;

  // An arena of `size` frames (whole blocks), all absent. `source` must outlive it. Errors: see FrameTable::Create.
  static absl::StatusOr<std::unique_ptr<Arena>> Create(PageCount size, BlockSource* source, ArenaOptions options = {});
  // Everything must have been freed. Live blocks are not given back: the pool's file goes with its arena.
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // A run of 2^order frames, aligned to its size, order 0 to 9. Each is "busy" in frames(), for the caller to type.
  // Never reclaims; may wait for another thread's call to the source. Errors: Unavailable (no free run, and no
  // absent block or none that the source grants), or what else the source reports.
  absl::StatusOr<FrameNumber> Allocate(int order, Reserve reserve);
  // Gives back 2^order allocated frames, whatever their kind. As with BuddyAllocator::Free they may be a part of an
  // allocation, or several. May call the source to give back surplus blocks.
  void Free(FrameNumber frame, int order);

  // Adjacent frames as requested: the lowest that are free, or else the lowest that are free or in absent blocks, which
  // become live. For rare requests: searches the whole of `request.within`.
  // Errors: InvalidArgument (see ContiguousRequest), and those of Allocate.
  absl::StatusOr<FrameRange> AllocateContiguous(const ContiguousRequest& request, Reserve reserve);
  // Gives back any range of allocated frames.
  void FreeContiguous(FrameRange range);

  // Gives wholly free blocks back to the source until at least `wanted` pages are or there are no more. Returns how
  // many pages were.
  PageCount ReturnFreeBlocks(PageCount wanted);
  // Moves the frames in per-CPU lists to the buddy allocator, where they merge.
  void DrainCpuLists();

  // --- Isolation of one range at a time, by whoever sees to that. It may be ended by others: by an allocation of less
  // than a block that finds nothing else.

  // Sets aside what is free in `range`, and from now on what is freed there. Absent blocks in it stay absent.
  void Isolate(FrameRange range);
  bool IsIsolating() const { return isolation_.load(std::memory_order_relaxed) != 0; }
  // Frees what was set aside. True: until now that was the whole range.
  bool EndIsolation();
  // Ends isolation and makes all of its range allocated ("busy"); absent blocks in it become live. Errors: Unavailable
  // (it was ended by others, or something in it is still in use), and those of Allocate. Then what was set aside is
  // free again.
  absl::StatusOr<FrameRange> TakeIsolated(Reserve reserve);

  // Takes free frames of a live block, lowest first, at most as many as `frames` has room for. Returns how many. They
  // go back with FreeContiguous, which passes the per-CPU lists by.
  size_t TakeFreeFrames(FrameRange block, absl::Span<FrameNumber> frames);

  FrameTable& frames() { return frames_; }
  FrameRange range() const { return frames_.range(); }
  // The part of it, from the bottom, that holds all blocks that were ever live.
  FrameRange ever_live() const;

  // For watermark checks: two loads. `live` and `free` are of one moment, `free_in_whole_blocks` of about the same.
  ArenaCounts counts() const;
  // Free runs of each order, not merged with frames in per-CPU lists.
  std::array<uint64_t, BuddyAllocator::kOrders> free_runs() const;
  PageCount pages_in_cpu_lists() const;
  // Memory taken by the descriptors, at most.
  ByteCount metadata_size() const;

  // Stops all allocation while it verifies every descriptor and list. Internal error: the first thing found broken.
  absl::Status Check() const;

 private:
  // The last freed frame is the next allocated.
  struct alignas(64) CpuList {
    mutable absl::Mutex mutex;
    size_t size ABSL_GUARDED_BY(mutex) = 0;
    std::array<FrameNumber, kCpuListCapacity> frames ABSL_GUARDED_BY(mutex);
  };

  Arena(FrameTable frames, BlockSource* source, const ArenaOptions& options);

  CpuList& LocalList();
  std::optional<FrameNumber> AllocateFromCpuList();
  std::optional<FrameNumber> AllocateFromBuddy(int order);
  absl::StatusOr<FrameNumber> AllocateByGrowing(int order, Reserve reserve);
  void FreeToCpuList(FrameNumber frame);
  void Refill(CpuList& list) ABSL_EXCLUSIVE_LOCKS_REQUIRED(list.mutex);
  bool Spill(CpuList& list, size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(list.mutex);
  bool SpillAllLists();

  std::optional<FrameRange> LowestAbsentBlock() ABSL_EXCLUSIVE_LOCKS_REQUIRED(growth_mutex_);
  std::optional<FrameRange> TakeContiguousLocked(const ContiguousRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(growth_mutex_, mutex_);
  absl::Status AcquireAbsentBlocks(FrameRange range, Reserve reserve) ABSL_EXCLUSIVE_LOCKS_REQUIRED(growth_mutex_);
  void FreeLivePartsLocked(FrameRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(growth_mutex_, mutex_);
  bool ReturnOneBlock(uint64_t keep) ABSL_EXCLUSIVE_LOCKS_REQUIRED(growth_mutex_);
  void ReturnSurplusBlocks() ABSL_LOCKS_EXCLUDED(growth_mutex_, mutex_);
  bool PublishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  FrameRange isolation() const;
  bool IsIsolated(FrameNumber frame) const { return isolation().contains(frame); }
  void FreeLocked(FrameRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetAsideLocked(FrameRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsEmptyLocked(FrameRange range) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ReleaseIsolatedLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AbandonIsolation() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status FinishContiguous(FrameRange range, Reserve reserve) ABSL_EXCLUSIVE_LOCKS_REQUIRED(growth_mutex_);

  bool IsAbsent(FrameNumber frame) const { return frames_.Get(frame).is(FrameKind::kAbsent); }

  absl::Status CheckIsolatedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckListsLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckCountsLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  FrameTable frames_;
  BlockSource& source_;
  const ArenaOptions options_;
  const std::unique_ptr<CpuList[]> lists_;

  absl::Mutex growth_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  FrameNumber lowest_absent_ ABSL_GUARDED_BY(growth_mutex_);  // no block below it is absent

  mutable absl::Mutex mutex_;
  BuddyAllocator buddy_ ABSL_GUARDED_BY(mutex_);
  PageCount isolated_ ABSL_GUARDED_BY(mutex_);  // set aside
  // The range that is isolated: its first frame in the upper half, its length in the lower; 0: none. Changed under
  // mutex_. Who frees a frame to a per-CPU list reads it under that list's lock: Isolate() drains each list after it
  // has set this, so that a frame either was there in time to be drained, or is not put there.
  std::atomic<uint64_t> isolation_ = 0;

  // What counts() reads: written under mutex_. Live pages in the upper half, free pages in the lower.
  std::atomic<uint64_t> live_and_free_ = 0;
  std::atomic<uint64_t> free_in_whole_blocks_ = 0;
};

static_assert(FrameTable::kMaxSize.in_pages() <= UINT32_MAX, "two counts of pages fit one word");

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_ARENA_H_
