// Compaction: makes whole free blocks, or one range of free frames, out of free frames that are scattered, by moving
// pages.
//
// After Linux's mm/compaction.c there are two scanners. The migration scanner empties blocks, the free scanner finds
// the frames to move to, they come from opposite ends, and a pass is over when they meet. What differs is the order in
// which they go. Linux goes by address. Here each pass first counts what is used in every block (an 8-byte descriptor a
// frame, a millisecond for some 4 GiB of memory) and puts the blocks in order:
//
//      fewest pages used, then highest                                      most pages used; blocks with wired frames
//     | migration scanner -->                                                                     <-- free scanner |
//
// so that each block gained costs the fewest moves that it can, and what is moved fills blocks that are nearly full, or
// that can never be emptied. Of blocks alike the higher is emptied, because the arena grows at its lowest absent block
// and hands out low frames first: it is the high blocks that can stay empty and go back to the budget. Full blocks are
// not looked at, blocks with wired frames are never emptied.
//
// A block is emptied in isolation (Arena::Isolate): what is free in it, and what falls free while its pages are moved,
// is set aside, so that nobody takes it again. Others lose nothing by that: what is set aside counts as free, and an
// allocation that finds nothing else takes it and ends the attempt. Blocks are emptied into frames that are free
// already: the arena does not grow for that, and only what the free scanner has in hand, at most 32 frames, is out of
// reach of others.
//
// Pages are moved in batches, in the order of their owners, so that those that lie side by side in a guest are
// invalidated together (Linux's migrate_pages_batch).
//
// A contiguous range is had the same way (Linux's alloc_contig_range, FreeBSD's contigmalloc): of all places that
// satisfy the request, the one with the fewest pages to move and nothing that cannot be. What is moved may go anywhere,
// and what has nowhere to go is evicted: a guest's page is compressed, where it lies. Such a range takes guests' whole
// blocks apart too, which a block that is made free never does: nothing would be won.
//
// Lock: lock_, one compaction at a time. It is taken before any lock of a page's owner (guest memory, the compressed
// store) and before the arena's.
#ifndef QUIRE_GUEST_FRAMES_COMPACTION_H_
#define QUIRE_GUEST_FRAMES_COMPACTION_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/arena.h"
#include "guest/frames/buddy.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/reserve.h"

namespace quire {

// Whoever knows the owners of frames.
class FrameMigrator {
 public:
  enum class Answer : uint8_t {
    kMoved,   // `to` has the content and a descriptor of its owner; `from` has been freed
    kBusy,    // not now: it is in use, or its owner gave it up meanwhile
    kCannot,  // not as long as its owner keeps it as it is
  };

  // Whether pages of guests' whole blocks are moved too, which takes their blocks apart.
  enum class WholeBlocks : uint8_t { kKeep, kTakeApart };

  // The content of frame `from` of the arena goes to frame `to`. `owner` is the descriptor that was read of `from`,
  // owned, zone or shared; it may be out of date, and is confirmed under the lock of the owner that it names. `to` is
  // allocated
  // ("busy") and the caller's, unless the answer is kMoved.
  struct Move {
    FrameNumber from;
    FrameDescriptor owner;
    FrameNumber to = {};
    Answer answer = Answer::kBusy;
  };

  virtual ~FrameMigrator() = default;

  // Makes the moves, in ascending order of their owners' descriptors, and answers each. Never waits for who may want
  // memory. The caller holds Compaction's lock and no other.
  virtual void Migrate(absl::Span<Move> moves, WholeBlocks whole) = 0;

  // Stores the content of a frame away, so that it is free: `owner` as for a move. kMoved: done. Waits for nobody and
  // takes memory with Reserve::kReclaim.
  virtual Answer Evict(FrameNumber frame, FrameDescriptor owner) = 0;
};

struct CompactionCounters {
  Counter blocks;          // made free
  Counter ranges;          // allocated
  Counter migrated_pages;  // for either, the attempts that failed included
  Counter evicted_pages;   // for ranges: they had nowhere to go
  // Why a block or a range that was begun was given up.
  Counter refused_busy;     // a page stayed busy for three rounds
  Counter refused_cannot;   // a page cannot be moved
  Counter refused_wired;    // a page is wired where it is, since the range was chosen
  Counter refused_no_room;  // no free frame to move to
  Counter refused_wanted;   // somebody needed the memory more
};

// Thread safe.
class Compaction {
 public:
  // Both must outlive it.
  Compaction(Arena* arena, FrameMigrator* migrator) : arena_(*arena), migrator_(*migrator) {}
  Compaction(const Compaction&) = delete;
  Compaction& operator=(const Compaction&) = delete;

  // Makes up to `wanted` blocks of the arena wholly free. They are left to the arena, which keeps a few and gives the
  // rest back to the budget. Returns how many there were; fewer if the scanners met, kFailures blocks could not be
  // emptied, or somebody needed the memory.
  uint64_t MakeFreeBlocks(uint64_t wanted) ABSL_LOCKS_EXCLUDED(lock_);

  // As Arena::AllocateContiguous, but moves what is in the way, or evicts it where there is no room for it. For rare
  // requests: looks at each frame of `request.within`, and takes a byte of memory for it. Errors: those of
  // Arena::AllocateContiguous; Unavailable also if there is no place without a frame that cannot be moved.
  absl::StatusOr<FrameRange> AllocateContiguous(const ContiguousRequest& request, Reserve reserve)
      ABSL_LOCKS_EXCLUDED(lock_);

  const CompactionCounters& counters() const { return counters_; }

  // Blocks come in order of their cost: what follows four failures would cost more, and is no likelier to succeed.
  static constexpr uint64_t kFailures = 4;

 private:
  // What a look at the descriptors says of a block; as out of date as they are.
  struct BlockUse {
    FrameNumber begin;
    uint16_t used = 0;
    bool movable = true;
  };
  // Where pages can go.
  class Targets;
  class FreeScanner;
  class AnyFreeFrame;
  // The places for a contiguous request.
  class Places;

  enum class Sweep : uint8_t { kEmpty, kBusy, kFailed };
  // What may be done to empty a range.
  struct Means {
    Targets& targets;
    FrameMigrator::WholeBlocks whole;
    bool evict;
  };
  // Moves that are made together. As many as the free scanner may have in hand.
  static constexpr size_t kBatch = 32;
  using Batch = absl::InlinedVector<FrameMigrator::Move, kBatch>;

  std::vector<BlockUse> Survey() const;
  BlockUse LookAt(FrameNumber head) const;

  // Moves all pages out of a range that is isolated. False: one, `stuck`, could not be.
  bool Evacuate(FrameRange range, const Means& means, FrameNumber& stuck) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Each page once.
  Sweep SweepOnce(FrameRange range, const Means& means, FrameNumber& stuck) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // One page of it: adds it to the batch, or has it evicted.
  Sweep SweepPage(FrameNumber frame, FrameDescriptor owner, const Means& means, Batch& batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Makes the moves of the batch, and empties it.
  Sweep MakeMoves(Batch& batch, const Means& means, FrameNumber& stuck) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  static Sweep SweepOf(FrameMigrator::Answer answer);

  PageCount ToMigrate(FrameRange place) const;
  absl::StatusOr<FrameRange> EmptyCheapest(const ContiguousRequest& request, Reserve reserve, AbsentBlocks absent)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  Arena& arena_;
  FrameMigrator& migrator_;
  absl::Mutex lock_;
  CompactionCounters counters_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_COMPACTION_H_
