// What is done to a shared frame through all pages that share it, in the words of Linux's rmap: walk the chain, lock
// each page's block, confirm, act. Costs time in proportion to the pages that share the frame, and nothing for others.
//
// A shared frame is never written, so its pages need not change together: while some have gone over to a copy and
// others have not, all of them read the same.
#ifndef QUIRE_GUEST_MERGE_REVERSE_MAP_H_
#define QUIRE_GUEST_MERGE_REVERSE_MAP_H_

#include <functional>
#include <optional>
#include <vector>

#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/guest_memory.h"
#include "guest/merge/shared_frames.h"
#include "guest/swap/swap_space.h"

namespace quire {

struct SharedReclaimCounters {
  Counter looked;         // frames, again and again
  Counter unmapped;       // frames that were in use, and are watched now
  Counter evicted;        // frames
  Counter refused_store;  // no room in the store, or the content does not compress
};

// Thread safe. The caller holds no lock of guests' memory, and one that keeps guests from going away.
class ReverseMap {
 public:
  enum class Outcome : uint8_t {
    kDone,      // no page has the frame any more
    kDoneAsIs,  // the same; but the content takes a frame of the store, until it is written to a swap area
    kTryAgain,  // some have it still
    kRefused,   // nothing has changed
  };

  // `find` returns the guest with a number; null: it is going away.
  ReverseMap(SharedFrames& shared, SwapSpace& store, std::function<GuestMemory*(GuestId)> find)
      : shared_(shared), store_(store), find_(std::move(find)) {}

  // Whether one of its pages was used since this was asked last.
  bool TestAndClearReferenced(const SharedFrames::Hold& frame);
  // Nobody maps the frame any more, until the next fault.
  void UnmapAll(const SharedFrames::Hold& frame);
  // Stores the content once, for all pages together.
  Outcome Evict(const SharedFrames::Hold& frame, CompressionScratch& scratch);
  // All pages go over to frame `to`, which is allocated and the caller's, unless the outcome is kRefused.
  Outcome Migrate(const SharedFrames::Hold& frame, FrameNumber to);

  // The frame's memory has failed, and is not read any more. Its pages go over to another frame of the same content, if
  // there is one; otherwise they are lost. The frame is never used again.
  struct PoisonedPages {
    PageCount recovered;
    PageCount lost;
    std::vector<unsigned> guests;  // whose pages are lost: each once
  };
  PoisonedPages Poison(const SharedFrames::Hold& frame);

  // Second chance for shared frames: looks at so many of them, one after the other. What was used is unmapped, and what
  // has not been used since is evicted. Returns the number of frames freed.
  // Stops when it is `enough`.
  PageCount Reclaim(PageCount look, PageCount enough, CompressionScratch& scratch);

  const SharedReclaimCounters& counters() const { return counters_; }

 private:
  // A frame of the content of a poisoned one that another page may share. Nullopt: there is none, or no memory for one.
  std::optional<SharedFrames::Hold> CopyLike(const SharedFrames::Hold& poisoned);

  SharedFrames& shared_;
  SwapSpace& store_;
  const std::function<GuestMemory*(GuestId)> find_;
  SharedReclaimCounters counters_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_MERGE_REVERSE_MAP_H_
