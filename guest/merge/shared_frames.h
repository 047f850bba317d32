// Frames that several pages share, and the reverse map from each to its pages.
//
// A shared frame lies in the arena and is never written: what it holds is for ever. Its pages form a chain, so that to
// find them all takes time proportional to their number; a page's entry names its link, so that to leave takes no
// search. A chain is bounded (KSM's max_page_sharing): when it is full, further pages with that content begin a second
// copy of the frame.
//
//     hash ---> [ frame, count ] ---> guest 0, page 17 <--> guest 3, page 99 <--> ...
//                   ^                        ^
//     descriptor ---+                        +--- the page's entry
//
// An exclusive page needs nothing of this: its frame's descriptor, or its place, says whose it is.
#ifndef QUIRE_GUEST_MERGE_SHARED_FRAMES_H_
#define QUIRE_GUEST_MERGE_SHARED_FRAMES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/frames/reserve.h"
#include "guest/merge/share_link.h"
#include "guest/merge/sharer_chains.h"

namespace quire {

// Thread safe. Its lock is taken under the lock of a block of guest memory, and before the arena's.
class SharedFrames {
 public:
  static constexpr uint32_t kMaxSharing = 256;

  explicit SharedFrames(Pool& pool, uint32_t max_sharing = kMaxSharing) : pool_(pool), max_sharing_(max_sharing) {}
  ~SharedFrames();
  SharedFrames(const SharedFrames&) = delete;
  SharedFrames& operator=(const SharedFrames&) = delete;

  // A frame of the arena, with the reserve that reclaim may use: to share a page frees another frame at once. Not
  // shared yet; the caller fills it and gives it to Publish. Errors: those of Arena::Allocate.
  absl::StatusOr<FrameNumber> Allocate() { return pool_.arena().Allocate(0, Reserve::kReclaim); }

  // Keeps a shared frame as long as it lives, though its last page may leave.
  class Hold {
   public:
    Hold(Hold&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), frame_(other.frame_) {}
    ~Hold() {
      if (owner_ != nullptr) owner_->Unhold(frame_);
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    Hold& operator=(Hold&&) = delete;

    FrameNumber frame() const { return frame_; }

   private:
    friend class SharedFrames;
    Hold(SharedFrames* owner, FrameNumber frame) : owner_(owner), frame_(frame) {}

    SharedFrames* owner_;
    FrameNumber frame_;
  };
  // `frame`, allocated and the caller's, is shared from now on, by this page; its content has this hash. The page's
  // block is locked until its entry says so, too: who finds the frame before that, and wants to give it up, waits.
  ShareLink Publish(FrameNumber frame, uint64_t hash, Sharer first) ABSL_LOCKS_EXCLUDED(lock_);
  // The same, by nobody yet: the frame may be given up again before one of those who are asked to has joined.
  Hold PublishEmpty(FrameNumber frame, uint64_t hash) ABSL_LOCKS_EXCLUDED(lock_);
  // The frame with content of this hash that one more page may share.
  std::optional<Hold> Find(uint64_t hash) ABSL_LOCKS_EXCLUDED(lock_);
  // The same for many hashes at once, in their order. A 0 is no hash.
  std::vector<std::optional<Hold>> FindAll(absl::Span<const uint64_t> hashes) ABSL_LOCKS_EXCLUDED(lock_);
  // Lets go of them all at once.
  void Release(std::vector<Hold> holds) ABSL_LOCKS_EXCLUDED(lock_);
  // That frame, if it is shared.
  std::optional<Hold> HoldFrame(FrameNumber frame) ABSL_LOCKS_EXCLUDED(lock_);

  // One more page shares the frame. Nullopt: the chain is full, or the frame is being given up.
  std::optional<ShareLink> Join(const Hold& hold, Sharer sharer) ABSL_LOCKS_EXCLUDED(lock_);
  // The page does not any more, and nobody maps the frame for it. The last one frees the frame.
  void Leave(FrameNumber frame, ShareLink link) ABSL_LOCKS_EXCLUDED(lock_);

  // --- The reverse map.

  using Sharers = absl::InlinedVector<Sharer, 8>;
  // Who shares the frame now; whoever acts on it confirms it under the lock of each page's block.
  Sharers SharersOf(const Hold& hold) const ABSL_LOCKS_EXCLUDED(lock_);
  // How many pages may share a frame.
  uint32_t max_sharing() const { return max_sharing_; }
  std::byte* AddressOf(FrameNumber frame) const { return pool_.Frame(frame); }
  const std::byte* AddressOf(const Hold& hold) const { return pool_.Frame(hold.frame()); }
  uint64_t HashOf(const Hold& hold) const ABSL_LOCKS_EXCLUDED(lock_);
  // Nobody finds the frame by its content any more: it is about to be given up.
  void Retire(const Hold& hold) ABSL_LOCKS_EXCLUDED(lock_);

  // Its memory has failed: it is found by nobody any more, and never used again once its last page has left.
  void Poison(const Hold& hold) ABSL_LOCKS_EXCLUDED(lock_);
  // Another frame of the same content, as far as its hash says, which has been neither retired nor poisoned: one that
  // another page may share, if there is one.
  std::optional<Hold> FindLike(const Hold& hold) ABSL_LOCKS_EXCLUDED(lock_);
  bool IsFull(const Hold& hold) const ABSL_LOCKS_EXCLUDED(lock_);

  // A page of it has been mapped. What WasUsed tells, and forgets.
  void NoteUsed(FrameNumber frame) ABSL_LOCKS_EXCLUDED(lock_);
  bool WasUsed(const Hold& hold) ABSL_LOCKS_EXCLUDED(lock_);

  // The next frame after the one that this gave last, round and round; none if there are none.
  std::optional<Hold> Next() ABSL_LOCKS_EXCLUDED(lock_);

  // Frames that are shared, and pages that share them.
  PageCount frames() const ABSL_LOCKS_EXCLUDED(lock_);
  PageCount sharers() const ABSL_LOCKS_EXCLUDED(lock_);
  ByteCount metadata() const ABSL_LOCKS_EXCLUDED(lock_);

  // Whether that page shares that frame by this link.
  bool Has(FrameNumber frame, ShareLink link, Sharer sharer) const ABSL_LOCKS_EXCLUDED(lock_);
  // Chains and counts agree. Only while nothing else runs.
  absl::Status Check() const ABSL_LOCKS_EXCLUDED(lock_);

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};

  struct Record {
    uint64_t hash = 0;
    FrameNumber frame = FrameDescriptor::kNoFrame;  // or the record is free
    SharerChains::Chain pages = {};
    uint32_t count = 0;  // of them
    uint32_t holds = 0;
    bool retired = false;
    bool poisoned = false;
    bool used = false;
  };
  Record& RecordOf(FrameNumber frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  const Record& RecordOf(FrameNumber frame) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The number of its record; kNone: there is none.
  uint32_t OfferedLocked(uint64_t hash) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  Record& PublishLocked(FrameNumber frame, uint64_t hash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  ShareLink JoinLocked(Record& record, Sharer sharer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  Hold HoldLocked(Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Unindex(Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The frame, if nobody has it any more: to be freed without the lock.
  std::optional<FrameNumber> ForgetIfUnused(Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Free(std::optional<FrameNumber> frame);
  void Unhold(FrameNumber frame) ABSL_LOCKS_EXCLUDED(lock_);
  std::optional<FrameNumber> UnholdLocked(FrameNumber frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  absl::Status CheckChain(const Record& record) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  Pool& pool_;
  const uint32_t max_sharing_;

  mutable absl::Mutex lock_;
  std::vector<Record> records_ ABSL_GUARDED_BY(lock_);  // by the number in the frame's descriptor
  std::vector<uint32_t> free_records_ ABSL_GUARDED_BY(lock_);
  SharerChains chains_ ABSL_GUARDED_BY(lock_);
  absl::flat_hash_map<uint64_t, uint32_t> by_hash_ ABSL_GUARDED_BY(lock_);  // the copy that is being filled
  uint32_t hand_ ABSL_GUARDED_BY(lock_) = 0;                                // for Next
};

}  // namespace quire

#endif  // QUIRE_GUEST_MERGE_SHARED_FRAMES_H_
