// The buddy allocator of the arena: which frames of the live blocks are free.
//
// A run of order n is 2^n frames, aligned to its size, within one block: orders 0 to 9. A free run's head says so in
// its descriptor, which also links it into the list of its order; its other frames are "busy" like allocated ones. Two
// free runs that are halves of the same larger run are always merged. So the frames themselves are never touched, and
// the allocator needs no memory of its own.
//
// Blocks are to empty out, because only a wholly free block can be given back. What does most for that is to break a
// larger run only when no smaller one fits. Besides, lists prefer low frames: a run that is lower than the first of its
// list goes to the front, any other to the back, which costs one comparison and sorts the list roughly; wholly free
// blocks are given back from the other end. (Last in, first out, and Linux's look at whether a run is about to
// merge, do neither clearly better nor worse in buddy_benchmark.)
//
// After Linux's mm/page_alloc.c; the constraints of contiguous allocation are those of FreeBSD's contigmalloc(9).
#ifndef QUIRE_GUEST_FRAMES_BUDDY_H_
#define QUIRE_GUEST_FRAMES_BUDDY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "guest/frames/frame_table.h"

namespace quire {

// Adjacent frames, any number of them, in a given place.
struct ContiguousRequest {
  PageCount count;                    // at least 1
  FrameRange within;                  // where all of them must lie
  PageCount alignment = kOnePage;     // of the first frame's number: a power of two
  PageCount boundary = PageCount(0);  // a power of two of which the frames must cross no multiple; 0: none

  // InvalidArgument, saying what is wrong, unless `count`, `alignment` and `boundary` are as above and some place
  // could satisfy them.
  absl::Status Validate() const;
};

// Whether absent blocks count as free in a search.
enum class AbsentBlocks : uint8_t { kSkip, kCountAsFree };

// Not thread safe. All frame arguments lie within the table.
class BuddyAllocator {
 public:
  static constexpr int kOrders = kBlockOrder + 1;

  // All blocks of `*frames`, which must outlive this, are absent.
  explicit BuddyAllocator(FrameTable* frames) : frames_(*frames), words_(frames->words()) {}
  BuddyAllocator(const BuddyAllocator&) = delete;
  BuddyAllocator& operator=(const BuddyAllocator&) = delete;

  // Makes a whole absent block one free run.
  void AddBlock(FrameRange block);
  // Makes a wholly free block absent and returns it; among several, a high one. Nullopt: no block is wholly free.
  std::optional<FrameRange> RemoveFreeBlock();

  // A run of 2^order frames, all busy, from the smallest run that fits. Nullopt: no free run is that large.
  std::optional<FrameNumber> Allocate(int order);
  // Gives back 2^order allocated frames, of whatever kind. They may be a part of what was allocated, or of several
  // allocations, as long as `frame` is aligned to the size. Freeing what is free, or absent, stops the program.
  void Free(FrameNumber frame, int order);

  // The lowest frames that satisfy the request, all busy; parts of runs that are not needed stay free. Works through
  // the descriptors of the range one by one: for rare requests. `request` must be valid.
  std::optional<FrameRange> AllocateContiguous(const ContiguousRequest& request);
  // Gives back any range of allocated frames.
  void FreeContiguous(FrameRange range);

  // The two steps of AllocateContiguous. Find: the lowest place that satisfies the request. Take: makes free frames
  // busy; each frame of `range` must be free.
  std::optional<FrameRange> FindContiguous(const ContiguousRequest& request, AbsentBlocks absent) const;
  void TakeFree(FrameRange range);

  // Takes whatever is free in `range`, and calls `taken` with each piece, all of it busy.
  void TakeAllFree(FrameRange range, absl::FunctionRef<void(FrameRange)> taken);
  // Takes frames of `block`, lowest first, until `frames` is full or no more are free. Returns how many.
  size_t TakeSomeFree(FrameRange block, absl::Span<FrameNumber> frames);

  PageCount live_pages() const { return live_; }
  PageCount free_pages() const { return free_; }
  // Free runs of exactly this order; those of order 9 are the wholly free blocks.
  uint64_t free_runs(int order) const { return lists_[order].runs; }
  PageCount pages_in_free_blocks() const { return PageCount::OfBlocks(free_runs(kBlockOrder)); }

  // All blocks up to the highest that was ever live.
  FrameRange ever_live() const { return FrameRange(FrameNumber(0), end_); }
  // Memory taken by the descriptors, at most: those of ever_live().
  ByteCount metadata_size() const { return ByteCount::Bytes(end_.value() * sizeof(FrameDescriptor)); }

  // Walks all lists and descriptors. Internal error: the first thing found broken.
  absl::Status Check() const;

 private:
  struct FreeList {
    FrameNumber first = FrameDescriptor::kNoFrame;
    FrameNumber last = FrameDescriptor::kNoFrame;
    uint64_t runs = 0;
  };
  // What Check finds in the blocks.
  struct Tally {
    std::array<uint64_t, kOrders> runs = {};
    PageCount live;
    PageCount free;
  };

  FrameDescriptor Get(FrameNumber frame) const {
    return FrameDescriptor::FromBits(std::atomic_ref<uint64_t>(words_[frame.value()]).load(std::memory_order_relaxed));
  }
  void Set(FrameNumber frame, FrameDescriptor descriptor) {
    std::atomic_ref<uint64_t>(words_[frame.value()]).store(descriptor.bits(), std::memory_order_relaxed);
  }
  bool IsFreeRun(FrameNumber frame, int order) const;
  bool IsInsideFreeRun(FrameNumber frame) const { return FreeRunCovering(frame).has_value(); }
  std::optional<FrameRange> FreeRunCovering(FrameNumber frame) const;
  PageCount AvailableAt(FrameNumber frame, AbsentBlocks absent) const;

  void MakeBusy(FrameRange run);
  void Link(FrameNumber frame, int order);
  void Unlink(FrameNumber frame);
  void SetNext(FreeList& list, FrameNumber frame, FrameNumber next);
  void SetPrevious(FreeList& list, FrameNumber frame, FrameNumber previous);
  void LinkPieces(FrameRange range);

  absl::Status CheckList(int order) const;
  absl::Status CheckBlock(FrameRange block, Tally& tally) const;
  absl::Status CheckFreeRun(FrameNumber frame, int order) const;
  absl::Status CheckAll(FrameRange range, FrameKind kind) const;

  FrameTable& frames_;
  uint64_t* const words_;
  std::array<FreeList, kOrders> lists_;
  PageCount live_;
  PageCount free_;
  FrameNumber end_;  // no block from here on was ever live
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_BUDDY_H_
